"""The copy check of files: generated pictures on disk against knowledge bases and sources, to a report on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import images, provenance, seeds, tensors
from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.core.files import last_part
from bowerbird.core.progress import OnMessage, log_message
from bowerbird.core.text import shorten
from bowerbird.data.pictures import load_pictures
from bowerbird.evaluation import features, reports
from bowerbird.evaluation.copies import detect
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.knowledge.storage.manifest import MANIFEST

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.progress import Progress


def check_files(
    paths: Sequence[Path],
    against: Sequence[str],
    out: Path,
    *,
    descriptor: str = detect.DESCRIPTOR,
    baseline: int = 300,
    copies_per_kind: int = detect.COPIES_PER_KIND,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    on_message: OnMessage = log_message,
) -> dict[str, Any]:
    """Compare the pictures in `paths` with those `against` (knowledge bases and sources) and with the neighbors that
    their records name; write `report.json` (returned), `report.md` and sheets into `out`.

    `descriptor`: see `features.load`. `limit`: at most so many training pictures, drawn by `seed`. The others: see
    `detect.check_copies`. Files that cannot be read are left out, and named to `on_message` and in the report. Raises:
    BowerbirdError when there are no pictures, or none to compare with.
    """
    if not paths:
        raise BowerbirdError("no picture to check; give PNG files, or the folder that bowerbird generate wrote")
    extractor = features.load(descriptor)
    size = detect.working_size(extractor)
    whole = paths
    generated, paths, unreadable = read_pictures(paths, size)
    if not generated:
        raise BowerbirdError(f"none of the pictures to check can be read ({unreadable[0]})")
    known = training_pictures(against, size, on_message)
    training, named = known.pictures, known.named
    if limit is not None and limit < len(training):
        rows = seeds.numpy_generator(seed, "limit").choice(len(training), limit, replace=False)
        training, named = [training[i] for i in sorted(rows)], [named[i] for i in sorted(rows)]
    for line in unreadable:
        on_message(f"left out: {line}")
    near = recorded_neighbors(paths, known.by_id)
    neighbors = None if near is None else [[known.pictures[i] for i in row] for row in near]
    report = detect.check_copies(
        extractor,
        generated,
        training,
        neighbors=neighbors,
        baseline=baseline,
        copies_per_kind=copies_per_kind,
        seed=seed,
        progress=progress,
    )
    facts = {
        "against": [last_part(place) for place in against],
        "training pictures": len(training),
        "generated": len(generated),
        "seed": seed,
        "descriptor": {
            "name": extractor.name,
            "fingerprint": extractor.fingerprint,
            "preprocessing": extractor.preprocessing,
        },
        "neighbors known": neighbors is not None,
        "left out": [_without_folder(line, whole) for line in unreadable],
    }
    near_named = [[known.named[i] for i in row] for row in near or []]
    names = _names(paths)
    return reports.write_copy_report(report, names, generated, training, out, facts, named=named, near_named=near_named)


def _names(paths: Sequence[Path]) -> list[str]:
    """What a report calls files: by their path from the folder that all lie in, as where that is says who made it."""
    whole = [path.absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common).as_posix() for path in whole]


def _without_folder(line: str, paths: Sequence[Path]) -> str:
    """A `line` about one of the `paths` with the last part of it."""
    return next((path.name + line[len(str(path)) :] for path in paths if line.startswith(str(path))), line)


def read_pictures(paths: Sequence[Path], size: int) -> tuple[list[Image.Image], list[Path], list[str]]:
    """The pictures of `paths` that can be read, at `size` px; their paths; and for each of the others its name and the
    reason."""
    found, there, unreadable = [], [], []
    for path in paths:
        if path.name.startswith("._"):
            unreadable.append(f"{path}: a file that macOS leaves beside another, not a picture")
            continue
        try:
            found.append(images.square(images.read(path), size))
            there.append(path)
        except PictureError as error:
            unreadable.append(str(error))
    return found, there, unreadable


def find_pictures(places: Sequence[Path]) -> list[Path]:
    """The pictures that files and folders name, in order; of a folder all but the contact sheet that generating leaves
    there."""
    found: list[Path] = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [p for p in inside if p == place or (p.suffix.lower() in images.SUFFIXES and p.name != "sheet.png")]
    return found


@dataclass(frozen=True)
class TrainingPictures:
    """Pictures to compare with; what names each (id, file name and credit of an item, the caption of a source's); and
    where the item of an id stands among them."""

    pictures: list[Image.Image]
    named: list[dict[str, Any]]
    by_id: dict[int, int]


def training_pictures(against: Sequence[str], size: int, on_message: OnMessage = log_message) -> TrainingPictures:
    """The pictures of knowledge bases and of sources at `size` px."""
    everything: list[Image.Image] = []
    named: list[dict[str, Any]] = []
    by_id: dict[int, int] = {}
    for place in against:
        if (Path(place) / MANIFEST).is_file():
            kb = KnowledgeBase.open(place)
            ids = kb.ids()
            found = [
                (int(i), images.square(image, size))
                for i, image in zip(ids, kb.pictures(ids[None])[0], strict=True)
                if image is not None
            ]
            there = [number for number, _ in found]
            by_id |= {number: len(everything) + i for i, number in enumerate(there)}
            of = {"from": last_part(place)}
            named += [{**of, "id": i, **credit} for i, credit in zip(there, kb.credits(there), strict=True)]
            everything += [image for _, image in found]
        else:
            pictures = load_pictures(place, size=size)
            pictures.source.tell(on_message, place)
            for line in pictures.left_out:
                on_message(f"left out: {line}")
            named += [{"from": last_part(place), "caption": shorten(text)} for text in pictures.captions]
            everything += tensors.to_pil(pictures.pixels)
    return TrainingPictures(everything, named, by_id)


def recorded_neighbors(paths: Sequence[Path], by_id: dict[int, int]) -> list[list[int]] | None:
    """Where the neighbors that each picture's record names stand, as far as `by_id` holds them; None when it holds none
    of any."""
    near = []
    for path in paths:
        try:
            rows = provenance.read_png(path).get("neighbors") or []
        except BowerbirdError:  # not one of ours: it can still be compared with training pictures
            rows = []
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        ids = [row.get("id") for row in rows if row.get("weight", 1)]
        near.append([by_id[i] for i in ids if isinstance(i, int) and i in by_id])
    return near if any(near) else None
