"""KNN-Diffusion (arXiv 2204.02849): continuous latents, and discrete tokens."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={
        "KNNDiffusionPipeline": "bowerbird.systems.knn.pipeline:KNNDiffusionPipeline",
        "KNNDiscretePipeline": "bowerbird.systems.knn.discrete_pipeline:KNNDiscretePipeline",
    },
    objectives={
        "knn": ObjectiveEntry(
            config="bowerbird.systems.knn.objective:KNNConfig",
            build="bowerbird.systems.knn.objective:build",
            frozen="bowerbird.systems.knn.objective:frozen",
            preview="bowerbird.systems.knn.preview:sheet",
        ),
        "knn-discrete": ObjectiveEntry(
            config="bowerbird.systems.knn.discrete_objective:KNNDiscreteConfig",
            build="bowerbird.systems.knn.discrete_objective:build",
            frozen="bowerbird.systems.knn.discrete_objective:frozen",
            preview="bowerbird.systems.knn.preview:discrete_sheet",
        ),
    },
)
