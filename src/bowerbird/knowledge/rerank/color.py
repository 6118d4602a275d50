"""Neighbors of a color that the prompt names come first, and those that contradict it are left out, where others agree.

A search for "red apple" finds red apples, green ones and some that are neither, which a model mixes. So each neighbor
is judged by the color words of its caption and tags (of its file's name too, where it has no caption but its
folder's name), or, where these name
none, by the colors of its picture. What leaves is replaced by what a deeper search finds that does agree; a picture
whose color is not sure, as a pink one that is nearly red, stands behind the red ones, and gives way to a further one
that is as near in words. What is red and has more of the prompt's other words than anything that was found comes first.
Nothing changes where nothing agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from bowerbird.core.credit import file_of, is_of_folder, shown_name
from bowerbird.core.types import Neighbors
from bowerbird.data.color_words import COLORS_OF, colors_in, has_color
from bowerbird.knowledge.rerank.color_request import ColorRequest, read_colors
from bowerbird.knowledge.rerank.picture_colors import AT_ONCE, PictureColors
from bowerbird.knowledge.rerank.protocol import Collection, Find, Task
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.words import bare_name, words

DEEPER, FEWEST = 4, 24
"""How much further is looked for neighbors that agree: times k, and at least so many."""


class Verdict(Enum):
    """What a neighbor is to a color of the prompt; `OPEN`: it cannot be said, or it has fewer of the words."""

    AGREES, OPEN, CONTRADICTS, NOT_ASKED = range(4)


class ColorReranker:
    """Puts what agrees with a color of the prompt first and leaves out what contradicts it; scores stay those of the
    search."""

    name = "color"
    reads_pictures = False

    def rerank(self, task: Task) -> Neighbors:
        """As `Reranker.rerank`; what was left out is said in `notes`."""
        found = task.find(range(len(task)), task.k)
        requests = [read_colors(text) for text in task.texts]
        rows = {row: request for row, request in enumerate(requests) if request is not None}
        changed = {row: _colored(found.rows([row]), row, asked, task.find, task.base) for row, asked in rows.items()}
        if all(made is None for made in changed.values()):
            return found
        each = [changed.get(row) for row in range(len(found))]
        made = Neighbors.stack([found.rows([row]) if new is None else new for row, new in enumerate(each)])
        widest = max(1, int(made.mask.sum(1).max()))  # as a record has them: what is absent everywhere is no column
        return made.select(range(widest)) if widest < made.k else made


@dataclass(frozen=True)
class _Row:
    """The neighbors of one query `(1, K)`, and what is asked of their colors."""

    hits: Neighbors
    request: ColorRequest
    colors: PictureColors

    @cached_property
    def words(self) -> list[frozenset[str]]:
        """Of each neighbor its words in caption and tags, and in its file's name where it has no caption of its own;
        none of an absent one."""
        metadata: Sequence[dict[str, Any]] = self.hits.metadata[0] if self.hits.metadata else [{}] * self.hits.k
        pairs = zip(self.hits.captions[0], metadata, strict=True)
        return [frozenset([*_called(caption, facts), *words(further_words(facts))]) for caption, facts in pairs]

    @property
    def there(self) -> list[int]:
        """The columns that are not absent."""
        columns: list[int] = np.flatnonzero(self.hits.mask[0]).tolist()
        return columns

    def named(self, column: int) -> int:
        """How many of the prompt's words but colors a neighbor has."""
        return len(self.request.others & self.words[column])

    def further(self, column: int) -> int:
        """How many words but colors its caption has that the prompt has not."""
        return len(set(words(self.hits.captions[0][column])) - self.request.others - COLORS_OF.keys())

    def judge(self, columns: Sequence[int], best: int) -> list[Verdict]:
        """One of each column. What has fewer of the prompt's words than the `best` does not agree, whatever its
        color."""
        wanted = [self.request.wanted(self.words[c]) for c in columns]
        said = [colors_in(sorted(self.words[c])) for c in columns]
        asked = [c for c, want, own in zip(columns, wanted, said, strict=True) if want is not None and not own]
        shares = self.colors.of([int(self.hits.ids[0, c]) for c in asked])
        verdicts = []
        for c, want, own in zip(columns, wanted, said, strict=True):
            if want is None:
                verdicts.append(Verdict.NOT_ASKED)
                continue
            is_so = bool(own & want) if own else has_color(shares.get(int(self.hits.ids[0, c]), {}), want)
            agrees = Verdict.AGREES if self.named(c) == best else Verdict.OPEN
            verdicts.append(Verdict.OPEN if is_so is None else agrees if is_so else Verdict.CONTRADICTS)
        return verdicts


def _colored(found: Neighbors, row: int, request: ColorRequest, find: Find, base: Collection) -> Neighbors | None:
    """One row of neighbors with those first that agree, without those that contradict; None where it stays as it
    is."""
    near = _Row(found, request, PictureColors(base))
    best = max(map(near.named, near.there), default=0)
    verdicts = dict(zip(near.there, near.judge(near.there, best), strict=True))
    leaving = [c for c in near.there if verdicts[c] is Verdict.CONTRADICTS]
    unsure = [c for c in near.there if verdicts[c] is Verdict.OPEN and near.named(c) == best]
    deep, agree = near, list[int]()
    if leaving or unsure or best < len(request.others):
        deep = _Row(find([row], min(len(base), max(DEEPER * found.k, FEWEST))), request, near.colors)
        most = found.k if best < len(request.others) else len(leaving) + len(unsure)
        agree = _agreeing(deep, {*found.ids[0].tolist()}, best, most)
    first = [c for c in agree if deep.named(c) > best]
    if first:  # "pink fruit" found pink hearts, as pink is the rarer word
        return _joined(found, deep.hits).select([*(found.k + c for c in first), *near.there][: found.k])
    if not agree and Verdict.AGREES not in verdicts.values():
        named = " or ".join(sorted({name for each in request.colored for name in each.colors}))
        return _noted(found, [f"no neighbor is {named}"]) if leaving else None
    better, giving_way = _instead(near, unsure, deep, agree[len(leaving) :])
    stays = [c for c in near.there if c not in leaving and c not in giving_way]
    order = _agreeing_first(stays, verdicts, [found.k + c for c in (*agree[: len(leaving)], *better)])
    if order == near.there:
        return None
    notes = [f"left out, of another color: {int(found.ids[0, c])} {_said(found, c)}" for c in leaving]
    notes += [f"left out, as its color is not sure: {int(found.ids[0, c])} {_said(found, c)}" for c in giving_way]
    kept = _joined(found, deep.hits).select(order).padded(found.k, found.embeddings.shape[-1])
    return _noted(kept, notes)


def _agreeing(deep: _Row, have: set[int], best: int, most: int) -> list[int]:
    """The first `most` columns of a deeper search that agree, have as many of the prompt's words as the `best`, and are
    none of the items that we `have`."""
    columns = [c for c in deep.there if int(deep.hits.ids[0, c]) not in have and deep.named(c) >= best]
    best, found = max(map(deep.named, columns), default=best), list[int]()
    for start in range(0, len(columns), AT_ONCE):
        some = columns[start : start + AT_ONCE]
        found += [c for c, verdict in zip(some, deep.judge(some, best), strict=True) if verdict is Verdict.AGREES]
        if len(found) >= most:
            break
    return found[:most]


def _instead(near: _Row, unsure: Sequence[int], deep: _Row, agree: Sequence[int]) -> tuple[list[int], list[int]]:
    """Columns of a deeper search that agree, and those of the first in whose place they come: the last whose color is
    not sure, each with no fewer words that the prompt has not."""
    better, giving_way = list[int](), list[int]()
    for column in agree:
        further = deep.further(column)
        last = next((c for c in reversed(unsure) if c not in giving_way and near.further(c) >= further), None)
        if last is not None:
            better.append(column)
            giving_way.append(last)
    return better, sorted(giving_way)


def _agreeing_first(stays: Sequence[int], verdicts: Mapping[int, Verdict], added: Sequence[int]) -> list[int]:
    """Columns in a new order: what agrees, what is `added`, what cannot be said, and between them, where they were,
    those of which nothing is asked."""
    agree, unsure = ([c for c in stays if verdicts[c] is kind] for kind in (Verdict.AGREES, Verdict.OPEN))
    asked = iter([*agree, *added, *unsure])
    return [*(c if verdicts[c] is Verdict.NOT_ASKED else next(asked) for c in stays), *asked]


def _noted(row: Neighbors, notes: Sequence[str]) -> Neighbors:
    return replace(row, notes=((*(row.notes[0] if row.notes else ()), *notes),))


def _said(hits: Neighbors, c: int) -> str:
    return shown_name(hits.captions[0][c], hits.metadata[0][c] if hits.metadata else {})


def _called(caption: str, facts: Mapping[str, Any]) -> list[str]:
    """The words of a caption, with those of the file's name where the caption is none of its own."""
    return [*words(caption), *(words(bare_name(file_of(facts))) if is_of_folder(caption, facts) else ())]


def _joined(first: Neighbors, second: Neighbors) -> Neighbors:
    """Items of one knowledge base after others of it, of one query."""
    return replace(
        first,
        ids=np.concatenate([first.ids, second.ids], 1),
        scores=np.concatenate([first.scores, second.scores], 1),
        embeddings=np.concatenate([first.embeddings, second.embeddings], 1),
        captions=(first.captions[0] + second.captions[0],),
        metadata=(first.metadata[0] + second.metadata[0],),
        measures={
            name: np.concatenate([values, second.measures[name]], 1)
            for name, values in first.measures.items()
            if name in second.measures
        },
    )
