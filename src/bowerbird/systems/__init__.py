"""One paper a file: its configuration and objective, and beside it its pipeline."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeAlias

from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.systems.knn_discrete_pipeline import KNNDiscretePipeline
    from bowerbird.systems.knn_pipeline import KNNDiffusionPipeline
    from bowerbird.systems.rdm_pipeline import RDMPipeline
    from bowerbird.systems.reimagen_pipeline import ReImagenPipeline

    Pipeline: TypeAlias = RDMPipeline | ReImagenPipeline | KNNDiffusionPipeline | KNNDiscretePipeline

FILES = {
    "RDMPipeline": "rdm_pipeline",
    "ReImagenPipeline": "reimagen_pipeline",
    "KNNDiffusionPipeline": "knn_pipeline",
    "KNNDiscretePipeline": "knn_discrete_pipeline",
}


def open_pipeline(model: str) -> Pipeline:
    """The pipeline that MODEL (bundled name, directory in diffusers layout, hub id) says it is.

    Raises: BowerbirdError when it is of a kind bowerbird does not paint with; OSError when it cannot be read.
    """
    from diffusers import DiffusionPipeline

    from bowerbird.weights import bundled

    kind = DiffusionPipeline.load_config(str(bundled(model) or model)).get("_class_name")
    if kind not in FILES:
        raise BowerbirdError(f"model {model!r} is a {kind}; bowerbird paints with {', '.join(FILES)}")
    pipe: Pipeline = getattr(importlib.import_module(f"bowerbird.systems.{FILES[kind]}"), kind).from_pretrained(model)
    return pipe
