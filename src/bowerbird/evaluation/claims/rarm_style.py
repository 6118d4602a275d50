"""RARM: exchanging the database changes the style, without training."""

from __future__ import annotations

from bowerbird.evaluation.claims import style
from bowerbird.evaluation.claims.benchmark import encoder_of
from bowerbird.evaluation.claims.claim import Claim, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.rarm_rare import GUIDANCE, MODEL


def measure(experiment: Experiment) -> Finding:
    """From each entity's picture in the database's style."""
    model = experiment.model(MODEL)
    return style.exchange(experiment, model, style.of_entity(encoder_of(model)), guidance_scale=GUIDANCE)


CLAIM = Claim(
    name="rarm-style",
    says="Exchanging the database changes the style of what an autoregressive model generates.",
    source="RDM, arXiv 2204.11824, section 4.3, for its autoregressive half",
    varies="the drawing style of the database; entities, seeds and network (tiny-rarm) alike",
    measures="share of pictures that an independent style judge assigns to the database's style",
    measure=measure,
    models=(MODEL,),
)
