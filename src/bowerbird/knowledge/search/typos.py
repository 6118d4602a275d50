"""Near words: those of an index that a mistyped word may mean.

The distance is Damerau's, in its restricted form (optimal string alignment): a letter more, a letter less, another
letter, or two neighbors swapped. Of a pair of Han characters that nobody has, each stands for itself: "黒猫" finds
"黒い猫". Every word of the index has the set of its letters as 64 bits, so one pass over them
leaves few to be compared; nothing is kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bowerbird.knowledge.search.words import is_han

WEIGHTS = (1.0, 0.6, 0.4)
"""What a near word counts at a distance of 0, 1 and 2 beside a word that is there."""
LEAST, LONG = 4, 8
"""Letters from which on one mistake is forgiven, and two."""
LONGEST = 32
"""Letters of a word that is compared at all."""
MOST = 4
"""Words that are searched in place of one."""

SIGN = 0.4
"""What each of two Han characters counts, where no item has them next to each other."""

Near = Mapping[str, Mapping[str, float]]
"""For a word that no item has, the words that are searched in its place, each with what it counts."""


@dataclass(frozen=True)
class Lexicon:
    """Words as numbers: `codes` `(n, L)` their characters, 0 behind the last; `lengths` `(n,)`; `letters` `(n,)` the
    set of those characters, as bits."""

    words: list[str]
    codes: np.ndarray
    lengths: np.ndarray
    letters: np.ndarray


def may_be_mistyped(word: str) -> bool:
    """Whether a word is one of letters alone and long enough; numbers, pairs of Han characters and emoji are not."""
    return LEAST <= len(word) <= LONGEST and word.isalpha()


def signs(word: str) -> tuple[str, ...]:
    """The two Han characters of a pair, which are words too (`words.words`); none of any other word."""
    return tuple(word) if len(word) == 2 and all(map(is_han, word)) else ()


def lexicon(words: Iterable[str]) -> Lexicon:
    """Those of `words` that a mistyped one may mean."""
    chosen = [word for word in words if LEAST - 1 <= len(word) <= LONGEST and word.isalpha()]
    if not chosen:
        return Lexicon([], np.zeros((0, 1), np.uint32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    table = np.asarray(chosen)
    codes = table.view(np.uint32).reshape(len(chosen), -1)
    return Lexicon(chosen, codes, (codes > 0).sum(1), _letters(codes))


def near_words(known: Lexicon, word: str) -> dict[str, int]:
    """The words within the distance that the length of `word` allows, and how far each is."""
    most = 2 if len(word) >= LONG else 1
    asked = np.frombuffer(word.encode("utf-32-le"), np.uint32)
    # a change alters two members of the set of letters at most, so a distance of two alters four
    alike = np.bitwise_count(known.letters ^ _letters(asked[None])[0]) <= 2 * most
    alike &= np.abs(known.lengths - len(word)) <= most
    rows = np.flatnonzero(alike)
    distances = _distances(asked, known.codes[rows], known.lengths[rows])
    return {known.words[row]: int(d) for row, d in zip(rows, distances, strict=True) if d <= most}


def choose(word: str, found: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, float]:
    """Those of near words that are searched: the nearest, and of them those with the same first letter, where people
    seldom err; at most `MOST`, the commonest by `counts` first."""
    if not found:
        return {}
    ranks = {near: (distance, near[0] != word[0] and near[:2] != word[1::-1]) for near, distance in found.items()}
    best = min(ranks.values())
    chosen = sorted((near for near, rank in ranks.items() if rank == best), key=lambda near: (-counts[near], near))
    return dict.fromkeys(chosen[:MOST], WEIGHTS[best[0]])


def shown(near: Near) -> dict[str, tuple[str, ...]]:
    """The words alone."""
    return {word: tuple(others) for word, others in near.items()}


def _letters(codes: np.ndarray) -> np.ndarray:
    bits = np.zeros(len(codes), np.uint64)
    for column in range(codes.shape[1]):
        there = codes[:, column]
        bits |= np.where(there > 0, np.uint64(1) << (there % 64).astype(np.uint64), np.uint64(0))
    return bits


def _distances(asked: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The distance of one word `(m,)` to each of several `(n, L)`, `(n,)`."""
    count, width = codes.shape
    earlier = before = np.broadcast_to(np.arange(width + 1, dtype=np.int16)[:, None], (width + 1, count))
    for i in range(1, len(asked) + 1):
        row = np.empty((width + 1, count), np.int16)
        row[0] = i
        other = asked[i - 1] != codes.T
        row[1:] = np.minimum(before[1:] + 1, before[:-1] + other)
        if i > 1:
            swapped = (codes.T[:-1] == asked[i - 1]) & (codes.T[1:] == asked[i - 2])
            row[2:] = np.where(swapped, np.minimum(row[2:], earlier[:-2] + 1), row[2:])
        for j in range(1, width + 1):
            np.minimum(row[j], row[j - 1] + 1, out=row[j])
        earlier, before = before, row
    found: np.ndarray = before[lengths, np.arange(count)]
    return found
