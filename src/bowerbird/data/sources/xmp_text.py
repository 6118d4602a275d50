"""A text of an XMP packet, found without an XML parser: a stranger's XML may name entities that grow without bound."""

from __future__ import annotations

from html import unescape

MOST_CHARACTERS = 20_000
"""Characters of one text, as they stand in the XML; what is beyond is not read."""


def text_of_xmp(packet: str, name: str) -> str:
    """The text of a property such as `dc:description` (of its languages the first, which is the default), empty where
    it is not there."""
    inner = _between(packet, f"<{name}", f"</{name}>")
    if inner is None:
        quoted = packet.partition(f" {name}=")[2][: MOST_CHARACTERS + 2]
        mark = quoted[:1]
        return _plain(quoted[1:].partition(mark)[0]) if mark in ('"', "'") and mark else ""
    item = _between(inner, "<rdf:li", "</rdf:li>")
    return _plain(inner if item is None else item)


def _between(text: str, opening: str, closing: str) -> str | None:
    """What stands inside the first element of that name."""
    start = text.find(opening)
    inside = text.find(">", start) + 1 if start >= 0 else 0
    end = text.find(closing, inside) if inside else -1
    return text[inside : min(end, inside + MOST_CHARACTERS)] if end >= 0 else None


def _plain(text: str) -> str:
    if text.startswith("<![CDATA["):
        return text[9:].partition("]]>")[0].strip()
    return "" if "<" in text else unescape(text).strip()
