"""The folder of a generation: pictures with their records, `generation.jsonl`, and a sheet with the neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import provenance
from bowerbird.core.outputs import FileSet, check_output, output_directory
from bowerbird.core.text import to_json
from bowerbird.core.types import Neighbors

if TYPE_CHECKING:
    from PIL import Image

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
) -> list[Path]:
    """`000.png` …, `generation.jsonl` (a line an image) and `sheet.png` into `out`: each image beside its neighbors;
    an edit between its source and where the two differ.

    They take the place of an earlier set as a whole. Raises: BowerbirdError when `out` holds anything else.
    """
    from bowerbird.core.contact_sheet import labeled_grid

    names = [f"{i:03d}.png" for i in range(len(images))]
    sheet = labeled_grid(_rows(images, made, hits, sources), divide=1 if sources is None else 3)
    with output_directory(out, FILES) as folder:
        for image, record, name in zip(images, made, names, strict=True):
            provenance.save_png(image, folder / name, record)
        sheet.save(folder / "sheet.png", "PNG")
        lines = [to_json({"file": name, **_without_bytes(r)}) for name, r in zip(names, made, strict=True)]
        (folder / FILES.last).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [out / name for name in names]


def _rows(
    images: Sequence[Image.Image],
    made: Sequence[dict[str, Any]],
    hits: Neighbors,
    sources: Sequence[Image.Image] | None,
) -> list[tuple[str, list[Image.Image | None], list[str]]]:
    """The lines of the sheet: of the first pictures, each with its neighbors."""
    from bowerbird.core.contact_sheet import difference

    shown = min(len(images), 24)
    near = hits.rows(list(range(shown))).images() if hits.load_images is not None else [[None] * hits.k] * shown
    rows = []
    for i in range(shown):
        title = f"{i:03d}  {provenance.parameters(made[i]).splitlines()[0]}"
        cells, words = [images[i], *near[i]], ["", *hits.captions[i]]
        if sources is not None:
            cells, words = (
                [sources[i], images[i], difference(sources[i], images[i]), *near[i]],
                ["source", "edited", "difference", *hits.captions[i]],
            )
        rows.append((title, cells, words))
    return rows


def _without_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a person reads it: what only regenerating needs is left out."""
    plain = {k: v for k, v in record.items() if k not in ("embeddings", "pictures")}
    return plain | ({"edit": {k: v for k, v in plain["edit"].items() if k != "source"}} if "edit" in plain else {})
