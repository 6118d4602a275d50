"""Icons of iconify packages as pictures: an SVG's body checked, completed and rendered with resvg."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image

SIZE = 128
"""Edge length of a picture in pixels."""
MAX_BODY = 8 << 20
"""Characters an icon's body may have."""

_HREF = re.compile(r"href", re.IGNORECASE)
_OWN_HREF = re.compile(r"""\b(?:xlink:)?href\s*=\s*["']#""")
_URL = re.compile(r"url\s*\(", re.IGNORECASE)
_OWN_URL = re.compile(r"""url\(\s*["']?#""")
_PARTS = r"<\s*(?:\w+:)?(?:image|feImage|script|style|foreignObject|text|a)\b"
_REFUSED = re.compile(rf"<!|<\?|{_PARTS}|\bxml:base\b|data:", re.IGNORECASE)
_GRADIENT = re.compile(r"<(?:linear|radial)Gradient\b[^>]*>")
_ID = re.compile(r"""\sid="([^"]*)\"""")
_LINK = re.compile(r"""\b(?:xlink:)?href="#([^"]*)\"""")
_TRANSFORM = re.compile(r"""\sgradientTransform="[^"]*\"""")
_NUMBERS = {"left": 0.0, "top": 0.0, "width": 16.0, "height": 16.0}


def document(icons: Mapping[str, Any], name: str) -> str | None:
    """The SVG of icon `name`, 128 px, from an iconify set's parsed icons.json; None when there is none of that name.

    An icon that is not square is centered. Aliases are followed; one that is turned or mirrored counts as not there.

    Raises: BowerbirdError when the body refers to anything outside itself, or is no icon.
    """
    icon = icons["icons"].get(name)
    for _ in range(8):
        if icon is not None:
            break
        alias = icons.get("aliases", {}).get(name)
        if not isinstance(alias, dict) or set(alias) & {"rotate", "hFlip", "vFlip", *_NUMBERS}:
            return None
        name = str(alias.get("parent"))
        icon = icons["icons"].get(name)
    if icon is None or set(icon) & {"rotate", "hFlip", "vFlip"}:
        return None
    body = icon.get("body")
    if not isinstance(body, str):
        raise BowerbirdError(f"icon {name!r}: has no body; the package is not an iconify set")
    check(body, name)
    try:
        box = [float(icon.get(key, icons.get(key, default))) for key, default in _NUMBERS.items()]
    except (TypeError, ValueError) as error:
        raise BowerbirdError(f"icon {name!r}: its viewBox is not numeric ({error})") from error
    view = " ".join(f"{number:g}" for number in box)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} width="{SIZE}" height="{SIZE}" viewBox="{view}">{inherit_transforms(body)}</svg>'


def check(body: str, name: str) -> None:
    """Refuse what could reach outside the icon: foreign links, entities, pictures, scripts, styles and text.

    Raises: BowerbirdError naming the icon and what was found.
    """
    if len(body) > MAX_BODY:
        raise BowerbirdError(f"icon {name!r}: its body is larger than {MAX_BODY >> 20} MB; not drawn")
    refused = _REFUSED.search(body)
    if refused is not None:
        raise BowerbirdError(f"icon {name!r}: its body holds {refused[0]!r}, which no icon here needs; not drawn")
    for found, own in ((_HREF, _OWN_HREF), (_URL, _OWN_URL)):
        if len(found.findall(body)) != len(own.findall(body)):
            raise BowerbirdError(f"icon {name!r}: its body refers to something outside itself; not drawn")


def inherit_transforms(body: str) -> str:
    """The body with `gradientTransform` written out where a gradient takes it over from the one it links to.

    SVG 1.1, section 13.2, has it inherited through `href`; resvg inherits the other attributes but not this one.
    """
    known = {found[1]: tag for tag in _GRADIENT.findall(body) if (found := _ID.search(tag))}

    def write_out(match: re.Match[str]) -> str:
        tag, seen = match[0], set[str]()
        while not (transform := _TRANSFORM.search(tag)):
            link = _LINK.search(tag)
            if link is None or link[1] in seen or link[1] not in known:
                return match[0]
            seen.add(link[1])
            tag = known[link[1]]
        if tag == match[0]:
            return match[0]
        end = -2 if match[0].endswith("/>") else -1
        return match[0][:end] + transform[0] + match[0][end:]

    return _GRADIENT.sub(write_out, body)


def draw(svg: str) -> Image.Image:
    """The picture of an SVG: RGBA, 128 x 128 px, transparent where nothing is drawn. No font and no file is read.

    Raises: BowerbirdError when resvg-py is not installed or cannot draw it.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise BowerbirdError("drawing icons needs resvg-py: pip install 'bowerbird[data]'") from error

    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))
    except ValueError as error:
        raise BowerbirdError(f"resvg cannot draw an icon: {error}") from error
    with images.open_image(io.BytesIO(png), formats=("PNG",)) as picture:
        if picture.size != (SIZE, SIZE):
            raise BowerbirdError(f"resvg drew {picture.size} px where ({SIZE}, {SIZE}) was asked for")
        return picture.convert("RGBA")


def encode(picture: Image.Image) -> bytes:
    """The picture as lossless WebP."""
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True, quality=75, method=4)
    return out.getvalue()
