"""Opening models: a pipeline by a bundled name, a directory, or a hub id, on a device and in a number format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.models.weights import DESCRIPTIONS, bundled
from bowerbird.systems import registry

if TYPE_CHECKING:
    from bowerbird.systems.base import System

DTYPES = ("float32", "bfloat16", "float16")


def open_pipeline(model: str | Path) -> System:
    """The pipeline that `model` (bundled name, directory in diffusers layout, hub id) says it is, in float32.

    Raises: BowerbirdError when it is of a class bowerbird does not generate with; OSError when it cannot be read.
    """
    from diffusers import DiffusionPipeline

    kind = DiffusionPipeline.load_config(str(bundled(str(model)) or model)).get("_class_name")
    pipe: System = registry.pipeline_class(str(kind)).from_pretrained(model)
    return pipe


def load_pipeline(model: str | Path, device: str = "cpu", dtype: str = "float32") -> System:
    """`open_pipeline` on a torch `device`, computing in `dtype`, with every failure said in one line.

    Raises: BowerbirdError when there is no such model, it cannot be opened, or `dtype` is none of `DTYPES`.
    """
    import torch

    if dtype not in DTYPES:
        raise BowerbirdError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    name, place = str(model), Path(model)
    if bundled(name) is None:
        if place.is_dir() and not (place / "model_index.json").is_file():
            raise BowerbirdError(
                f"model {name!r}: the directory has no model_index.json; give one that bowerbird train wrote (…/model)"
            )
        if not place.is_dir() and (name.count("/") != 1 or name.startswith((".", "/"))):
            raise BowerbirdError(
                f"model {name!r}: not bundled ({', '.join(bundled_pipelines())}), no such directory, and no hub id"
            )
    try:
        pipe = open_pipeline(model).to(device)
        return pipe if dtype == "float32" else pipe.to(getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise BowerbirdError(f"model {name!r} cannot be opened: {str(error).strip().splitlines()[0]}") from error


def bundled_pipelines() -> list[str]:
    """The bundled models that generate pictures."""
    return [name for name in DESCRIPTIONS if ((bundled(name) or Path()) / "model_index.json").is_file()]
