"""A prompt of several things and the items that cover them: of each thing one before a second of any.

The k nearest to a whole prompt are often k of its one thing. Here each phrase is searched for itself, and a greedy set
cover takes what adds most (`choice.py`, as the grounded pipeline does); what room is left is filled with what the
search found for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.knowledge.search.terms import all_of, parse
from bowerbird.knowledge.search.words import words
from bowerbird.systems.choice import MOST_REFERENCES, ChoiceSettings, ChosenReference, choose_references
from bowerbird.systems.phrases.parse import RULES, load_parser, parse_prompt
from bowerbird.systems.phrases.phrase import Phrase
from bowerbird.systems.phrases.word_classes import FRAMES, GROUNDS, NOT_THINGS
from bowerbird.systems.relevance import NothingToCompareError

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase


def cover(
    kb: KnowledgeBase,
    found: Neighbors,
    *,
    search_mode: str = "hybrid",
    where: str | None = None,
    operators: bool = False,
) -> Neighbors:
    """`found`, of the texts it names, with the items that cover the phrases of a text before the others, in as many
    columns; a text of one phrase keeps what was found. `phrases` of the result say what each item is there for, and
    `notes` which phrase has none. `operators`: whether a text was searched with fields (`sku:ABC-12`), which then hold
    for all; phrases in quotation marks are phrases like any other here.

    Raises: BowerbirdError for a wrong condition.
    """
    columns = kb.store.columns() if operators else None
    rows = [_covered(kb, found.rows([row]), search_mode, where, columns) for row in range(len(found))]
    return rows[0] if len(rows) == 1 else Neighbors.stack(rows)


def _covered(
    kb: KnowledgeBase, found: Neighbors, search_mode: str, where: str | None, columns: Mapping[str, str] | None
) -> Neighbors:
    """One row; `columns`: those whose names may be fields of the text."""
    text = found.queries[0]
    if columns is not None:
        terms = parse(text, columns)
        text, where = terms.text, all_of(where, terms.where)
    read = parse_prompt(_as_searched(text, found), parser=load_parser(RULES), kb=kb, where=where)
    things = [phrase for phrase in read.phrases if phrase.head.casefold() not in GROUNDS]
    if len(things) < 2:
        return found
    settings = ChoiceSettings(
        max_references=min(found.k, MOST_REFERENCES),
        per_phrase=ceil(found.k / len(things)),
        min_relevance=0.0,  # an item that is called so will do, as it does for the search
        where=where,
        search_mode=search_mode,
    )
    try:
        choice = choose_references(kb, things, settings=settings)
    except NothingToCompareError:  # no item has a caption: of each phrase the nearest picture
        choice = choose_references(kb, things, settings=replace(settings, min_relevance_unnamed=0.0))
    own = {each.item: each for each in reversed(_in_turn(things, choice.references))}
    first = list(dict.fromkeys(each.item for each in _in_turn(things, choice.references)))
    before = {int(item): column for column, item in enumerate(found.ids[0]) if item != ABSENT}
    items = [*first, *(item for item in before if item not in own)][: found.k]
    scores = [own[item].score if item in own else float(found.scores[0, before[item]]) for item in items]
    lacking = tuple(f"no item for {phrase.text!r}: {why}" for phrase, why in choice.without)
    made = replace(
        kb.get(items, scores),
        queries=found.queries,
        corrected=found.corrected,
        phrases=(tuple(own[item].phrase.text if item in own else "" for item in items),),
        notes=((*(found.notes[0] if found.notes else ()), *lacking),),
        measures={name: _of_items(values[0], before, items) for name, values in found.measures.items()},
    )
    return made.padded(found.k, found.embeddings.shape[-1])


def _as_searched(text: str, found: Neighbors) -> str:
    """The `text` with the words that were searched in place of mistyped ones: its phrases are judged by them."""
    instead = found.corrected[0] if found.corrected else {}

    def near(match: re.Match[str]) -> str:
        own = words(match[0]) if match[0].casefold() not in FRAMES | NOT_THINGS else []
        return instead[own[0]][0] if len(own) == 1 and instead.get(own[0]) else match[0]

    return re.sub(r"[^\W_]+", near, text) if instead else text


def _in_turn(things: Sequence[Phrase], chosen: Sequence[ChosenReference]) -> list[ChosenReference]:
    """The best of each phrase, in the order of the prompt, then the second best of each, …"""
    each = [sorted((one for one in chosen if one.phrase == thing), key=lambda one: -one.score) for thing in things]
    return [one for turn in zip_longest(*each) for one in turn if one is not None]


def _of_items(values: np.ndarray, before: dict[int, int], items: Sequence[int]) -> np.ndarray:
    """A measure of `items` `(1, K)`, NaN for those that the search did not find."""
    known = [values[before[item]] if item in before else np.nan for item in items]
    return np.asarray([known], np.float32)
