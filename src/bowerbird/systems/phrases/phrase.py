"""A phrase of a prompt, and what finds phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

from bowerbird.core.errors import BowerbirdError


@dataclass(frozen=True)
class Phrase:
    """One thing that a prompt names: `text` stands at `prompt[start:end]`. `head`: its noun, or a name of several
    words; `attributes`: the words that say which or how, in their order."""

    text: str
    start: int
    end: int
    head: str = ""
    attributes: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """What is searched for: attributes and head, without articles; the text where no head is known."""
        return " ".join((*self.attributes, self.head)) if self.head else self.text


@runtime_checkable
class PhraseParser(Protocol):
    """What finds the phrases of a prompt: the contract of every parser."""

    def parse(self, prompt: str) -> list[Phrase]:
        """The phrases of `prompt` in their order, none over another; empty where there are none."""
        ...


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt as a model reads it, `text`, and its phrases. `explicit`: a person marked them."""

    text: str
    phrases: tuple[Phrase, ...]
    explicit: bool = False


def check_phrases(prompt: str, phrases: Sequence[Phrase], source: str) -> tuple[Phrase, ...]:
    """`phrases` in their order, as `source` gave them. Raises: BowerbirdError where one is not at its place in
    `prompt`, or they overlap."""
    ordered = tuple(sorted(phrases, key=lambda each: each.start))
    for phrase in ordered:
        if not 0 <= phrase.start < phrase.end or prompt[phrase.start : phrase.end] != phrase.text:
            raise BowerbirdError(
                f"{source} gave the phrase {phrase.text!r} at {phrase.start}..{phrase.end}, where the prompt has"
                f" {prompt[phrase.start : phrase.end]!r}; offsets count the prompt's characters"
            )
    for first, second in pairwise(ordered):
        if first.end > second.start:
            raise BowerbirdError(
                f"{source} gave the phrases {first.text!r} and {second.text!r}, which overlap; each word belongs to"
                " one phrase"
            )
    return ordered


def read_spans(prompt: str, spans: Sequence[tuple[int, int]]) -> ParsedPrompt:
    """`prompt` with the phrases at these places, from the first character to the one after the last.

    Raises: BowerbirdError for a place that is not in the prompt, or places that overlap.
    """
    if any(not 0 <= start < end <= len(prompt) for start, end in spans):
        raise BowerbirdError(
            f"spans {[list(span) for span in spans]} are not all in the prompt {prompt!r} of {len(prompt)} characters"
        )
    phrases = [Phrase(prompt[start:end], start, end) for start, end in spans]
    return ParsedPrompt(prompt, check_phrases(prompt, phrases, "spans"), explicit=True)
