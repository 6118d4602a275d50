"""The texts that lie in a picture file beside its pixels: those of a PNG by their keys; of PNG, JPEG and WebP the Exif
comment, the XMP packet and the IPTC caption.

Walked by hand, as no pixel is needed and every length is a stranger's: what is longer than `MOST_TEXT` or comes after
`MOST_PARTS` of them is not read, and nothing that is wrong raises.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from bowerbird.core.images import PNG_SIGNATURE
from bowerbird.data.report import SourceReport
from bowerbird.data.text import read_text

MOST_TEXT = 2**20
"""Bytes of one text; a longer one is not read. A large graph of ComfyUI takes 300 KB."""
MOST_PARTS = 64
"""Parts of a file that may hold a text, and are looked at."""
EXIF_COMMENT, XMP, IPTC = "Exif UserComment", "XML:com.adobe.xmp", "IPTC caption"
"""Keys of the texts that are no PNG's own."""
KEYS = frozenset({"invokeai_metadata", "sd-metadata", "parameters", "prompt", "workflow", "Comment", XMP})
"""Keys of a PNG's texts that are read."""
_COMMENT, _EXIF_FOLDER = 0x9286, 0x8769
_COMFY_TAGS = range(0x0100, 0x0111)
"""ComfyUI writes its graphs into WebP as the tags from the model downwards, each with its key before it."""


def texts_in(data: bytes) -> dict[str, str]:
    """The texts in a picture by their keys, the first of each key."""
    texts: dict[str, str] = {}
    for key, text in _texts(data):
        texts.setdefault(key, text)
    return texts


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    if data.startswith(PNG_SIGNATURE):
        yield from _of_png(data)
    elif data.startswith(b"\xff\xd8"):
        yield from _of_jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from _of_webp(data)


def _of_png(data: bytes) -> Iterator[tuple[str, str]]:
    at, left = len(PNG_SIGNATURE), MOST_PARTS
    while at + 8 <= len(data) and left:
        length = int.from_bytes(data[at : at + 4], "big")
        kind, start = data[at + 4 : at + 8], at + 8
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") and length <= MOST_TEXT:
            left -= 1
            if kind == b"eXIf":
                yield from _of_exif(data[start : start + length])
            else:
                name, _, rest = data[start : start + length].partition(b"\0")
                key = name.decode("latin-1")
                text = _png_text(kind, rest) if key in KEYS else None
                if text is not None:
                    yield key, text
        at = start + length + 4


def _png_text(kind: bytes, rest: bytes) -> str | None:
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


def _of_jpeg(data: bytes) -> Iterator[tuple[str, str]]:
    at = 2
    for _ in range(4 * MOST_PARTS):  # a color profile alone may take 255
        marker, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA) or length < 2:
            return  # the pixels begin
        part = data[at + 4 : at + 2 + length]
        if marker[1] == 0xE1 and part.startswith(b"Exif\0\0"):
            yield from _of_exif(part[6:])
        elif marker[1] == 0xE1 and part.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            yield XMP, part[29:].decode("utf-8", "replace")
        elif marker[1] == 0xED and part.startswith(b"Photoshop 3.0\0"):
            yield from _of_photoshop(part[14:])
        at += 2 + length


def _of_webp(data: bytes) -> Iterator[tuple[str, str]]:
    at = 12
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            return
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        part = data[at + 8 : at + 8 + length] if length <= MOST_TEXT else b""
        if kind == b"EXIF":
            yield from _of_exif(part.removeprefix(b"Exif\0\0"))
        elif kind == b"XMP ":
            yield XMP, part.decode("utf-8", "replace")
        at += 8 + length + length % 2


def _of_exif(part: bytes) -> Iterator[tuple[str, str]]:
    """The comment, which Fooocus puts beside the folder that it belongs to, and ComfyUI's graphs."""
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(part)
        values = dict(exif.items())
        comment = exif.get_ifd(_EXIF_FOLDER).get(_COMMENT) or values.get(_COMMENT)
    except Exception:  # Pillow raises nearly anything on hostile bytes, and a picture is no worse without its comment
        return
    if isinstance(comment, bytes):
        yield EXIF_COMMENT, _comment_text(comment)
    elif isinstance(comment, str):
        yield EXIF_COMMENT, comment
    for tag in _COMFY_TAGS:
        key, _, text = str(values.get(tag, "")).partition(":")
        if key in ("prompt", "workflow"):
            yield key, text.rstrip("\0")


def _comment_text(comment: bytes) -> str:
    """A comment after the eight bytes that say its encoding. UNICODE is UTF-16 of either order; the settings below a
    prompt are plain letters, so the zero bytes show which."""
    head, body = comment[:8], comment[8:]
    if head.startswith(b"UNICODE") and not body.startswith((b"\xff\xfe", b"\xfe\xff")) and 0 in body:
        little = body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace")
    known = head.rstrip(b"\0") in (b"UNICODE", b"ASCII", b"JIS", b"")
    return read_text(body if known else comment, "", SourceReport()).rstrip("\0")


def _of_photoshop(part: bytes) -> Iterator[tuple[str, str]]:
    """The caption in Photoshop's blocks: of block 0x0404, which is IPTC's, the set 2:120."""
    at = 0
    for _ in range(MOST_PARTS):
        if part[at : at + 4] != b"8BIM":
            return
        name = part[at + 6] if at + 6 < len(part) else 0
        start = at + 7 + name + (name + 1) % 2
        length = int.from_bytes(part[start : start + 4], "big")
        block = part[start + 4 : start + 4 + length]
        if part[at + 4 : at + 6] == b"\x04\x04":
            yield from _of_iptc(block)
        at = start + 4 + length + length % 2


def _of_iptc(block: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    for _ in range(MOST_PARTS):
        if block[at : at + 1] != b"\x1c" or at + 5 > len(block):
            return
        length = int.from_bytes(block[at + 3 : at + 5], "big")
        if block[at + 1 : at + 3] == b"\x02\x78":
            yield IPTC, read_text(block[at + 5 : at + 5 + length], "", SourceReport())
            return
        at += 5 + length
