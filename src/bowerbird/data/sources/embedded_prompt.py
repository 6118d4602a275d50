"""What a picture says of itself: the prompt that a program wrote into it (InvokeAI, Automatic1111 and what writes as it
does, as Forge, Fooocus, SwarmUI and bowerbird; NovelAI, ComfyUI), else the description of its XMP or IPTC.

A generated picture is called by a number, and its prompt is all that says what it shows. The texts are strangers': no
more than `MOST_TEXT` of each is read, what cannot be read is no prompt, and only plain text comes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.data.sources.comfy_graph import prompt_of_graph, prompt_of_workflow
from bowerbird.data.sources.embedded_texts import EXIF_COMMENT, IPTC, MOST_TEXT, XMP, texts_in
from bowerbird.data.sources.xmp_text import text_of_xmp

MOST_PROMPT = 2000
"""Characters of a prompt; a longer one is cut."""
MOST_VALUES = 100_000
"""Values of one JSON text; a graph has some thousand."""
UNCONDITIONAL = "(unconditional)"
"""What bowerbird writes in place of a prompt where there was none."""
_SETTINGS = re.compile(r"(^|\n)(Negative prompt|Steps): ")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SAYS_NOTHING = re.compile(
    r"(olympus|minolta|kodak|nikon|sony|samsung)?\s*(dsc|(camera )?pictures?|digital (still )?camera|exif_jpeg_picture)"
    r"|default|screenshot|untitled\S*( \d+)?|print|web|mobile|basic rgb",
    re.IGNORECASE,
)
"""What cameras and drawing programs write as a description or title when nobody gave one."""


def prompt_in(data: bytes) -> str:
    """The prompt in a PNG, JPEG or WebP, else the description in it; empty where there is none or `data` is of another
    format."""
    texts = texts_in(data)
    for found in _candidates(texts):
        prompt = _CONTROL.sub(" ", found).strip()[:MOST_PROMPT]
        if prompt and prompt != UNCONDITIONAL:
            return prompt
    return ""


def _candidates(texts: Mapping[str, str]) -> Iterator[str]:
    """All that may be the prompt, the surest first."""
    yield _field(texts.get("invokeai_metadata"), "positive_prompt")
    yield _of_old_invoke(texts.get("sd-metadata"))
    yield _of_parameters(texts.get("parameters", ""))
    yield _of_parameters(texts.get(EXIF_COMMENT, ""))
    yield _field(texts.get("Comment"), "prompt")  # NovelAI
    yield prompt_of_graph(_object(texts.get("prompt")))
    yield prompt_of_workflow(_object(texts.get("workflow")))
    xmp = texts.get(XMP, "")
    for text in (text_of_xmp(xmp, "dc:description"), texts.get(IPTC, ""), text_of_xmp(xmp, "dc:title")):
        yield "" if _SAYS_NOTHING.fullmatch(text.strip()) else text


def _of_parameters(text: str) -> str:
    """Automatic1111's text: the prompt, and below it what was not wanted and the settings. Others have JSON there: an
    object with the prompt (Fooocus; SwarmUI one object deeper), or ComfyUI's graph."""
    if text.startswith("{"):
        found = _object(text)
        inner = found.get("sui_image_params")
        prompt = (inner if isinstance(inner, dict) else found).get("prompt")
        if isinstance(prompt, str):
            return prompt
        return prompt_of_graph(prompt if isinstance(prompt, dict) else found)
    settings = _SETTINGS.search(text)
    return text[: settings.start()].strip() if settings else ""


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
    if not text:
        return {}
    try:
        found = parse_json(text, "a picture", "text", characters=MOST_TEXT, values=MOST_VALUES)
    except BowerbirdError:
        return {}
    return found if isinstance(found, dict) else {}
