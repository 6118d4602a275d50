"""The folder of a generation: pictures with their records, `generation.jsonl`, and a sheet with the neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import provenance
from bowerbird.core.files import atomic_path
from bowerbird.core.text import to_json
from bowerbird.core.types import Neighbors

if TYPE_CHECKING:
    from PIL import Image


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
    with atomic_path(out / "generation.jsonl") as temporary:
        lines = [to_json({"file": p.name, **_without_bytes(r)}) for p, r in zip(paths, made, strict=True)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
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
    with atomic_path(out / "sheet.png") as temporary:
        labeled_grid(rows, divide=1 if sources is None else 3).save(temporary, "PNG")
    return paths


def _without_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a person reads it: what only regenerating needs is left out."""
    plain = {k: v for k, v in record.items() if k not in ("embeddings", "pictures")}
    return plain | ({"edit": {k: v for k, v in plain["edit"].items() if k != "source"}} if "edit" in plain else {})
