"""What a model carries of the pictures it was trained on, so that one unlike them is known: how some of them are made,
and how far a picture may be from them: as drawings of styles that it never saw are, or, where there are none, as they
are from each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import files, images
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.picture_statistics import COUNT, picture_statistics

if TYPE_CHECKING:
    from PIL import Image

FILE = "training_pictures.safetensors"
MOST_POINTS = 4096
KEPT = 0.99
"""The share of unseen drawings that a model's limit lets pass."""
FEWEST, MOST = 16, 384
"""Pictures of a training that its model's limit is set by; of fewer nothing is said."""
LEAST_SCALE, BEYOND = 0.3, 1.15
"""Of one style alone some numbers hardly vary, and pictures not seen are a little further from those seen than these
from each other (`docs/log.md`)."""
LEAST_LIMIT = 0.5
"""Where all pictures are much the same."""
QUALITY = 75
"""Every second picture of a training counts as JPEG too, as people save them."""


@dataclass(frozen=True)
class TrainingPictures:
    """`points` `(n, 8)`: the statistics of some training pictures, less `mean` and over `scale` `(8,)`; `limit`: the
    distance to the nearest of them beyond which a picture is far. `own`: it was set by these pictures alone."""

    points: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    limit: float
    own: bool = False

    def distances(self, statistics: np.ndarray) -> np.ndarray:
        """Of pictures with these statistics `(m, 8)`, how far each is in limits, float32 `(m,)`: over 1 is far."""
        places = (statistics - self.mean) / self.scale
        apart = np.square(places[:, None] - self.points[None]).sum(-1).min(1, initial=np.inf)
        return np.asarray(np.sqrt(apart) / self.limit, np.float32)


def fit(points: np.ndarray, unseen: Sequence[np.ndarray]) -> TrainingPictures:
    """Of the statistics of training pictures `(n, 8)` and of several sets of unseen drawings: the limit keeps 99% of
    the set that is furthest."""
    mean, scale = points.mean(0), points.std(0)
    stored = ((points - mean) / scale).astype(np.float16).astype(np.float32)
    plain = TrainingPictures(stored, mean, scale, 1.0)
    limit = max(float(np.quantile(plain.distances(each), KEPT)) for each in unseen)
    return TrainingPictures(stored, mean, scale, limit)


def fit_own(pictures: Sequence[Image.Image]) -> TrainingPictures | None:
    """Of the pictures of a training (at most `MOST` are wanted, None for fewer than `FEWEST`): the limit is a little
    beyond where 99% of them lie from the nearest other."""
    if len(pictures) < FEWEST:
        return None
    again = np.arange(0, len(pictures), 2)
    shown = [*pictures, *(_as_jpeg(pictures[i]) for i in again.tolist())]
    points = np.stack([picture_statistics(picture) for picture in shown])
    mean, scale = points.mean(0), np.maximum(points.std(0), LEAST_SCALE)
    stored = ((points - mean) / scale).astype(np.float16).astype(np.float32)
    apart = np.sqrt(np.square(stored[:, None] - stored[None]).sum(-1))
    picture = np.concatenate([np.arange(len(pictures)), again])
    apart[picture[:, None] == picture[None]] = np.inf
    limit = BEYOND * float(np.quantile(apart.min(1), KEPT))
    return TrainingPictures(stored, mean, scale, max(limit, LEAST_LIMIT), own=True)


def _as_jpeg(picture: Image.Image) -> Image.Image:
    coded = io.BytesIO()
    picture.convert("RGB").save(coded, "JPEG", quality=QUALITY)
    return images.open_image(coded, formats=("JPEG",))


def write(known: TrainingPictures, folder: Path) -> None:
    """Keep them with the model in `folder`."""
    import torch

    numbers = {"mean": known.mean, "scale": known.scale, "limit": np.asarray([known.limit])}
    if known.own:
        numbers["own"] = np.ones(1)
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in numbers.items()}
    files.save_tensors(folder / FILE, {"points": torch.from_numpy(known.points.astype(np.float16)), **tensors})


def read(folder: Path) -> TrainingPictures | None:
    """What the model in `folder` carries; None where it carries nothing. Raises: BowerbirdError where the file is not
    what `write` makes."""
    path = folder / FILE
    if not path.is_file():
        return None
    loaded = files.load_tensors(path) if path.stat().st_size <= 2**20 else {}
    values = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    shapes = {name: value.shape for name, value in values.items()}
    points = shapes.get("points", ())
    wanted = {"points": (*points[:1], COUNT), "mean": (COUNT,), "scale": (COUNT,), "limit": (1,)}
    own = values.pop("own", None) is not None
    fits = (
        shapes in (wanted, {**wanted, "own": (1,)})
        and 1 <= points[0] <= MOST_POINTS
        and all(np.isfinite(v).all() for v in values.values())
    )
    if not fits or (values["scale"] <= 0).any() or values["limit"][0] <= 0:
        raise BowerbirdError(f"{path}: not the statistics of training pictures; remove the file, or fetch it again")
    return TrainingPictures(values["points"], values["mean"], values["scale"], float(values["limit"][0]), own)
