"""Compounds without a dictionary: which words of an index are the first or last part of another one.

As Lucene's DictionaryCompoundWordTokenFilter, with the index's own words as the dictionary; and as nothing is known of
a language, what lies between two parts (the s of "Arbeitszimmer") may be anything short. Found when it is asked for:
nothing is kept on disk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

LEAST, REST = 4, 3
"""Letters of a part, and of what is left of the compound beside it."""
LINK = 2
"""Letters between two parts, at most."""
UNSURE = 0.5
"""What a part counts where the rest of the compound is no word of the index."""
MOST = 256
"""Compounds of one part."""


@dataclass(frozen=True)
class Compounds:
    """`known`: the words of letters alone that are long enough for a part."""

    known: frozenset[str]

    @classmethod
    def of(cls, words: Iterable[str]) -> Compounds:
        """Those of `words`."""
        return cls(frozenset(word for word in words if len(word) >= LEAST and word.isalpha()))

    @cached_property
    def _forward(self) -> list[str]:
        return sorted(self.known)

    @cached_property
    def _backward(self) -> list[str]:
        return sorted(word[::-1] for word in self.known)

    def related(self, word: str) -> dict[str, float]:
        """The compounds that have `word` as their first or last part, and its own first and last parts where it is none
        of the index; each with what it counts, 1 or less."""
        if not self.known or len(word) < LEAST or not word.isalpha():
            return {}
        found = {
            other: self._sure(other[len(word) :], first=False)
            for other in _with_prefix(self._forward, word)
            if len(other) >= len(word) + REST
        }
        for other in _with_prefix(self._backward, word[::-1]):
            if len(other) >= len(word) + REST:
                found[other[::-1]] = self._sure(other[::-1][: -len(word)], first=True)
        return found if word in self.known else found | self._parts(word)

    def _parts(self, word: str) -> dict[str, float]:
        """The longest words of the index at either end of a compound."""
        ends = range(len(word) - REST, LEAST - 1, -1)
        first = next((word[:n] for n in ends if word[:n] in self.known), None)
        last = next((word[-n:] for n in ends if word[-n:] in self.known), None)
        return {part: 1.0 for part in (first, last) if part is not None}

    def _sure(self, rest: str, *, first: bool) -> float:
        """1 where what is left of a compound is a word of the index, but for a few letters towards the other part."""
        cuts = [rest[: len(rest) - n] if first else rest[n:] for n in range(LINK + 1)]
        return 1.0 if any(cut in self.known for cut in cuts) else UNSURE


def _with_prefix(words: list[str], prefix: str) -> list[str]:
    at = bisect_left(words, prefix)
    end = at
    while end < len(words) and end - at < MOST and words[end].startswith(prefix):
        end += 1
    return words[at:end]
