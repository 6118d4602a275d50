"""RA-CM3: documents of other things in a style have the thing that is asked for generated in it."""

from __future__ import annotations

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation.claims import style
from bowerbird.evaluation.claims.benchmark import neighbors_at
from bowerbird.evaluation.claims.claim import Claim, Finding
from bowerbird.evaluation.claims.experiment import Experiment, open_pipeline

MODEL = "tiny-racm3"
K = 2


def measure(experiment: Experiment) -> Finding:
    """The same names and seeds after documents of each style."""
    model = experiment.model(MODEL)
    scale = open_pipeline(model, "cpu").defaults.guidance_scale
    return style.exchange(experiment, model, demonstrations, guidance_scale=scale)


def demonstrations(drawings: Pictures, name: str, entities: list[str]) -> Neighbors:
    """For the name of each entity the next K entities' drawings in the style called `name`, with their names."""
    at = {str(row["hexcode"]): i for i, row in enumerate(drawings.metadata) if row["style"] == name}
    rows = np.array([at[entity] for entity in entities])
    others = np.stack([np.roll(rows, -ahead) for ahead in range(1, K + 1)], 1)
    return neighbors_at(drawings, [drawings.captions[row] for row in rows], others)


CLAIM = Claim(
    name="racm3-style",
    says="Documents that show other things in a style have what is asked for generated in that style.",
    source="RA-CM3, arXiv 2211.12561, section 4.5 (controlled generation by demonstration)",
    varies="the style of two documents of other things; names, seeds and network (tiny-racm3) alike",
    measures="share of pictures that an independent style judge assigns to the documents' style",
    measure=measure,
    models=(MODEL,),
)
