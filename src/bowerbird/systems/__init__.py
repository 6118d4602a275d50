"""One paper a file: its configuration and objective, and beside it its pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.systems.rdm_pipeline import RDMPipeline
    from bowerbird.systems.reimagen_pipeline import ReImagenPipeline

    Pipeline: TypeAlias = RDMPipeline | ReImagenPipeline


def open_pipeline(model: str) -> Pipeline:
    """The pipeline that MODEL (bundled name, directory in diffusers layout, hub id) says it is.

    Raises: BowerbirdError when it is of a kind bowerbird does not paint with; OSError when it cannot be read.
    """
    from diffusers import DiffusionPipeline

    from bowerbird.systems.rdm_pipeline import RDMPipeline
    from bowerbird.systems.reimagen_pipeline import ReImagenPipeline
    from bowerbird.weights import bundled

    kinds: dict[str, type[RDMPipeline] | type[ReImagenPipeline]] = {"RDMPipeline": RDMPipeline, "ReImagenPipeline": ReImagenPipeline}
    kind = DiffusionPipeline.load_config(str(bundled(model) or model)).get("_class_name")
    if kind not in kinds:
        raise BowerbirdError(f"model {model!r} is a {kind}; bowerbird paints with {', '.join(kinds)}")
    return kinds[kind].from_pretrained(model)
