"""Opening models: a pipeline by a bundled name, a directory, or a hub id, on a device and in a number format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.models.weights import DESCRIPTIONS, bundled
from bowerbird.systems import hub, model_index, registry

if TYPE_CHECKING:
    from bowerbird.systems.base import System

DTYPES = ("float32", "bfloat16", "float16")


def open_pipeline(model: str | Path) -> System:
    """The pipeline that `model` (bundled name, directory in diffusers layout, hub id) says it is, in float32.

    Raises: BowerbirdError when there is none, it is of a class bowerbird does not generate with, or cannot be opened.
    """
    name, place = str(model), bundled(str(model)) or Path(model)
    if not place.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise BowerbirdError(
                f"model {name!r}: not bundled ({', '.join(bundled_pipelines())}), no such directory, and no hub id"
            )
        place = hub.fetch(name, {})
    pipe: System = registry.pipeline_class(model_index.read_index(place)["_class_name"]).from_pretrained(place)
    return pipe


def load_pipeline(model: str | Path, device: str = "cpu", dtype: str = "float32") -> System:
    """`open_pipeline` on a torch `device`, computing in `dtype`.

    Raises: BowerbirdError as that does, and when `dtype` is none of `DTYPES`.
    """
    import torch

    if dtype not in DTYPES:
        raise BowerbirdError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    pipe = open_pipeline(model).to(device)
    return pipe if dtype == "float32" else pipe.to(getattr(torch, dtype))


def bundled_pipelines() -> list[str]:
    """The bundled models that generate pictures."""
    return [name for name in DESCRIPTIONS if ((bundled(name) or Path()) / "model_index.json").is_file()]
