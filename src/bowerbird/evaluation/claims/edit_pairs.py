"""Edits with known answers: two drawings of one collection that agree in most of the picture, the second what the
first should become."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures

APART, GROW = 0.2, 5
"""A place differs where any color does by more than a fifth, or within two pixels of such a place."""
LEAST, MOST = 0.03, 0.4
"""Share of the picture that an edit asks to change."""
EACH_GROUP = 8


@dataclass(frozen=True)
class EditPairs:
    """Rows of the drawings: `source` and `target` `(n,)`, and where they differ, boolean `(n, S, S)`."""

    source: np.ndarray
    target: np.ndarray
    changed: np.ndarray


def changed(a: Tensor, b: Tensor) -> Tensor:
    """Where pictures `(n, 3, S, S)` in 0..1 differ, boolean `(n, S, S)`."""
    apart = ((a - b).abs().amax(1, keepdim=True) > APART).float()
    return F.max_pool2d(apart, GROW, stride=1, padding=GROW // 2)[:, 0] > 0


def find(drawings: Pictures, most: int) -> EditPairs:
    """At most `most` pairs whose target no model was trained on, few of each kind of thing: half rare things where
    there are so many, then others in the share-alike style, whose things were trained on in other styles.

    Raises: BowerbirdError when there are fewer than 8.
    """
    style, group = drawings.column("style"), drawings.column("subgroup")
    unseen = np.array([m.get("split") == "rare" or m.get("style") == "openmoji" for m in drawings.metadata])
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(style, group, strict=True)):
        alike[key].append(row)
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (_, kind), rows in sorted(alike.items()):
        pixels = drawings.pixels[rows].float() / 255
        for target in range(len(rows)):
            if unseen[rows[target]]:
                share = changed(pixels, pixels[[target]]).float().mean((1, 2))
                found[kind] += [
                    (rows[int(i)], rows[target]) for i in torch.nonzero((share > LEAST) & (share < MOST))[:, 0]
                ]
    chosen: dict[bool, list[tuple[int, int]]] = {
        True: [],
        False: [],
    }  # rare things, and others in the share-alike style
    for kind, pairs in sorted(found.items()):
        order = seeds.numpy_generator(0, "pairs", kind).permutation(len(pairs))
        taken: dict[bool, set[int]] = {
            True: set(),
            False: set(),
        }  # one edit a target: more would be one thing counted often
        for source, target in (pairs[i] for i in order):
            rare = drawings.metadata[target].get("split") == "rare"
            if target not in taken[rare] and len(taken[rare]) < EACH_GROUP:
                taken[rare].add(target)
                chosen[rare].append((source, target))
    shuffled = {
        rare: seeds.numpy_generator(0, "pairs", str(rare)).permutation(len(pairs)) for rare, pairs in chosen.items()
    }
    picked = [chosen[True][i] for i in shuffled[True][: most // 2]]
    picked += [chosen[False][i] for i in shuffled[False][: most - len(picked)]]
    if len(picked) < 8:
        raise BowerbirdError(
            f"edits need pairs of drawings that differ in a part only; the data has {len(picked)} with a target no"
            " model was trained on"
        )
    source, target = np.array(picked).T
    where = changed(drawings.pixels[source].float() / 255, drawings.pixels[target].float() / 255)
    return EditPairs(source, target, where.numpy())
