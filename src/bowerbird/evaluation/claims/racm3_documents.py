"""RA-CM3: trained with up to two documents, it gains by more than it was trained with."""

from __future__ import annotations

from functools import partial
from typing import Any

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Experiment
from bowerbird.evaluation.claims.racm3_networks import Measured, by_seed, open_trained
from bowerbird.evaluation.metrics.intervals import over_seeds

COUNTS = (0, 1, 2, 3, 4)
TRAINED = 2
"""Documents that training shows at most."""


def measure(experiment: Experiment) -> Finding:
    """Bits of held-out pictures and captions, by the number of documents before them."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for domain in experiment.domains:
        measured = Measured(domain)
        by_text, by_picture = measured.documents(COUNTS[-1]), measured.documents(COUNTS[-1], by_picture=True)
        codes: dict[int, list[float]] = {count: [] for count in COUNTS}
        words: dict[int, list[float]] = {count: [] for count in COUNTS}
        for seed in experiment.settings.seeds:
            pipe = open_trained(domain, seed)
            for count in COUNTS:
                shown = [hits.select(range(count)) if count else None for hits in (by_text, by_picture)]
                codes[count].append(measured.code_bits(pipe, shown[0]))
                words[count].append(measured.word_bits(pipe, shown[1]))
        for what, found, needed in (("a code", codes, True), ("a word", words, False)):
            for more, fewer in ((TRAINED, 0), (COUNTS[-1], 0), (COUNTS[-1], TRAINED)):
                less = over_seeds([a - b for a, b in zip(found[fewer], found[more], strict=True)])
                label = f"{domain.name}: bits {what}, K = {fewer} − K = {more}"
                effects.append(Effect(label, less, needed and fewer == 0))
            value = {count: by_seed(bits) for count, bits in found.items()}
            values |= {f"{domain.name}, {what}, K = {count}": each for count, each in value.items()}
            lines[f"{domain.name}, {what}"] = [
                (count, each["mean"], each["low"], each["high"]) for count, each in value.items()
            ]
    title = "Documents in the prompt"
    return Finding(effects, values, plot=partial(plots.curves, lines=lines, title=title, x="K", y="bits"))


CLAIM = Claim(
    name="racm3-documents",
    says="A decoder trained with up to two documents gains by two, and by four, over none.",
    source="RA-CM3, arXiv 2211.12561, section 4.4",
    varies="documents in the prompt, 0 to 4; network and pictures alike",
    measures="exact bits a code of held-out pictures, and a word of their captions",
    measure=measure,
)
