"""Which pictures of a scan are copies: the candidates, each looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bowerbird.core.progress import Progress, for_stage
from bowerbird.knowledge.duplicates import candidates
from bowerbird.knowledge.duplicates.groups import Edge, Found, Links
from bowerbird.knowledge.duplicates.same_picture import Place, View, turn_between, window
from bowerbird.knowledge.duplicates.scan import Scan, views
from bowerbird.knowledge.search import dense

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

KINDS = ("exact", "re-saved", "resized", "cropped", "rotated", "mirrored")
"""What a copy is to the picture that is kept: the same bytes; the same picture in other bytes; in another size; one
shows a window of the other; turned by quarters; mirrored, turned or not."""
ALIKE = 5
"""Nearest embeddings among which the picture is looked for that a window was cut from."""
AT_ONCE = 128
"""Pairs whose pictures are in memory at once."""
BLOCK = 1024
T = TypeVar("T", list[int], Place)


class Judge:
    """Looks at pairs of the pictures of `scan`, by their positions in it, and adds what are copies to `Links`."""

    def __init__(self, kb: KnowledgeBase, scan: Scan, kinds: frozenset[str], progress: Progress | None) -> None:
        self.kb, self.scan, self.progress = kb, scan, progress
        kinds_of_turns = [("re-saved", "resized"), *[("rotated",)] * 3, *[("mirrored",)] * 4]
        self.turns = [turn for turn, names in enumerate(kinds_of_turns) if kinds.intersection(names)]
        self.crops_wanted = "cropped" in kinds

    def kind(self, kept: int, copy: int, found: Found) -> str:
        """Which of `KINDS` a copy is."""
        if self.scan.digests[kept] == self.scan.digests[copy]:
            return "exact"
        if found.edge.share < 1:
            return "cropped"
        if found.edge.turn:
            return "mirrored" if found.edge.turn >= 4 else "rotated"
        return "re-saved" if (self.scan.sizes[kept] == self.scan.sizes[copy]).all() else "resized"

    def exact(self, links: Links) -> None:
        """Link pictures of the same bytes."""
        _, firsts, inverse = np.unique(self.scan.digests, return_index=True, return_inverse=True)
        for place in np.flatnonzero(firsts[inverse] != np.arange(len(inverse))).tolist():
            links.add(int(firsts[inverse[place]]), place, Edge())

    def wholes(self, links: Links) -> None:
        """Link pictures that show the same as a whole, one of each set looked at."""
        rows = links.firsts()
        if not self.turns or len(rows) < 2:
            return
        report = for_stage(self.progress, "comparing")
        found = (
            (int(rows[i]), int(rows[j]), wanted)
            for i, j, turns in candidates.whole_pairs(self.scan.grids, rows, report)
            if (wanted := [turn for turn in turns if turn in self.turns])
        )
        for one, other, edge in self._look(found, _whole, links):
            links.add(one, other, edge)

    def crops(self, links: Links, order: np.ndarray) -> None:
        """Link pictures with windows of them, the first in `order` of each set looked at."""
        if not self.crops_wanted or len(self.scan.ids) < 2:
            return
        pairs = self._alike(links, order)
        report = for_stage(self.progress, "looking for crops")
        aspects = self.scan.sizes[:, 1] / np.maximum(self.scan.sizes[:, 0], 1)
        for one, other, edge in self._look(candidates.windows(self.scan.grids, aspects, pairs, report), _window, links):
            links.add(one, other, edge)

    def pairs(self, asked: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Edge]:
        """What those of the pairs that are copies are to each other."""
        made: dict[tuple[int, int], Edge] = {}
        if not asked:
            return made
        digests, grids = self.scan.digests, self.scan.grids
        made |= {(i, j): Edge() for i, j in asked if digests[i] == digests[j]}
        rest = [pair for pair in asked if pair not in made]
        fitting = candidates.fitting_turns(grids, np.asarray(rest, np.int64).reshape(-1, 2))
        turned = [(*pair, [t for t in turns if t in self.turns]) for pair, turns in zip(rest, fitting, strict=True)]
        made |= {(i, j): edge for i, j, edge in self._look((t for t in turned if t[2]), _whole)}
        rest = [pair for pair in rest if pair not in made]
        if self.crops_wanted and rest:
            aspects = self.scan.sizes[:, 1] / np.maximum(self.scan.sizes[:, 0], 1)
            both = np.asarray([*rest, *((j, i) for i, j in rest)], np.int64)
            made |= {(i, j): edge for i, j, edge in self._look(candidates.windows(grids, aspects, both), _window)}
        return made

    def _look(
        self,
        pairs: Iterable[tuple[int, int, T]],
        test: Callable[[View, View, T], Edge | None],
        links: Links | None = None,
    ) -> Iterator[tuple[int, int, Edge]]:
        """Those of `pairs` that pass the test, without those whose sets are linked already."""
        open_pairs = (pair for pair in pairs if links is None or links.root(pair[0]) != links.root(pair[1]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while some := list(islice(open_pairs, AT_ONCE)):
                places = sorted({place for pair in some for place in pair[:2]})
                numbers = self.scan.ids[places].tolist()
                by_id = views(self.kb.store, numbers)
                seen = {place: by_id[number] for place, number in zip(places, numbers, strict=True)}
                edges = pool.map(
                    test, [seen[pair[0]] for pair in some], [seen[pair[1]] for pair in some], [p[2] for p in some]
                )
                for pair, edge in zip(some, edges, strict=True):
                    if edge is not None:
                        yield pair[0], pair[1], edge

    def _alike(self, links: Links, order: np.ndarray) -> np.ndarray:
        """Pairs (whole, part) of pictures with near embeddings, each pair both ways, int32 `(m, 2)`."""
        stands_for = np.arange(len(self.scan.ids))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        for members in links.sets().values():
            stands_for[members] = min(members, key=lambda i: rank[i])
        own = np.flatnonzero(stands_for == np.arange(len(stands_for)))
        by_id = np.argsort(self.scan.ids)
        snapshot, report = self.kb.store.snapshot, for_stage(self.progress, "finding neighbors", len(own))
        width = min(ALIKE + 1, len(snapshot))
        made = []
        for start in range(0, len(own), BLOCK):
            some = own[start : start + BLOCK]
            vectors = snapshot.embeddings(snapshot.rows_of(self.scan.ids[some]))
            ids = snapshot.ids_of(snapshot.dense(dense.prepare(vectors, self.kb.normalize), width)[0])
            at = by_id[np.minimum(np.searchsorted(self.scan.ids, ids, sorter=by_id), len(by_id) - 1)]
            others = np.where(self.scan.ids[at] == ids, stands_for[at], some[:, None])
            pairs = np.stack([np.repeat(some, width), others.ravel()], 1)
            made.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1).astype(np.int32))
            report(start + len(some))
        once = np.unique(np.concatenate(made), axis=0)
        return np.concatenate([once, once[:, ::-1]])


def _whole(one: View, other: View, turns: list[int]) -> Edge | None:
    turn = turn_between(one, other, turns)
    return None if turn is None else Edge(turn=turn)


def _window(whole: View, part: View, place: Place) -> Edge | None:
    share = window(whole, part, place)
    return None if share is None else Edge(share=min(share, 0.999))
