"""KNN-Diffusion (arXiv 2204.02849): continuous latents, and discrete tokens."""

from bowerbird.systems.registry import Registration

REGISTRATION = Registration(
    pipelines={
        "KNNDiffusionPipeline": "bowerbird.systems.knn.pipeline:KNNDiffusionPipeline",
        "KNNDiscretePipeline": "bowerbird.systems.knn.discrete_pipeline:KNNDiscretePipeline",
    },
    objectives={
        "knn": ("bowerbird.systems.knn.objective:KNNConfig", "bowerbird.systems.knn.objective:build"),
        "knn-discrete": (
            "bowerbird.systems.knn.discrete_objective:KNNDiscreteConfig",
            "bowerbird.systems.knn.discrete_objective:build",
        ),
    },
)
