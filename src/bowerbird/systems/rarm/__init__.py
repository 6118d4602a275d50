"""RARM, the retrieval-augmented autoregressive model (arXiv 2204.11824): RDM's condition over a picture's tokens."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={"RARMPipeline": "bowerbird.systems.rarm.pipeline:RARMPipeline"},
    objectives={
        "rarm": ObjectiveEntry(
            config="bowerbird.systems.rarm.objective:RARMConfig",
            build="bowerbird.systems.rarm.objective:build",
            frozen="bowerbird.systems.rarm.objective:frozen",
            preview="bowerbird.systems.rarm.preview:sheet",
        ),
    },
)
