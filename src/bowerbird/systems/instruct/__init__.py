"""Editing by instruction: InstructPix2Pix (arXiv 2211.09800), and with retrieval, so that an instruction may name what
the model never saw."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={
        "StableDiffusionInstructPix2PixPipeline": "bowerbird.systems.instruct.pipeline:InstructPipeline",
        "StableDiffusionXLInstructPix2PixPipeline": "bowerbird.systems.instruct.pipeline:InstructPipeline",
    },
    objectives={
        "instruct": ObjectiveEntry(
            config="bowerbird.systems.instruct.config:InstructConfig",
            build="bowerbird.systems.instruct.build:build",
            frozen="bowerbird.systems.instruct.build:frozen",
            preview="bowerbird.systems.instruct.preview:sheet",
        )
    },
)
