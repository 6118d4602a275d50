"""Text that strangers wrote: safe on a terminal, valid as JSON, and bounded when it is parsed.

Captions, names, records and metadata come from anybody. What is shown to a person goes through `printable`, what is
written as JSON through `to_json`, what is read as JSON through `parse_json`.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from bowerbird.core.errors import BowerbirdError

MOST_CHARACTERS = 64 * 2**20
"""Longest JSON text that is parsed, unless the caller says less."""
MOST_VALUES = 2_000_000
"""Most values in one JSON text: a small text of brackets becomes objects of many times its size."""
MOST_LEVELS = 64
"""Deepest nesting: functions that walk a value call themselves once a level."""

_BLANKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
# C0 and C1 control characters; the marks, embeddings, overrides and isolates that turn the direction of writing;
# halves of pairs; the byte order mark and the characters that annotate others
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb]")


def printable(text: str) -> str:
    """`text` as one line that changes nothing but the place where it stands: line breaks become a blank, other control
    characters are written as `\\x1b`, as are those that turn the direction of writing."""
    return _UNSAFE.sub(_escaped, _BLANKS.sub(" ", text))


def in_shell(place: object) -> str:
    """A path as a command line takes it: a name may hold blanks and quotes, and a command that is shown is to work."""
    return shlex.quote(str(place))


def with_article(name: str) -> str:
    """The name of a class or a model with `a` or `an`, as it is spoken: an RDMPipeline, a UNet, an OmniGenPipeline."""
    spelled = len(name) > 1 and name[:2].isupper()  # its first letter is said by itself: R is "ar"
    return f"{'an' if name[:1] in ('AEFHILMNORSX' if spelled else 'AEIOaeiou') else 'a'} {name}"


LONGEST = 300
"""Characters of a text that is shown or credited, unless the caller says otherwise."""


def shorten(text: str, most: int = LONGEST) -> str:
    """`text` as one `printable` line of at most `most` characters; of a longer one, as a caption may be a novel, the
    middle is left out."""
    line = printable(_without_middle(text, most))
    return _without_middle(line, most)


def _without_middle(text: str, most: int) -> str:
    tail = most // 3
    return text if len(text) <= most else f"{text[: most - tail - 3]} … {text[-tail:]}"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def json_ready(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are none become None, halves of pairs U+FFFD, what JSON has no form
    for its text."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {json_ready(key) if isinstance(key, str) else key: json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    number = getattr(value, "tolist", None)  # numpy's numbers and arrays
    return json_ready(number() if number is not None else str(value))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Valid JSON of `value` (see `json_ready`), in characters that do nothing on a terminal; parsing gives the
    characters themselves."""
    text = json.dumps(json_ready(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def parse_json(
    text: str | bytes, place: str, what: str, *, characters: int = MOST_CHARACTERS, values: int = MOST_VALUES
) -> Any:
    """The value of a JSON text (bytes: UTF-8) that anybody may have written.

    Raises: BowerbirdError, naming `place` and `what` it is, for text that is not JSON, too long, too deep, or of too
    many values.
    """
    try:
        if len(text) > characters:
            raise ValueError(f"{len(text):,} characters, at most {characters:,} are read")
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        if sum(map(decoded.count, "[{,:")) > values:
            raise ValueError(f"more than {values:,} values")
        value = json.loads(decoded)
        _check_levels(value)
    except RecursionError as error:
        raise BowerbirdError(f"{place}: this {what} is damaged (nested deeper than {MOST_LEVELS} levels)") from error
    except ValueError as error:
        raise BowerbirdError(f"{place}: this {what} is damaged ({error})") from error
    return value


def _check_levels(value: Any) -> None:
    """Raises: ValueError for a value nested deeper than `MOST_LEVELS`."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MOST_LEVELS} levels")
