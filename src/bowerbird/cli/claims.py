"""`bowerbird claims`: what the papers say, measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, pick_device, print_json, progress_bar, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.core.progress import Progress
    from bowerbird.data.pictures import Pictures
    from bowerbird.evaluation.claims.lab import Lab, Settings

LEAST = 100
"""Drawings, below which a network trained on half of them says nothing."""


def claims(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Claims to measure; all when none is named.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="Drawings with the columns hexcode, style and split.")] = Path(
        "../shared/data/emoji.parquet"
    ),
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos", help="Small photographs with a column label; default cifar10-train.parquet beside --data."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for claims.md, claims.json and plots.")] = Path("claims"),
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds, from --seed on.", min=2)] = 3,
    steps: Annotated[
        int, typer.Option("--steps", help="Training steps of the networks that claims compare.", min=1)
    ] = 500,
    pictures: Annotated[int, typer.Option("--pictures", help="Pictures behind each value.", min=20)] = 400,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many pictures of each kind.", min=200)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure the papers' claims: effects with intervals, and whether they hold.

    Trainings are cached; the first run takes up to two hours on two cores, later ones minutes.

    Example: bowerbird claims style --data emoji.parquet --out claims
    """
    from bowerbird.cli.evaluate import teller

    for path in (data, photos):
        if path is not None and not path.exists():
            raise BowerbirdError(f"{path}: no such data; give --data DRAWINGS.parquet and --photos PHOTOS.parquet")
    from bowerbird.evaluation import claims as frames
    from bowerbird.evaluation.claims import lab

    chosen = frames.load(names or [])
    settings = lab.Settings(seeds=tuple(range(seed, seed + seeds)), train_steps=steps, pictures=pictures)
    with progress_bar(as_json) as bar:
        found = frames.run(chosen, _lab(data, photos, settings, limit, pick_device(device), teller(bar)), out)
    if as_json:
        print_json({"out": str(out), "claims": found})
        return
    for document in found:
        print(f"{document['verdict']:13}  {document['name']}: {document['says']}")
    say(f"{out / 'claims.md'} shows effects and plots")


def _some(pictures: Pictures, limit: int | None) -> Pictures:
    """At most `limit` of them at random: files are often in the order of styles or classes."""
    from bowerbird.core import seeds

    if limit is None or limit >= len(pictures):
        return pictures
    return pictures.select(
        sorted(seeds.numpy_generator(0, "limit").choice(len(pictures), limit, replace=False).tolist())
    )


def _lab(
    data: Path, photos: Path | None, settings: Settings, limit: int | None, device: str, progress: Progress
) -> Lab:
    from bowerbird.data.pictures import load_pictures
    from bowerbird.evaluation.claims import lab

    drawings = _some(load_pictures(data), limit)
    missing = [key for key in ("hexcode", "style") if not all(drawings.column(key))]
    if missing:
        raise BowerbirdError(
            f"{data}: the column {missing[0]!r} is missing or has gaps; claims need hexcode and style of every drawing"
        )
    common: dict[str, Any] = {"settings": settings, "device": device, "progress": progress}
    # what no model of ours is ever trained on, claims do not train on either; the style claim's databases may hold it
    allowed = [
        i for i, row in enumerate(drawings.metadata) if row.get("split") != "rare" and row["style"] != "openmoji"
    ]
    domains = []
    if len(allowed) >= LEAST:
        domains.append(
            lab.Domain(
                data.stem,
                drawings.select(allowed),
                size=64,
                autoencoder="tiny-autoencoder",
                in_channels=4,
                label_key="hexcode",
                **common,
            )
        )
    else:
        say(
            f"{data}: {len(allowed)} drawings may be trained on (neither rare nor openmoji), {LEAST} is the least; no"
            " network is trained on them"
        )
    beside = photos or data.parent / "cifar10-train.parquet"
    if beside.exists():
        pictures = _some(load_pictures(beside, size=32), limit)
        if not all(pictures.captions):
            raise BowerbirdError(
                f"{beside}: photographs without a label or caption are among these; claims train an evaluator on it"
            )
        # a column called label is read as the caption
        labeled = tuple(
            {**row, "label": caption} for row, caption in zip(pictures.metadata, pictures.captions, strict=True)
        )
        pictures = replace(pictures, metadata=labeled)
        domains.append(
            lab.Domain(
                beside.stem.split("-")[0],
                pictures,
                size=32,
                autoencoder="pixels-2",
                in_channels=12,
                label_key="label",
                **common,
            )
        )
    if not domains:
        raise BowerbirdError(
            f"{data}: nothing to train on: give drawings that are not rare, or photographs with --photos"
        )
    return lab.Lab(settings, domains, drawings, device, progress)
