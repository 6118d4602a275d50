"""RDM, retrieval-augmented diffusion (arXiv 2204.11824)."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={"RDMPipeline": "bowerbird.systems.rdm.pipeline:RDMPipeline"},
    objectives={
        "rdm": ObjectiveEntry(
            config="bowerbird.systems.rdm.objective:RDMConfig",
            build="bowerbird.systems.rdm.objective:build",
            frozen="bowerbird.systems.rdm.objective:frozen",
            preview="bowerbird.systems.rdm.preview:sheet",
        ),
        "rdm-few-steps": ObjectiveEntry(
            config="bowerbird.systems.rdm.distillation:FewStepConfig",
            build="bowerbird.systems.rdm.distillation:build",
            frozen="bowerbird.systems.rdm.distillation:frozen",
            preview="bowerbird.systems.rdm.preview:few_step_sheet",
        ),
    },
)
