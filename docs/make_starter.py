"""Make the starter collection that travels with the package, `src/bowerbird/data/datasets/starter.zip`.

python docs/make_starter.py emoji.parquet icons.parquet      # or one file of both: bowerbird datasets drawings

Things that no model was trained on (`split` is rare), as four sets under the MIT license or Apache-2.0 draw them. Of
the emoji sets the things that Fluent Emoji has, of the icons those of them that a person would know by their name.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
OUT = ROOT / "src" / "bowerbird" / "data" / "datasets" / "starter.zip"
COLUMNS = ("id", "style", "name", "split", "image")


@dataclass(frozen=True)
class IconSet:
    """Whom the pictures of a style are by, where they are published, and under which license (SPDX)."""

    title: str
    author: str
    license: str
    url: str


SETS = {
    "fluent": IconSet("Fluent Emoji", "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    "icon-park": IconSet("IconPark", "ByteDance", "Apache-2.0", "https://github.com/bytedance/IconPark"),
    "noto": IconSet("Noto Emoji", "Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    "noto-v1": IconSet("Noto Emoji (v1)", "Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
}
NAMED = {"koala bear": "koala", "phone telephone": "telephone", "basketball one": "basketball", "bottle one": "bottle"}
NAMED |= {"cake four": "cake", "fence two": "fence", "fire two": "fire", "tree one": "tree", "goblet one": "goblet"}
"""Icons whose name is not what a person would say."""
ICONS = (
    "airplane", "arena", "avocado", "balance", "basketball one", "blackboard", "bottle one", "bow", "cake four",
    "candy", "carrot", "chair", "chili", "circus", "coconut tree", "comb", "duck", "fence two", "ferris wheel",
    "fire two", "frog", "goblet one", "hospital", "joystick", "koala bear", "ladder", "leaf", "lollipop", "mouse",
    "parachute", "phone telephone", "pig", "rattle", "sandals", "screwdriver", "shield", "stopwatch", "train",
    "tree one",
)  # fmt: skip
MIT = """MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def main() -> None:
    """Choose the pictures, and write the archive."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", type=Path, help="drawings with the columns style, name, split, image")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    chosen = _choose(list(_rare(arguments.data)))
    lines, files = [], {}
    for style, name, drawing, data in chosen:
        of = SETS[style]
        path = f"{style}/{name.replace(' ', '-').replace('’', '')}.png"
        files[path] = _png(data)
        lines.append((path, name, style, drawing, of.title, of.author, of.license, of.url))
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("file_name", "text", "style", "drawing", "set", "author", "license", "source"))
    writer.writerows(lines)
    texts = {"metadata.csv": table.getvalue(), "LICENSE": _license()}
    with zipfile.ZipFile(arguments.out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in {**{k: v.encode() for k, v in texts.items()}, **files}.items():
            entry = zipfile.ZipInfo(path, (2026, 11, 27, 0, 0, 0))  # the same bytes from the same pictures
            entry.compress_type = zipfile.ZIP_STORED if path.endswith(".png") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def _rare(paths: list[Path]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for path in paths:
        for row in pq.read_table(path, columns=list(COLUMNS)).to_pylist():
            if row["split"] == "rare" and row["style"] in SETS:
                yield row


def _choose(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, bytes]]:
    """Style, name, id and bytes of each picture: every thing once in a style."""
    things = {row["name"] for row in rows if row["style"] == "fluent"}
    found: dict[tuple[str, str], tuple[str, bytes]] = {}
    for row in rows:
        style, name = row["style"], row["name"]
        if style == "icon-park" and name not in ICONS:
            continue
        name = NAMED.get(name, name) if style == "icon-park" else name
        if style == "icon-park" or name in things:
            found.setdefault((style, name), (row["id"], row["image"]["bytes"]))
    return [(style, name, *found[style, name]) for style, name in sorted(found)]


def _png(data: bytes) -> bytes:
    made = io.BytesIO()
    Image.open(io.BytesIO(data)).save(made, "PNG", optimize=True)
    return made.getvalue()


def _license() -> str:
    """What a person who shows or passes on the pictures needs: whose they are, and both licenses in full."""
    named = "\n".join(f"{style}/: {s.title} by {s.author}, {s.license}, {s.url}" for style, s in SETS.items())
    apache = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return (
        "The pictures of this collection. They were drawn from the sets' SVG files at 128 x 128 pixels, and are\n"
        f"otherwise unchanged.\n\n{named}\n\n{'-' * 72}\n{MIT}\n{'-' * 72}\n{apache}"
    )


if __name__ == "__main__":
    main()
