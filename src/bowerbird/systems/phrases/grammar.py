"""Noun phrases by rules: articles open them; prepositions, verbs and punctuation close them. No model, no download.

English: prompts in other languages are split at punctuation, and by the names that a knowledge base has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from unicodedata import category

from bowerbird.systems.phrases import word_classes as classes
from bowerbird.systems.phrases.phrase import Phrase

JOINING = frozenset({"and", "or"})
_PART = "[\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
_TOKEN = re.compile(
    rf"{_PART}[\ufe0f\U0001f3fb-\U0001f3ff]*(?:\u200d{_PART}[\ufe0f\U0001f3fb-\U0001f3ff]*)*"
    r"|[^\W_]+(?:['’\-][^\W_]+)*|[^\s]"
)


@dataclass(frozen=True)
class Token:
    """A word, an emoji or a mark of a prompt, at `prompt[start:end]`."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """In small letters, "" for a mark."""
        if category(self.text[0]).startswith("P"):  # those of Chinese and Japanese stand among the emoji
            return ""
        return self.text.casefold() if self.text[0].isalnum() or len(self.text) > 1 or ord(self.text) > 0x218F else ""


class RuleParser:
    """The grammar as a parser."""

    def parse(self, prompt: str) -> list[Phrase]:
        """Its noun phrases."""
        return phrases(prompt)


def tokens(prompt: str) -> list[Token]:
    """The words, emoji and marks of `prompt`."""
    return [Token(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(prompt)]


def phrases(prompt: str) -> list[Phrase]:
    """The noun phrases of `prompt`, in their order."""
    return _read(prompt).finish()


def of_no_thing(prompt: str) -> list[tuple[int, int]]:
    """Where `prompt[start:end]` says what a picture is, or how it looks, and names nothing on it: "a photo of", "flat
    vector art", "in watercolor"."""
    reader = _read(prompt)
    ends = [*reader.frames, *(parts for parts, _ in reader.closed if reader.is_no_thing(parts))]
    return [(parts[0].start, parts[-1].end) for parts in ends]


def is_place(words: Sequence[str], at: int) -> bool:
    """Whether the noun of place `words[at]` says where something is, and names no thing."""
    following = words[at + 1] if at + 1 < len(words) else ""
    if following == "of":
        return True
    before = list(words[max(0, at - 2) : at])
    if before and before[-1] in ("the", "its", "upper", "lower", "far"):
        before.pop()
    leads = bool(before) and before[-1] in ("on", "to", "at", "in", "from")
    return leads and (not following or following in classes.CLOSED or following in classes.SIDES)


def _read(prompt: str) -> _Reader:
    reader = _Reader(prompt, tokens(prompt))
    for at in range(len(reader.tokens)):
        reader.read(at)
    reader.close()
    return reader


@dataclass
class _Reader:
    """Words are read one by one; `open` holds those of the phrase that is being read, `frames` what stood before "of"
    and is no thing on the picture."""

    prompt: str
    tokens: list[Token]
    open: list[Token] = field(default_factory=list)
    closed: list[tuple[list[Token], bool]] = field(default_factory=list)
    frames: list[list[Token]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.words = [token.word for token in self.tokens]

    def read(self, at: int) -> None:
        """Take up the word at `at`."""
        word, token = self.words[at], self.tokens[at]
        if word in classes.SIDES and is_place(self.words, at):
            self._drop_articles()
            self.close()
        elif word == "of":
            self._read_of(at)
        elif word in ("and", "or", "") and self._joins_adjectives(at):
            if word:
                self.open.append(token)
        elif word in classes.DETERMINERS:
            if self._content():
                self.close(leaves_out_head=False)
            self.open.append(token)
        elif not word or word in classes.PREPOSITIONS | classes.CONJUNCTIONS | classes.OTHERS:
            self.close(leaves_out_head=word in ("and", "or") and self._next(at) in classes.DETERMINERS)
        elif self._is_verb(at):
            self.close()
        else:
            if word in classes.COLORS and self._has_noun() and self._is_bare():
                self.close()  # "red heart blue square"
            self.open.append(token)

    def close(self, *, leaves_out_head: bool = False) -> None:
        """End the phrase that is open. `leaves_out_head`: as in "a red and a blue square"."""
        if self._content():
            self.closed.append((self.open, leaves_out_head))
        self.open = []

    def finish(self) -> list[Phrase]:
        """The phrases that name a thing."""
        found: list[Phrase] = []
        for number, (parts, leaves_out_head) in enumerate(self.closed):
            if self.is_no_thing(parts):
                continue
            following = self.closed[number + 1][0] if number + 1 < len(self.closed) else []
            phrase = _phrase(self.prompt, parts, following if leaves_out_head else [])
            if phrase is not None:
                found.append(phrase)
        return found

    def is_no_thing(self, parts: Sequence[Token]) -> bool:
        """Whether the last word of a phrase says how a picture looks: "flat vector art", and "a cartoon" behind "as" or
        "in"."""
        at = self.tokens.index(parts[0])
        before, last = self.words[at - 1] if at else "", parts[-1].word
        return last in classes.NOT_THINGS or (last in classes.FRAMES and before in ("as", "in"))

    def _next(self, at: int) -> str:
        return self.words[at + 1] if at + 1 < len(self.words) else ""

    def _content(self) -> list[Token]:
        return [token for token in self.open if token.word not in classes.DETERMINERS | JOINING]

    def _has_noun(self) -> bool:
        return any(token.word not in classes.ADJECTIVES for token in self._content())

    def _ends_in_noun(self) -> bool:
        return self._has_noun() and self._content()[-1].word not in classes.ADJECTIVES

    def _is_bare(self) -> bool:
        """Whether the phrase has no article and no genitive, so that nothing says how far it goes."""
        first, last = self.open[0].word, self.open[-1].word
        return first not in classes.DETERMINERS and not last.endswith(("of", "'s", "’s"))

    def _drop_articles(self) -> None:
        while self.open and self.open[-1].word in classes.DETERMINERS:
            self.open.pop()

    def _read_of(self, at: int) -> None:
        """A bowl of soup is one thing; the roof of a house is two; a photo of a fox is a fox."""
        if self.open and self.open[-1].word in classes.FRAMES:
            self.frames.append(self.open)
            self.open = []
        elif self._ends_in_noun() and (following := self._next(at)) and following not in classes.CLOSED:
            self.open.append(self.tokens[at])
        else:
            self.close()

    def _joins_adjectives(self, at: int) -> bool:
        """Whether "and" or a comma stands between adjectives of one noun, as in "a black and white cat"."""
        if self.words[at] == "" and self.tokens[at].text != ",":
            return False
        content, following = self._content(), self._next(at)
        if not content or self._has_noun() or not following or following in classes.CLOSED:
            return False
        if len(content) > 1 and content[-1].word in classes.SHAPES:  # "a green square and red rectangle"
            return False
        return self.words[at] != "" or following in classes.ADJECTIVES

    def _is_verb(self, at: int) -> bool:
        """Whether the word is the verb after a noun, or opens a phrase of its own: "wearing a hat"."""
        word, following = self.words[at], self._next(at)
        before_object = not following or following in classes.CLOSED
        if word in classes.FINITE_VERBS:
            return self._has_noun() or not self._content()
        if word.endswith("ing") and word not in classes.NOUNS_IN_ING and len(word) > 4:
            return self._has_noun() or (not self.open and before_object)
        if word in classes.PARTICIPLES or (word.endswith("ed") and len(word) > 4):
            return before_object and (self._has_noun() or not self.open) and following != ""
        return False


def _phrase(prompt: str, parts: list[Token], following: list[Token]) -> Phrase | None:
    """The phrase of these words, None where they name no thing. `following`: the phrase that has the noun."""
    while parts and parts[-1].word in JOINING | {"of"}:
        parts = parts[:-1]
    content = [token for token in parts if token.word not in classes.DETERMINERS | JOINING]
    if any(token.word not in classes.ADJECTIVES for token in content):
        while content[-1].word in classes.ADJECTIVES - classes.ALSO_NOUNS:  # "a bowl full"
            parts = parts[: parts.index(content.pop())]
    if not content:
        return None
    noun = content.index(next((token for token in content if token.word == "of"), content[-1]))
    noun = noun - 1 if content[noun].word == "of" and noun else noun
    head = prompt[content[noun].start : content[-1].end]
    attributes = content[:noun]
    if all(token.word in classes.ADJECTIVES for token in content) and not _is_noun(parts):
        if not following or not _is_noun(following):
            return None
        head, attributes = following[-1].text, content
    elif content[noun].word in classes.NOT_THINGS:
        return None
    start, end = parts[0].start, parts[-1].end
    return Phrase(prompt[start:end], start, end, head, tuple(token.text for token in attributes))


def _is_noun(parts: list[Token]) -> bool:
    """Whether the last of these words can be a head: adjectives alone are no thing, but for those that are nouns too,
    as in "a blue square" and "an orange"."""
    last = parts[-1].word
    return last not in classes.ADJECTIVES or (
        last in classes.ALSO_NOUNS and (len(parts) > 1 or parts[0].word in classes.DETERMINERS)
    )
