"""The XMP packet of a picture: that a trained model made it, of what was asked, and whose pictures it came from.

Texts in it are strangers'. It is well-formed whatever they hold, and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from bowerbird.core.credit import MAKERS, RIGHTS, is_address, values_of
from bowerbird.core.text import shorten
from bowerbird.core.version import __version__

KEY = "XML:com.adobe.xmp"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
LONGEST_PROMPT, LONGEST_RIGHTS = 10_000, 50_000
"""Characters of texts; longer ones are cut."""
MOST_SOURCES = 1000
# what XML 1.0 has no character for, C1 controls, and marks that turn the direction of writing
_NOT_XML = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def source_type(record: Mapping[str, Any]) -> str:
    """The IPTC term for how a picture was made: by a model alone, or from another picture by one."""
    return EDITED if "edit" in record else GENERATED


def used_neighbors(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The neighbors that a picture was made from: those of weight 0 were left out."""
    near = record.get("neighbors")
    rows: list[Mapping[str, Any]] = [row for row in near if isinstance(row, dict)] if isinstance(near, list) else []
    return [row for row in rows if row.get("weight", 1)][:MOST_SOURCES]


def source_of(neighbor: Mapping[str, Any]) -> str:
    """How a neighbor is named to the world: the first address in its credit, else its file name."""
    credit = neighbor.get("credit")
    values = list(credit.values()) if isinstance(credit, dict) else []
    name = neighbor.get("name")
    return next(
        (shorten(value) for value in values if is_address(value)), shorten(name) if isinstance(name, str) else ""
    )


def rights(record: Mapping[str, Any]) -> str:
    """The licenses of the neighbors, with whom they are by: `CC-BY-4.0, Ann: a.png, b.png; CC0-1.0: c.png`. Nothing
    where no column of rights is credited."""
    names: dict[str, list[str]] = {}
    for neighbor in used_neighbors(record):
        terms = values_of(neighbor, RIGHTS)
        if terms:
            names.setdefault(", ".join([*terms, *values_of(neighbor, MAKERS)]), []).append(source_of(neighbor))
    whole = "; ".join(f"{terms}: {', '.join(dict.fromkeys(filter(None, of)))}" for terms, of in names.items())
    return whole if len(whole) <= LONGEST_RIGHTS else f"{whole[: LONGEST_RIGHTS - 1]}…"


def packet(record: Mapping[str, Any], description: str) -> str:
    """The XMP packet for a picture's record; `description`: what was asked for."""
    edited = record.get("edit")
    own = edited.get("name") if isinstance(edited, dict) else None
    sources = [shorten(own) if isinstance(own, str) else "", *map(source_of, used_neighbors(record))]
    parts = [
        _alternatives("dc:description", description[:LONGEST_PROMPT]),
        _sequence("dc:source", list(dict.fromkeys(filter(None, sources)))),
        _alternatives("dc:rights", rights(record)),
        f"<xmp:CreatorTool>bowerbird {_text(__version__)}</xmp:CreatorTool>",
    ]
    namespaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" {namespaces}'
        f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPES}{source_type(record)}">{"".join(parts)}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _alternatives(name: str, text: str) -> str:
    return f'<{name}><rdf:Alt><rdf:li xml:lang="x-default">{_text(text)}</rdf:li></rdf:Alt></{name}>' if text else ""


def _sequence(name: str, texts: Sequence[str]) -> str:
    inner = "".join(f"<rdf:li>{_text(text)}</rdf:li>" for text in texts)
    return f"<{name}><rdf:Seq>{inner}</rdf:Seq></{name}>" if texts else ""


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("", text))
