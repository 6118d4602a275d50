"""Phrases that a person marks: "a [red fox] beside a [lighthouse]". A backslash makes a bracket, or a backslash before
one, a character like any other."""

from __future__ import annotations

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.phrases import grammar
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase

ESCAPED = "[]\\"


def read_brackets(prompt: str) -> ParsedPrompt:
    """`prompt` without its brackets, and what stood in them; `explicit` where there were some.

    Raises: BowerbirdError for a bracket without its partner, one within another, or nothing in between.
    """
    text: list[str] = []
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    at = 0
    while at < len(prompt):
        character = prompt[at]
        if character == "\\" and prompt[at + 1 : at + 2] and prompt[at + 1] in ESCAPED:
            text.append(prompt[at + 1])
            at += 2
            continue
        at += 1
        if character == "[":
            if opened is not None:
                raise _misplaced(prompt, at, "stands within another")
            opened = len(text)
        elif character == "]":
            if opened is None:
                raise _misplaced(prompt, at, "closes nothing")
            if not "".join(text[opened:]).strip():
                raise _misplaced(prompt, at, "closes an empty phrase")
            spans.append((opened, len(text)))
            opened = None
        else:
            text.append(character)
    if opened is not None:
        raise BowerbirdError(f"prompt {prompt!r}: a bracket is not closed; add `]`, or write `\\[` for the character")
    plain = "".join(text)
    return ParsedPrompt(plain, tuple(_phrase(plain, start, end) for start, end in spans), bool(spans))


def escape(prompt: str) -> str:
    """`prompt` with brackets that mark nothing."""
    return "".join(f"\\{c}" if c in ESCAPED else c for c in prompt)


def _phrase(text: str, start: int, end: int) -> Phrase:
    """What stood in one pair of brackets, without the blanks around it; whole, whatever the grammar makes of it."""
    inside = text[start:end]
    start, inside = start + len(inside) - len(inside.lstrip()), inside.strip()
    found = grammar.phrases(inside)
    if len(found) == 1:
        return Phrase(inside, start, start + len(inside), found[0].head, found[0].attributes)
    return Phrase(inside, start, start + len(inside), inside)


def _misplaced(prompt: str, at: int, why: str) -> BowerbirdError:
    return BowerbirdError(
        f"prompt {prompt!r}: the bracket at character {at} {why}; mark phrases as in `a [red fox]`, and write `\\[` or"
        " `\\]` for the character"
    )
