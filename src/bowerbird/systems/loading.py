"""Opening models: a pipeline by a bundled name, a directory, or a hub id, on a device and in a number format."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.models.weights import DESCRIPTIONS, bundled
from bowerbird.systems import hub, model_index, registry
from bowerbird.systems.reference_settings import Adapter

if TYPE_CHECKING:
    from bowerbird.systems.base import System


DTYPES = ("float32", "bfloat16", "float16", "int8")
"""What is computed in; int8: weights alone, in models that draw tokens one by one, on a CPU."""


def open_pipeline(model: str | Path, dtype: str = "float32", adapter: Adapter | None = None) -> System:
    """The pipeline that `model` (bundled name, directory in diffusers layout, hub id) says it is, in float32; one that
    is too large for that in `dtype`. `adapter`: what a base model takes references by.

    Raises: BowerbirdError when there is none, it is of a class bowerbird does not generate with, or cannot be opened.
    """
    name, place = str(model), bundled(str(model)) or Path(model)
    if not place.is_dir():
        hub.check_no_file(name)
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise BowerbirdError(
                f"model {name!r}: not bundled ({', '.join(bundled_pipelines())}), no such directory, and no hub id"
            )
        index = hub.fetch_index(name, {})
        place = hub.fetch(name, {}, patterns=registry.pipeline_class(index["_class_name"]).hub_patterns(index))
    kind = registry.pipeline_class(model_index.read_index(place)["_class_name"])
    options: dict[str, Any] = {}
    if adapter is not None:
        if not kind.loads_in_dtype and not (kind.takes_loras and adapter == Adapter(loras=adapter.loras)):
            raise BowerbirdError(
                f"model {name!r} is {with_article(kind.__name__)}, which reads neighbors by itself; `adapter` and"
                " `lora` are for base models of diffusers (`lora` also for models that edit by instruction), see"
                " docs/your-model.md"
            )
        said = {field.name: getattr(adapter, field.name) for field in fields(adapter)}
        options = {key: value for key, value in said.items() if value}
    if kind.loads_in_dtype:
        import torch

        options["dtype"] = getattr(torch, dtype)
    pipe: System = kind.from_pretrained(place, **options)
    return pipe


def load_pipeline(
    model: str | Path, device: str = "cpu", dtype: str = "float32", adapter: Adapter | None = None
) -> System:
    """`open_pipeline` on a torch `device`, computing in `dtype`.

    Raises: BowerbirdError as that does, when `dtype` is none of `DTYPES`, and for int8 where the model draws no tokens
    or is on a GPU.
    """
    import torch

    if dtype not in DTYPES:
        raise BowerbirdError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if dtype == "int8":
        return _packed(open_pipeline(model, adapter=adapter), model, device)
    pipe = open_pipeline(model, dtype, adapter)
    pipe = pipe if adapter is not None and adapter.offload else pipe.to(device)
    return pipe if pipe.loads_in_dtype or dtype == "float32" else pipe.to(getattr(torch, dtype))


def _packed(pipe: System, model: str | Path, device: str) -> System:
    if not pipe.capabilities.samples_tokens or not device.startswith("cpu"):
        why = f"{type(pipe).__name__} is none" if device.startswith("cpu") else f"the device is {device}"
        raise BowerbirdError(
            f"model {str(model)!r}: dtype int8 is for models that draw tokens one by one, on the CPU; {why}; take"
            f" {', '.join(DTYPES[:-1])}"
        )
    pipe.pack_weights()
    return pipe


def bundled_pipelines() -> list[str]:
    """The bundled models that generate pictures."""
    return [name for name in DESCRIPTIONS if ((bundled(name) or Path()) / "model_index.json").is_file()]
