"""One folder a paper: its configuration and objective, and its pipeline."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeAlias

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.systems.knn.discrete_pipeline import KNNDiscretePipeline
    from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline
    from bowerbird.systems.rdm.pipeline import RDMPipeline
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline

    Pipeline: TypeAlias = RDMPipeline | ReImagenPipeline | KNNDiffusionPipeline | KNNDiscretePipeline

FILES = {
    "RDMPipeline": "rdm.pipeline",
    "ReImagenPipeline": "reimagen.pipeline",
    "KNNDiffusionPipeline": "knn.pipeline",
    "KNNDiscretePipeline": "knn.discrete_pipeline",
}


def open_pipeline(model: str) -> Pipeline:
    """The pipeline that MODEL (bundled name, directory in diffusers layout, hub id) says it is.

    Raises: BowerbirdError when it is of a kind bowerbird does not generate with; OSError when it cannot be read.
    """
    from diffusers import DiffusionPipeline

    from bowerbird.models.weights import bundled

    kind = DiffusionPipeline.load_config(str(bundled(model) or model)).get("_class_name")
    if kind not in FILES:
        raise BowerbirdError(f"model {model!r} is a {kind}; bowerbird generates with {', '.join(FILES)}")
    pipe: Pipeline = getattr(importlib.import_module(f"bowerbird.systems.{FILES[kind]}"), kind).from_pretrained(model)
    return pipe
