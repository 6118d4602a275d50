"""Neighbors that contradict a color of the prompt are left out, where others agree with it.

A search for "red apple" finds red apples, and after them green ones, which a model mixes in. So each neighbor is judged
by the color words of its caption and tags, or, where these name none, by the colors of its picture; and what leaves is
replaced by what a deeper search finds that does agree. Nothing leaves where nothing agrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bowerbird.core.text import shortened
from bowerbird.core.types import Neighbors
from bowerbird.data.color_words import COLORS_OF, color_shares, colors_in, has_color
from bowerbird.knowledge.rerank.protocol import Find, Task
from bowerbird.knowledge.search.bm25 import further_words
from bowerbird.knowledge.search.words import FUNCTION_WORDS, singular, words

DEEPER, FEWEST = 4, 24
"""How much further is looked for neighbors that agree: times k, and at least so many."""
JOINING = frozenset({"and", "or"})
GROUNDS = frozenset({"background", "backdrop", "ground"})


@dataclass(frozen=True)
class ColoredThing:
    """What a prompt says is of one of `colors`; `things`: its words, none where the whole picture is meant."""

    colors: frozenset[str]
    things: frozenset[str]


@dataclass(frozen=True)
class ColorRequest:
    """The colored things of a prompt, and all its words but colors, as an index has them."""

    colored: tuple[ColoredThing, ...]
    others: frozenset[str]


def read_colors(prompt: str) -> ColorRequest | None:
    """What `prompt` wants to be of which color; None where it names none. A color belongs to the words after it, up to
    the next color, function word or mark; the color of a background is no neighbor's."""
    colored: list[ColoredThing] = []
    others: set[str] = set()
    open_colors: frozenset[str] = frozenset()
    things: set[str] = set()

    def close() -> None:
        nonlocal open_colors
        if open_colors and not things & GROUNDS:
            colored.append(ColoredThing(open_colors, frozenset(things)))
        open_colors = frozenset()
        things.clear()

    for token in _tokens(prompt):
        if token in COLORS_OF:
            if things:
                close()
            open_colors |= COLORS_OF[token]
        elif token in JOINING and open_colors and not things:
            continue  # "red and green apples": either
        elif token in FUNCTION_WORDS or not token.isalnum():
            close()
        else:
            own = words(token)
            others.update(own)
            if open_colors:
                things.update(own)
    close()
    return ColorRequest(tuple(colored), frozenset(others - GROUNDS)) if colored else None


class ColorReranker:
    """Leaves out what contradicts a color of the prompt; scores and order stay those of the search."""

    name = "color"
    reads_pictures = False

    def rerank(self, task: Task) -> Neighbors:
        """As `Reranker.rerank`; what changed is said in `notes`."""
        return _keep_agreeing(task.find(range(len(task)), task.k), task.find, len(task.base))


def _keep_agreeing(found: Neighbors, find: Find, most: int) -> Neighbors:
    """`found` without neighbors that contradict a color of their query where others agree, and with those that do from
    `find`, among the `most` items that there are."""
    asked = [read_colors(query) for query in found.queries]
    if not any(asked):
        return found
    known: dict[int, dict[str, float]] = {}
    changed: dict[int, Neighbors] = {}
    for row, request in enumerate(asked):
        verdict = None if request is None else _judge(found, row, request, known)
        if request is not None and verdict is not None and (verdict == -1).any():
            deep = find([row], min(most, max(DEEPER * found.k, FEWEST)))
            changed[row] = _replaced(found.rows([row]), verdict, deep, request, known)
    if not changed:
        return found
    made = Neighbors.stack([changed.get(row, found.rows([row])) for row in range(len(found))])
    most_there = max(1, int(made.mask.sum(1).max()))  # as a record has them: what is absent everywhere is no column
    return made.select(range(most_there)) if most_there < made.k else made


def _replaced(
    found: Neighbors, verdict: np.ndarray, deep: Neighbors, request: ColorRequest, known: dict[int, dict[str, float]]
) -> Neighbors:
    """One row without what contradicts, filled up from `deep`."""
    have = set(found.ids[0].tolist())
    further = np.asarray([c for c in range(deep.k) if deep.mask[0, c] and int(deep.ids[0, c]) not in have], np.int64)
    best = max((_named(found, 0, c, request) for c in range(found.k) if found.mask[0, c]), default=0)
    said = _judge(deep, 0, request, known, further)
    agree = [int(c) for c in further if said[c] == 1 and _named(deep, 0, int(c), request) >= best]
    if not agree and not (verdict == 1).any():
        named = " or ".join(sorted({name for each in request.colored for name in each.colors}))
        return replace(found, notes=((*(found.notes[0] if found.notes else ()), f"no neighbor is {named}"),))
    leaves = np.flatnonzero(verdict == -1).tolist()
    stays = [c for c in range(found.k) if found.mask[0, c] and c not in leaves]
    notes = [f"left out, of another color: {int(found.ids[0, c])} {_said(found, c)}" for c in leaves]
    kept = _joined(found.select(stays), deep.select(agree[: len(leaves)]))
    return replace(kept.padded(found.k, found.embeddings.shape[-1]), notes=(tuple(notes),))


def _judge(
    hits: Neighbors,
    row: int,
    request: ColorRequest,
    known: dict[int, dict[str, float]],
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """Of each neighbor of a row 1 where it agrees, -1 where it contradicts, 0 where neither can be said. One that
    has fewer of the prompt's words than the others does not agree, whatever its color."""
    looked = [c for c in (range(hits.k) if columns is None else columns.tolist()) if hits.mask[row, c]]
    named = {c: _named(hits, row, c, request) for c in looked}
    best = max(named.values(), default=0)
    verdict = np.zeros(hits.k, np.int64)
    for c in looked:
        wanted = _wanted(hits, row, c, request)
        is_so = None if wanted is None else _is_of(hits, row, c, wanted, known)
        verdict[c] = 0 if is_so is None else -1 if not is_so else int(named[c] == best)
    return verdict


def _wanted(hits: Neighbors, row: int, c: int, request: ColorRequest) -> frozenset[str] | None:
    """The colors that a neighbor may have, by what it shows; None where the prompt says nothing of that."""
    own = set(_words(hits, row, c))
    of_it = [each.colors for each in request.colored if not each.things or each.things & own]
    if not of_it:
        alone = len(request.colored) == 1 and request.colored[0].things == request.others
        of_it = [request.colored[0].colors] if alone else []
    return frozenset[str]().union(*of_it) if of_it else None


def _is_of(
    hits: Neighbors, row: int, c: int, wanted: frozenset[str], known: dict[int, dict[str, float]]
) -> bool | None:
    said = colors_in(_words(hits, row, c))
    if said:
        return bool(said & wanted)
    item = int(hits.ids[row, c])
    if item not in known:
        picture = None if hits.load_images is None else hits.load_images(hits.ids[row : row + 1, c : c + 1])[0][0]
        known[item] = {} if picture is None else color_shares(picture)
    return has_color(known[item], wanted)


def _named(hits: Neighbors, row: int, c: int, request: ColorRequest) -> int:
    """How many of the prompt's words but colors a neighbor has."""
    return len(request.others & set(_words(hits, row, c)))


def _words(hits: Neighbors, row: int, c: int) -> list[str]:
    metadata: dict[str, Any] = hits.metadata[row][c] if hits.metadata else {}
    return [*words(hits.captions[row][c]), *words(further_words(metadata))]


def _said(hits: Neighbors, c: int) -> str:
    return repr(shortened(hits.captions[0][c], 40)) if hits.captions[0][c] else "(no caption)"


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


def _tokens(prompt: str) -> list[str]:
    """The words of a prompt as they follow, function words and marks among them."""
    spaced = "".join(character if character.isalnum() else f" {character} " for character in prompt.casefold())
    return [singular(token) if singular(token) in COLORS_OF else token for token in spaced.split() if token != "-"]
