"""Text-to-image pipelines of diffusers, grounded in a knowledge base by an adapter or by their own list of pictures."""

from bowerbird.systems.grounded.bases import BASES
from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines=dict.fromkeys(BASES, "bowerbird.systems.grounded.pipeline:ReferencePipeline"),
    objectives={
        "ip-adapter": ObjectiveEntry(
            config="bowerbird.systems.grounded.adapter_training.config:IPAdapterConfig",
            build="bowerbird.systems.grounded.adapter_training.objective:build",
            frozen="bowerbird.systems.grounded.adapter_training.objective:frozen",
            preview="bowerbird.systems.grounded.adapter_training.preview:sheet",
        )
    },
)
