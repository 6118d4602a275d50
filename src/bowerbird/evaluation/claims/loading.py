"""From files to what claims are given: which pictures may be trained on, and as which domains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage, Progress, log_message
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation.claims.experiment import Domain, Experiment, Settings, select_trainable

LEAST_DRAWINGS = 100
"""Below which a network trained on half of them says nothing."""


def load_experiment(
    data: Path,
    photos: Path | None = None,
    settings: Settings | None = None,
    *,
    limit: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    on_message: OnMessage = log_message,
) -> Experiment:
    """What claims are given, from files: drawings with the columns hexcode, style and split, and small photographs with
    a caption or a column label.

    `limit`: at most so many of each kind, at random. Drawings that may be trained on make a domain where there are
    `LEAST_DRAWINGS`, which `on_message` is told where there are not; photographs make another. Raises: BowerbirdError
    when a file or column is missing, or there is nothing to train on.
    """
    if not data.exists():
        raise BowerbirdError(f"{data}: no such data; make it with bowerbird datasets drawings --out drawings.parquet")
    if photos is not None and not photos.exists():
        raise BowerbirdError(f"{photos}: no such photographs; give a parquet file with the columns image and label")
    settings = settings or Settings()
    every = load_pictures(data)
    every.source.tell(on_message, data)
    drawings = _sample(every, limit)
    missing = [key for key in ("hexcode", "style") if not all(drawings.column(key))]
    if missing:
        raise BowerbirdError(
            f"{data}: the column {missing[0]!r} is missing or has gaps; claims need of every drawing hexcode (what it"
            " shows: one value in all styles) and style; rename yours, or make the"
            " drawings: bowerbird datasets drawings --out drawings.parquet"
        )
    domains = []
    domain = partial(Domain, settings=settings, device=device, progress=progress)
    trainable = select_trainable(drawings)
    if len(trainable) >= LEAST_DRAWINGS:
        domains.append(
            domain(data.stem, trainable, size=64, autoencoder="tiny-autoencoder", in_channels=4, label_key="hexcode")
        )
    else:
        on_message(
            f"{data}: {len(trainable)} drawings may be trained on (neither rare nor openmoji), {LEAST_DRAWINGS} is the"
            " least; no network is trained on them"
        )
    if photos is not None:
        name, whole = photos.stem.split("-")[0], _load_photos(photos, limit)
        domains.append(domain(name, whole, size=32, autoencoder="pixels-2", in_channels=12, label_key="label"))
    if not domains:
        raise BowerbirdError(f"{data}: nothing to train on: give drawings that are not rare, or photographs too")
    return Experiment(settings, domains, drawings, device, progress)


def _load_photos(path: Path, limit: int | None) -> Pictures:
    """Photographs at 32 px with their caption as the label: a column called label is read as the caption."""
    pictures = _sample(load_pictures(path, size=32), limit)
    if not all(pictures.captions):
        raise BowerbirdError(
            f"{path}: photographs without a label or caption are among these; claims train a judge on it"
        )
    rows = zip(pictures.metadata, pictures.captions, strict=True)
    return replace(pictures, metadata=tuple({**row, "label": caption} for row, caption in rows))


def _sample(pictures: Pictures, limit: int | None) -> Pictures:
    """At most `limit` of them at random: files are often in the order of styles or classes."""
    if limit is None or limit >= len(pictures):
        return pictures
    return pictures.select(
        sorted(seeds.numpy_generator(0, "limit").choice(len(pictures), limit, replace=False).tolist())
    )
