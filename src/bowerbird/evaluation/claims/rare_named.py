"""Whether a model generates things that it was never trained on from what it retrieves, and hardly any without: what a
claim about that says of its arms, whatever the system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.benchmark import per_entity
from bowerbird.evaluation.claims.claim import Effect, Finding
from bowerbird.evaluation.metrics.intervals import Estimate

LEAST, MOST = 0.70, 0.03
"""Of the pictures with what is retrieved at least so many are to be named as the thing, without at most."""


def finding(
    right: Mapping[str, Sequence[np.ndarray]], labels: Mapping[str, str], own: str, none: str, other: str, notes: str
) -> Finding:
    """Of the arms `with`, `without`, `others` and any further ones, an array `(n,)` a seed of whether the judge names
    the entity, with their `labels`: the effects, where `own`, `none` and `other` say what is retrieved."""
    found = {name: per_entity(list(values)) for name, values in right.items()}

    def difference(a: str, b: str) -> Estimate:
        return per_entity([x.astype(float) - y for x, y in zip(right[a], right[b], strict=True)])

    effects = [
        Effect(f"top-1, {own} − {none}", difference("with", "without")),
        Effect(f"top-1, {own} − {LEAST:.0%}", per_entity([x.astype(float) - LEAST for x in right["with"]])),
        Effect(f"{MOST:.0%} − top-1, {none}", per_entity([MOST - x.astype(float) for x in right["without"]])),
        Effect(f"top-1, {own} − {other}", difference("with", "others"), needed=False),
    ]
    rows = [(label, found[name].mean, found[name].low, found[name].high) for name, label in labels.items()]
    plot = partial(plots.intervals, rows=rows, title="Rare entities that the judge names", label="share of pictures")
    return Finding(effects, {label: asdict(found[name]) for name, label in labels.items()}, notes, plot)
