"""DreamBooth (arXiv 2208.12242): a subject of one's own, by a few pictures, in a Stable Diffusion; whole or by a
LoRA."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    objectives={
        "dreambooth": ObjectiveEntry(
            config="bowerbird.systems.dreambooth.config:DreamBoothConfig",
            build="bowerbird.systems.dreambooth.objective:build",
            frozen="bowerbird.systems.dreambooth.objective:frozen",
            preview="bowerbird.systems.dreambooth.preview:sheet",
        )
    },
)
