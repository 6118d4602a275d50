"""RDM, retrieval-augmented diffusion (arXiv 2204.11824)."""

from bowerbird.systems.registry import Registration

REGISTRATION = Registration(
    pipelines={"RDMPipeline": "bowerbird.systems.rdm.pipeline:RDMPipeline"},
    objectives={
        "rdm": ("bowerbird.systems.rdm.objective:RDMConfig", "bowerbird.systems.rdm.objective:build"),
        "rdm-few-steps": (
            "bowerbird.systems.rdm.distillation:FewStepConfig",
            "bowerbird.systems.rdm.distillation:build",
        ),
    },
)
