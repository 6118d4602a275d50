"""Pictures linked as copies, as groups: a picture that is kept, and those compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bowerbird.knowledge.duplicates.same_picture import TURNS


@dataclass(frozen=True)
class Edge:
    """What the second of two pictures is to the first: turned by `turn` of `TURNS`, or `share` of its width."""

    turn: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class Found:
    """What a copy is to the picture that is kept: by `edge`, where `forward`; else the kept one is that to it."""

    edge: Edge
    forward: bool

    @property
    def detail(self) -> str:
        """In a few words; nothing where there is nothing to add."""
        if self.edge.share < 1:
            shown = f"{self.edge.share:.0%} of the width"
            return shown if self.forward else f"all of it; the kept one shows {shown}"
        turn = self.edge.turn
        return TURNS[turn if self.forward or turn >= 4 else -turn % 4]


class Links:
    """Which of n pictures are copies of each other: pairs, and the sets that pairs connect."""

    def __init__(self, count: int) -> None:
        self.parents = list(range(count))
        self.edges: dict[tuple[int, int], Edge] = {}

    def add(self, one: int, other: int, edge: Edge) -> None:
        """`other` is `edge` to `one`."""
        self.edges[one, other] = edge
        a, b = self.root(one), self.root(other)
        self.parents[max(a, b)] = min(a, b)

    def root(self, one: int) -> int:
        """The least of the set that `one` is in."""
        while self.parents[one] != one:
            self.parents[one] = self.parents[self.parents[one]]
            one = self.parents[one]
        return one

    def linked(self, one: int, other: int) -> bool:
        """Whether these two were found to be copies of each other."""
        return (one, other) in self.edges or (other, one) in self.edges

    def between(self, one: int, other: int) -> Found:
        """What `other` is to `one`. Raises: KeyError where they are not linked."""
        forward = (one, other) in self.edges
        return Found(self.edges[(one, other) if forward else (other, one)], forward)

    def firsts(self) -> np.ndarray:
        """The least of every set, int64 `(m,)`."""
        return np.flatnonzero(np.asarray(self.parents) == np.arange(len(self.parents)))

    def sets(self) -> dict[int, list[int]]:
        """The sets of more than one, by their least."""
        made: dict[int, list[int]] = {}
        members = {i for pair in self.edges for i in pair}
        for one in sorted(members):
            made.setdefault(self.root(one), []).append(one)
        return made


def stars(
    links: Links,
    order: np.ndarray,
    compare: Callable[[Sequence[tuple[int, int]]], dict[tuple[int, int], Edge]],
    *,
    parts_last: bool,
) -> list[tuple[int, list[tuple[int, Found]]]]:
    """Groups (kept, copies): in each connected set the first of `order` is kept, with those that are its copies; of the
    rest the next, and so on.

    `parts_last`: windows of others come after all that are none. `compare` looks at pairs that nobody has looked at
    yet.
    """
    parts = {j for (_, j), edge in links.edges.items() if edge.share < 1} if parts_last else set()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    open_sets = [sorted(members, key=lambda i: (i in parts, rank[i])) for members in links.sets().values()]
    made = []
    while open_sets:
        asked = [(one[0], other) for one in open_sets for other in one[1:] if not links.linked(one[0], other)]
        for pair, edge in compare(asked).items():
            links.edges[pair] = edge
        left = []
        for members in open_sets:
            kept, rest = members[0], members[1:]
            copies = [i for i in rest if links.linked(kept, i)]
            if copies:
                made.append((kept, [(i, links.between(kept, i)) for i in copies]))
            others = [i for i in rest if not links.linked(kept, i)]
            if len(others) > 1:
                left.append(others)
        open_sets = left
    return made
