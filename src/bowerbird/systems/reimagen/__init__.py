"""Re-Imagen (arXiv 2209.14491)."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={"ReImagenPipeline": "bowerbird.systems.reimagen.pipeline:ReImagenPipeline"},
    objectives={
        "reimagen": ObjectiveEntry(
            config="bowerbird.systems.reimagen.config:ReImagenConfig",
            build="bowerbird.systems.reimagen.objective:build",
            frozen="bowerbird.systems.reimagen.objective:frozen",
            preview="bowerbird.systems.reimagen.preview:sheet",
        )
    },
)
