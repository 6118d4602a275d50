"""The folder of a generation: pictures with their records, `generation.jsonl`, and a sheet with the neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import provenance
from bowerbird.core.credit import credit_line
from bowerbird.core.errors import PictureError
from bowerbird.core.files import atomic_path
from bowerbird.core.outputs import FileSet, check_output, output_directory
from bowerbird.core.text import shorten, to_json
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.systems.notes import readable

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.content_credentials import Signer

SHOWN = 24
"""Pictures on a sheet, at most."""

FILES = FileSet("generation.jsonl", ("[0-9][0-9][0-9]*.png", "sheet.png"))
"""What a generation leaves."""


def check(out: str | Path) -> None:
    """Raises: BowerbirdError when `write` could not write to `out`; ask before anything is generated."""
    check_output(out, FILES)


def write(
    images: Sequence[Image.Image],
    made: Sequence[dict[str, Any]],
    hits: Neighbors,
    out: Path,
    *,
    sources: Sequence[Image.Image] | None = None,
    signer: Signer | None = None,
) -> list[Path]:
    """`000.png` …, `generation.jsonl` (a line an image) and `sheet.png` into `out`: each image beside its neighbors;
    an edit between its source and where the two differ.

    `signer` gives each Content Credentials. They take the place of an earlier set as a whole. Raises: BowerbirdError
    when `out` holds anything else.
    """
    from bowerbird.core.contact_sheet import labeled_grid

    names = [f"{i:03d}.png" for i in range(len(images))]
    before = 1 if sources is None else 3
    sheet = labeled_grid(_rows(images, made, hits, sources), divide=before, notes=_notes(made, before))
    with output_directory(out, FILES) as folder:
        for i, name in enumerate(names):
            source = None if sources is None else sources[i]
            save(images[i], folder / name, made[i], hits.rows([i]), source=source, signer=signer)
        sheet.save(folder / "sheet.png", "PNG")
        write_lines(folder, [line(Path(name), record) for name, record in zip(names, made, strict=True)])
    return [out / name for name in names]


def save(
    image: Image.Image,
    path: Path,
    record: dict[str, Any],
    hits: Neighbors,
    *,
    source: Image.Image | None = None,
    signer: Signer | None = None,
) -> None:
    """Write one picture with its record; `hits`: its neighbors, of one query."""
    if signer is None:
        provenance.save_png(image, path, record)
        return
    near = hits.images()[0] if hits.load_images is not None else []
    sign = partial(signer.sign, record=record, title=path.name, pictures=near, source=source)
    provenance.save_png(image, path, record, sign=sign)


def _rows(
    images: Sequence[Image.Image],
    made: Sequence[dict[str, Any]],
    hits: Neighbors,
    sources: Sequence[Image.Image] | None,
) -> list[tuple[str, list[Image.Image | None], list[str]]]:
    """The lines of the sheet: of the first pictures, each with its neighbors and their credit."""
    from bowerbird.core.contact_sheet import difference
    from bowerbird.core.images import framed, on_background

    shown = min(len(images), SHOWN)
    near = hits.rows(list(range(shown))).images() if hits.load_images is not None else [[None] * hits.k] * shown
    rows = []
    for i in range(shown):
        title = _title(f"{i:03d}", made[i])
        own: list[Image.Image | None] = [images[i]]
        words = [""]
        if sources is not None:
            shown_whole = [sources[i], images[i], difference(sources[i], images[i])]
            own = [framed(on_background(each), max(images[i].size), "white") for each in shown_whole]
            words = ["source", "edited", "difference"]
        rows.append((title, [*own, *near[i]], [*words, *hits.captions[i]]))
    return rows


def _title(name: str, record: Mapping[str, Any]) -> str:
    """What stands beside a picture: its name, what was asked for, and what is to be known of it and its neighbors."""
    asked = provenance.parameters(dict(record)).splitlines()[0]
    notes = [record.get(key) for key in ("warnings", "retrieval")]
    said = readable(
        shorten(line) for lines in notes if isinstance(lines, list) for line in lines if isinstance(line, str)
    )
    more = f" and {len(said) - 1} more" if len(said) > 1 else ""
    return f"{name}  {asked} ({said[0]}{more})" if said else f"{name}  {asked}"


def _notes(made: Sequence[Mapping[str, Any]], before: int) -> list[list[str]]:
    """What stands under the captions of a sheet: the credit of each neighbor, which come after so many other cells."""
    return [[*[""] * before, *map(credit_line, record["neighbors"])] for record in made[:SHOWN]]


def line(path: Path, record: Mapping[str, Any]) -> str:
    """What `generation.jsonl` says of a picture."""
    return to_json({"file": path.name, **without_bytes(record)})


def write_lines(out: Path, lines: Sequence[str]) -> None:
    """`generation.jsonl` of these lines."""
    with atomic_path(out / FILES.last) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sheet(out: Path, paths: Sequence[Path], own: Sequence[Sequence[Path]], kb: KnowledgeBase | None) -> None:
    """`sheet.png` of pictures that are written already, each beside the neighbors that its record names, where `kb`
    still has them; `own`: of each picture the files that a person gave as neighbors, which stand first."""
    from bowerbird.core import images
    from bowerbird.core.contact_sheet import labeled_grid

    rows, made = [], []
    for path, given in zip(paths[:SHOWN], own, strict=False):
        record = provenance.read_png(path)
        title = _title(path.stem, record)
        near = record["neighbors"]
        made.append(record)
        ids = np.asarray([[neighbor["id"] for neighbor in near]], np.int64)
        pictures: list[Image.Image | None] = [None] * len(near)
        if kb is not None and near:
            pictures = list(kb.pictures(ids)[0])
        for column, file in zip(np.flatnonzero(ids[0] < ABSENT).tolist(), given, strict=False):
            with suppress(PictureError):  # it may be gone since
                pictures[column] = images.read(file)
        rows.append((title, [images.read(path), *pictures], ["", *(str(neighbor["caption"]) for neighbor in near)]))
    with atomic_path(out / "sheet.png") as temporary:
        labeled_grid(rows, divide=1, notes=_notes(made, 1)).save(temporary, "PNG")


def without_bytes(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a person reads it: what only regenerating needs is left out."""
    plain = {k: v for k, v in record.items() if k not in ("embeddings", "pictures")}
    for key, coded in (("edit", ("source",)), ("patches", ("codes", "chances"))):
        if key in plain:
            plain[key] = {k: v for k, v in plain[key].items() if k not in coded}
    return plain
