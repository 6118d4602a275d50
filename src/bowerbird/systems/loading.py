"""Opening models: a pipeline by a bundled name, a directory, or a hub id, on a device and in a number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bowerbird.systems import registry

if TYPE_CHECKING:
    from bowerbird.systems.knn.discrete_pipeline import KNNDiscretePipeline
    from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline
    from bowerbird.systems.rdm.pipeline import RDMPipeline
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline

    Pipeline: TypeAlias = RDMPipeline | ReImagenPipeline | KNNDiffusionPipeline | KNNDiscretePipeline


def open_pipeline(model: str) -> Pipeline:
    """The pipeline that MODEL (bundled name, directory in diffusers layout, hub id) says it is.

    Raises: BowerbirdError when it is of a kind bowerbird does not generate with; OSError when it cannot be read.
    """
    from diffusers import DiffusionPipeline

    from bowerbird.models.weights import bundled

    kind = DiffusionPipeline.load_config(str(bundled(model) or model)).get("_class_name")
    pipe: Pipeline = registry.pipeline_class(str(kind)).from_pretrained(model)
    return pipe
