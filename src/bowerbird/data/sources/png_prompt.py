"""The prompt that a program wrote into a PNG it generated: InvokeAI, Automatic1111 and what writes as it does (Forge,
Fooocus, bowerbird).

A picture of theirs is called by a number, and its prompt is all that says what it shows. The texts are strangers':
no more than `MOST_TEXT` of each is read, and what cannot be read is no prompt.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import PNG_SIGNATURE
from bowerbird.core.text import parse_json

MOST_TEXT = 2**18
"""Bytes of one text in a PNG; a longer one is not read."""
MOST_TEXTS = 64
"""Texts of a PNG that are looked at."""
MOST_PROMPT = 2000
"""Characters of a prompt; a longer one is cut."""
UNCONDITIONAL = "(unconditional)"
"""What bowerbird writes in place of a prompt where there was none."""
_SETTINGS = re.compile(r"(^|\n)(Negative prompt|Steps): ")


def prompt_in(data: bytes) -> str:
    """The prompt in the texts of a PNG, empty where there is none or `data` is no PNG."""
    texts = {key: text for key, text in _texts(data) if key in ("invokeai_metadata", "sd-metadata", "parameters")}
    found = (
        _field(texts.get("invokeai_metadata"), "positive_prompt")
        or _of_old_invoke(texts.get("sd-metadata"))
        or _of_parameters(texts.get("parameters", ""))
    )
    return found.strip()[:MOST_PROMPT]


def _of_parameters(text: str) -> str:
    """Automatic1111's text: the prompt, and below it what was not wanted and the settings; Fooocus has JSON there."""
    if text.startswith("{"):
        return _field(text, "prompt")
    settings = _SETTINGS.search(text)
    prompt = text[: settings.start()].strip() if settings else ""
    return "" if prompt == UNCONDITIONAL else prompt


def _of_old_invoke(text: str | None) -> str:
    """InvokeAI's text up to its version 2: one prompt, or a list of weighted ones."""
    image = _object(text).get("image")
    prompt = image.get("prompt") if isinstance(image, dict) else None
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        prompt = prompt[0].get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _field(text: str | None, key: str) -> str:
    value = _object(text).get(key)
    return value if isinstance(value, str) else ""


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = parse_json(text, "a PNG's text", "text", characters=MOST_TEXT) if text else None
    except BowerbirdError:
        return {}
    return found if isinstance(found, dict) else {}


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    """The texts of a PNG by their keys, wherever they stand in it."""
    at, left = len(PNG_SIGNATURE) if data.startswith(PNG_SIGNATURE) else len(data), MOST_TEXTS
    while at + 8 <= len(data) and left:
        length = int.from_bytes(data[at : at + 4], "big")
        kind, start = data[at + 4 : at + 8], at + 8
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MOST_TEXT:
            left -= 1
            key, _, rest = data[start : start + length].partition(b"\0")
            text = _text(kind, rest)
            if text is not None:
                yield key.decode("latin-1"), text
        at = start + length + 4


def _text(kind: bytes, rest: bytes) -> str | None:
    """What stands after the key of a text; None where it cannot be read."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        packed, encoding, body = True, "latin-1", rest[1:]
    else:
        parts = rest[2:].split(b"\0", 2)  # after two bytes of compression: the language, the key in it, the text
        if len(parts) < 3:
            return None
        packed, encoding, body = rest[:1] == b"\1", "utf-8", parts[2]
    try:
        return (zlib.decompressobj().decompress(body, MOST_TEXT) if packed else body).decode(encoding, "replace")
    except zlib.error:
        return None
