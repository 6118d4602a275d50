"""What a person should know of a bundled model before using it, in short; `docs/models.md` is the whole of it."""

from __future__ import annotations

from typing import Any

LICENSE = "weights Apache-2.0; trained on pictures under Apache-2.0, CC-BY-4.0 and MIT"
DATA = (
    "1,740 entities in four drawing styles: Noto Emoji (Apache-2.0), Twemoji (CC-BY-4.0, © Twitter and contributors),"
    " Fluent Emoji in color and flat (MIT, © Microsoft); names are Unicode CLDR's"
)
LIMITS = (
    "drawings of single objects on white at 64 px; no photographs, scenes, writing or faces of people, and nothing that"
    " is not in the knowledge base; fine strokes are smeared"
)


DRAWINGS = (
    "17,716 drawings of sixteen styles: Noto Emoji and its first version (Apache-2.0, © Google), Twemoji (CC-BY-4.0,"
    " © Twitter and contributors), Fluent Emoji in color and flat, Fluent UI color icons (MIT, © Microsoft), IconPark"
    " (Apache-2.0, ByteDance), circle-flags (MIT, HatScripts), Marketeq (MIT), Meteocons (MIT, Bas Milius), six sets of"
    " Streamline (CC-BY-4.0); names are Unicode CLDR's and the icons' own"
)


def _card(*figures: tuple[str, str], data: str = DATA, limits: str = LIMITS) -> dict[str, Any]:
    shown = [{"what": what, "value": value} for what, value in figures]
    return {"license": LICENSE, "data": data, "figures": shown, "limits": limits}


CARDS: dict[str, dict[str, Any]] = {
    "tiny-rdm": _card(
        ("rare entities from their four pictures, named by a judge, top-1 of 100", "87.7% [82.8, 92.0]"),
        ("the same without neighbors", "1.2% [0.5, 2.0]"),
        ("Fréchet distance with neighbors / without, equal training", "0.53 [0.43, 0.63]"),
        ("one-style database: seen in that style, mean of five", "55.5% (goal 60%, missed)"),
    ),
    "tiny-rdm-fast": _card(
        ("Fréchet distance relative to tiny-rdm's two hundred passes, all · rare things, in two passes", "1.03 · 1.11")
    ),
    "tiny-reimagen": _card(
        ("rare entities by name, named by a judge, top-1 of 100", "88.0% [84.7, 91.0]"),
        ("the same network without neighbors", "1.8% [0.8, 3.0]"),
        limits=f"{LIMITS}; with one neighbor the picture is that neighbor, softened",
    ),
    "reimagen-drawings": _card(
        (
            "from one picture of an icon style never seen, of discs · of lines, 64 px: dB; tiny-reimagen's",
            "23.7 · 18.1; 17.7 · 12.6",
        ),
        ("deviation where that picture is flat, of 255; tiny-reimagen's", "2.9 · 6.7; 7.0 · 6.9"),
        data=DRAWINGS,
        limits=(
            "drawings of single things, up to 128 px; no photographs, scenes or writing, and nothing that is not in the"
            " knowledge base; outlines run, small parts are lost; with one neighbor the picture is that neighbor"
        ),
    ),
    "tiny-sd": _card(
        ("things it was shown by name, named by a judge among 1,840 (goal 85%, missed)", "69.7% [64.2, 74.6]"),
        (
            "rare things, which it was not shown: alone, and with two references by tiny-ip-adapter (goal 70%, missed)",
            "1.8%, 58.4%",
        ),
        ("two shapes: colors in their places · both right", "77% · 59%"),
        data=f"{DRAWINGS}; 300 of their names, and scenes composed of them",
        limits=(
            "drawings of single things at 64 px, 300 by name; scenes have the right ground, sides and colors, and their"
            " things are blobs unless they are shapes; nothing else by name: that is what a knowledge base is for"
        ),
    ),
    "tiny-instruct": _card(
        (
            "pictures that became another thing, by name, with a reference from a knowledge base at image guidance 3,"
            " which keeps 23.4 dB outside the change (goal 60% at 23 dB) · at 1.5, which keeps 22.3 dB · without one",
            "68.0% [60.6, 75.1] · 68.6% [61.3, 75.9] · 10.6% [6.6, 15.1]",
        ),
        data=f"{DRAWINGS}; 117,000 edits composed of them",
        limits=(
            "drawings at 64 px; colors, grounds, gray and negative, sizes and simple shapes come as asked; what becomes"
            " another thing needs a reference, whose look it takes; small parts, one of several things, and mirrored"
            " drawings fail"
        ),
    ),
    "tiny-racm3": _card(
        (
            "rare entities by name, with two documents of them, named by a judge, top-1 of 100",
            "72.8% [67.6, 78.2]",
        ),
        ("the same with documents of other things · without documents", "0.6% · 0.8%"),
        data=f"{DRAWINGS}; their names",
        limits=(
            "drawings of single things on white or cream at 64 px, much as the first document shows them; two documents"
            " that differ much, colored grounds and names without a document give scribbles"
        ),
    ),
    "tiny-knn": _card(
        ("a rare thing by name, before its drawings were in the database and after", "5% → 84%"),
        ("edits that became what was asked, at 23.3 dB outside the change", "37.0%"),
        ("image-to-image with the same network, as much kept", "20.2%"),
        limits=f"{LIMITS}; an edit never takes a shape away altogether",
    ),
}
"""By bundled name; each has `license`, `data`, `figures` (`what`, `value`) and `limits`."""
