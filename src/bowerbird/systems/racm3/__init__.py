"""RA-CM3 (arXiv 2211.12561): retrieved documents of picture and caption as examples in the prompt of one decoder."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    pipelines={"RACM3Pipeline": "bowerbird.systems.racm3.pipeline:RACM3Pipeline"},
    objectives={
        "racm3": ObjectiveEntry(
            config="bowerbird.systems.racm3.objective:RACM3Config",
            build="bowerbird.systems.racm3.objective:build",
            frozen="bowerbird.systems.racm3.objective:frozen",
            preview="bowerbird.systems.racm3.preview:sheet",
        ),
    },
)
