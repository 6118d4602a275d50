"""RA-CM3: with retrieved documents in the prompt, held-out pictures and captions are more probable than to the same
decoder without."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bowerbird.core.types import Neighbors
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Domain, Experiment
from bowerbird.evaluation.claims.racm3_networks import Measured, by_seed, open_trained
from bowerbird.evaluation.metrics.intervals import over_seeds

K = 2
WITH, OTHERS, WITHOUT, NEVER = "its documents", "another's documents", "no documents", "trained without"
ITSELF = "itself as its document"
"""No claim: near 0 bits where a network has learned to read a document at all."""
CODES, WORDS = "a code of the picture", "a word of the caption"
NOTE = (
    "Pictures are measured given their captions and the documents that the caption retrieves; captions given the"
    " pictures and the documents that the picture retrieves. All networks read the codes of one tokenizer and have as"
    " many steps of as many sequences; the one without documents reads shorter ones."
)


def measure(experiment: Experiment) -> Finding:
    """Bits of held-out pictures and captions, by a decoder with documents and one that never read any."""
    effects: list[Effect] = []
    values: dict[str, Any] = {}
    rows = []
    for domain in experiment.domains:
        measured = Measured(domain)
        found = [_bits(measured, seed) for seed in experiment.settings.seeds]
        for what in (CODES, WORDS):
            for name in (NEVER, WITHOUT, OTHERS):
                less = over_seeds([x[what, name] - x[what, WITH] for x in found])
                effects.append(Effect(f"{domain.name}: bits {what}, {name} − {WITH}", less, needed=name != OTHERS))
            for name in (WITH, OTHERS, WITHOUT, NEVER, *([ITSELF] if what == CODES else [])):
                value = by_seed([x[what, name] for x in found])
                values[f"{domain.name}, {what}, {name}"] = value
                if what == CODES:
                    rows.append((f"{domain.name}, {name}", value["mean"], value["low"], value["high"]))
    title = "How probable held-out pictures are"
    return Finding(effects, values, NOTE, partial(plots.intervals, rows=rows, title=title, label="bits a code"))


def _bits(measured: Measured, seed: int) -> dict[tuple[str, str], float]:
    domain: Domain = measured.domain
    pipe, never = open_trained(domain, seed), open_trained(domain, seed, "none", k=0)
    by_text, by_picture = measured.documents(K), measured.documents(K, by_picture=True)
    turned = np.roll(np.arange(len(by_text)), len(by_text) // 2)

    def swapped(hits: Neighbors) -> Neighbors:
        """The documents of another, under the own text."""
        return replace(hits.rows(turned), queries=hits.queries)

    return {
        (CODES, WITH): measured.code_bits(pipe, by_text),
        (CODES, OTHERS): measured.code_bits(pipe, swapped(by_text)),
        (CODES, WITHOUT): measured.code_bits(pipe, None),
        (CODES, NEVER): measured.code_bits(never, None),
        (CODES, ITSELF): measured.code_bits(pipe, None, itself=True),
        (WORDS, WITH): measured.word_bits(pipe, by_picture),
        (WORDS, OTHERS): measured.word_bits(pipe, swapped(by_picture)),
        (WORDS, WITHOUT): measured.word_bits(pipe, None),
        (WORDS, NEVER): measured.word_bits(never, None),
    }


CLAIM = Claim(
    name="racm3-beats-none",
    says="Retrieved documents in the prompt make pictures and captions more probable than none, at equal steps.",
    source="RA-CM3, arXiv 2211.12561, sections 4.2 and 4.3",
    varies="documents of the picture, of another, none, and a decoder trained without; tokenizer and steps alike",
    measures="exact bits a code of held-out pictures, and a word of their captions",
    measure=measure,
)
