"""The folder of a generation: pictures with their records, `generation.jsonl`, and a sheet with the neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import provenance
from bowerbird.core.files import atomic_path
from bowerbird.core.text import to_json
from bowerbird.core.types import Neighbors

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

SHOWN = 24
"""Pictures on a sheet, at most."""


def write(
    images: Sequence[Image.Image],
    made: Sequence[dict[str, Any]],
    hits: Neighbors,
    out: Path,
    *,
    sources: Sequence[Image.Image] | None = None,
) -> list[Path]:
    """`000.png` …, `generation.jsonl` (a line an image) and `sheet.png` into `out`: each image beside its neighbors;
    an edit between its source and where the two differ."""
    from bowerbird.core.contact_sheet import difference, labeled_grid

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:03d}.png" for i in range(len(images))]
    for image, record, path in zip(images, made, paths, strict=True):
        provenance.save_png(image, path, record)
    write_lines(out, [line(path, record) for path, record in zip(paths, made, strict=True)])
    shown = min(len(images), SHOWN)
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
    with atomic_path(out / "sheet.png") as temporary:
        labeled_grid(rows, divide=1 if sources is None else 3).save(temporary, "PNG")
    return paths


def line(path: Path, record: Mapping[str, Any]) -> str:
    """What `generation.jsonl` says of a picture."""
    return to_json({"file": path.name, **_without_bytes(record)})


def write_lines(out: Path, lines: Sequence[str]) -> None:
    """`generation.jsonl` of these lines."""
    with atomic_path(out / "generation.jsonl") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sheet(out: Path, paths: Sequence[Path], kb: KnowledgeBase | None) -> None:
    """`sheet.png` of pictures that are written already, each beside the neighbors that its record names, where `kb`
    still has them."""
    from bowerbird.core import images
    from bowerbird.core.contact_sheet import labeled_grid

    rows = []
    for path in paths[:SHOWN]:
        record = provenance.read_png(path)
        title = f"{path.stem}  {provenance.parameters(record).splitlines()[0]}"
        near = record["neighbors"]
        ids = np.asarray([[neighbor["id"] for neighbor in near]], np.int64)
        pictures = [None] * len(near) if kb is None or not near else kb.pictures(ids)[0]
        rows.append((title, [images.read(path), *pictures], ["", *(str(neighbor["caption"]) for neighbor in near)]))
    with atomic_path(out / "sheet.png") as temporary:
        labeled_grid(rows, divide=1).save(temporary, "PNG")


def _without_bytes(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a person reads it: what only regenerating needs is left out."""
    plain = {k: v for k, v in record.items() if k not in ("embeddings", "pictures")}
    return plain | ({"edit": {k: v for k, v in plain["edit"].items() if k != "source"}} if "edit" in plain else {})
