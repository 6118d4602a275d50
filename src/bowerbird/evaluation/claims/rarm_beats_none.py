"""RARM: at equal size, steps and tokens, the network that sees neighbors generates nearer to the data than the one that
sees none."""

from __future__ import annotations

from bowerbird.evaluation.claims import rarm_networks, retrieval_beats_none
from bowerbird.evaluation.claims.claim import Claim, Finding
from bowerbird.evaluation.claims.experiment import Experiment

NOTE = (
    "Both networks read the tokens of one tokenizer; pictures are generated token by token without guidance. With"
    " retrieval, half of the training pictures are mirrored together with their neighbors; without, none is, as in"
    " retrieval-beats-none."
)


def measure(experiment: Experiment) -> Finding:
    """Fréchet distance to held-out pictures, unconditionally: neighbors of x ~ p_D against the null."""
    return retrieval_beats_none.compare(experiment, rarm_networks.model, NOTE)


CLAIM = Claim(
    name="rarm-beats-none",
    says="A retrieval-augmented autoregressive model beats the same model without retrieval, at equal size and steps.",
    source="RDM, arXiv 2204.11824, section 4.2 and appendix (RARM)",
    varies="neighbors of the training picture against the trained null; network, tokenizer, steps and seeds alike",
    measures="Fréchet distance of unconditional samples (x̃ ~ p_D) to held-out pictures, on our judge's features",
    measure=measure,
)
