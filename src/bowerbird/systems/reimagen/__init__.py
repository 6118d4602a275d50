"""Re-Imagen (arXiv 2209.14491)."""

from bowerbird.systems.registry import Registration

REGISTRATION = Registration(
    pipelines={"ReImagenPipeline": "bowerbird.systems.reimagen.pipeline:ReImagenPipeline"},
    objectives={
        "reimagen": ("bowerbird.systems.reimagen.config:ReImagenConfig", "bowerbird.systems.reimagen.objective:build")
    },
)
