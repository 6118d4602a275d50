"""How a model's training pictures are made, kept with the model, and how well that tells drawings from what is not.

Writes `training_pictures.safetensors` of bundled models, and prints for each kind of pictures the share that is said to
be far, one by one and in pairs.

    python benchmarks/training_pictures.py emoji.parquet icons.parquet --photos cifar10-test.parquet
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bowerbird.core.images import on_background
from bowerbird.data.drawn import read_drawn
from bowerbird.data.picture_statistics import picture_statistics
from bowerbird.models.training_pictures import TrainingPictures, fit, write
from bowerbird.models.weights import FOLDER
from bowerbird.training.recipes.drawings import HELD_OUT_STYLES

EMOJI = ("noto", "twemoji", "fluent", "flat")
"""The styles that the tiny models learned from."""
UNSEEN = ("openmoji", *HELD_OUT_STYLES)
"""Styles that no model learns from."""
MODELS = {
    "tiny-rdm": EMOJI,
    "tiny-rdm-fast": EMOJI,
    "tiny-knn": EMOJI,
    "tiny-reimagen": EMOJI,
    "reimagen-drawings": None,
    "tiny-instruct": None,
    "tiny-rarm": None,
    "tiny-racm3": None,
}
"""The styles of each model's training; None is all but `UNSEEN`."""
POINTS = 512
Pictures = list[Image.Image]


def main() -> None:
    """Fit, print, and write beside the weights of the models that are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", type=Path, help="drawings with the columns style, split, image")
    parser.add_argument("--photos", type=Path, help="photographs with the column image")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--write", action="store_true", help="write into the package")
    arguments = parser.parse_args()
    styles = _styles(arguments.data)
    others = _others(None if arguments.photos is None else _photographs(arguments.photos))
    for name, own in MODELS.items():
        if name not in arguments.models or not (FOLDER / name).is_dir():
            continue
        known = _fit(styles, own)
        print(f"{name}: {len(known.points)} pictures, limit {known.limit:.2f}")
        unseen = {style: styles[style] for style in styles if (own is not None and style not in own) or style in UNSEEN}
        for kind, statistics in {**unseen, **others}.items():
            far = known.distances(statistics)
            pairs = far[: len(far) // 2 * 2].reshape(-1, 2).mean(1)
            print(f"  {kind:28} {np.mean(far > 1):6.1%} {np.mean(pairs > 1):6.1%}")
        if arguments.write:
            write(known, FOLDER / name)


def _fit(styles: dict[str, np.ndarray], own: Sequence[str] | None) -> TrainingPictures:
    """Of each style as many; the limit is that of the furthest unseen style."""
    rng = np.random.default_rng(0)
    chosen = [style for style in styles if (style in own if own is not None else style not in UNSEEN)]
    every = np.concatenate([styles[style] for style in chosen])
    unseen = [styles[style] for style in UNSEEN]
    return fit(every[rng.permutation(len(every))[:POINTS]], unseen)


def _styles(paths: Sequence[Path], most: int = 600) -> dict[str, np.ndarray]:
    """The statistics of each style's pictures that are not rare, a third of them saved as JPEG first."""
    import pyarrow.parquet as pq

    found: dict[str, list[bytes]] = {}
    for path in paths:
        for row in pq.read_table(path, columns=["style", "split", "image"]).to_pylist():
            if row["split"] != "rare":
                found.setdefault(row["style"], []).append(row["image"]["bytes"])
    rng = np.random.default_rng(0)
    made = {}
    for style, coded in found.items():
        chosen = rng.permutation(len(coded))[:most]
        pictures = [on_background(Image.open(io.BytesIO(coded[int(i)]))) for i in chosen]
        made[style] = _measure([_jpeg(p, rng) if i % 3 == 0 else p for i, p in enumerate(pictures)])
    return made


def _photographs(path: Path, most: int = 2000) -> Pictures:
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["image"]).to_pylist()
    chosen = np.random.default_rng(0).permutation(len(rows))[:most]
    return [Image.open(io.BytesIO(rows[int(i)]["image"]["bytes"])).convert("RGB") for i in chosen]


def _others(photographs: Pictures | None) -> dict[str, np.ndarray]:
    """What no model learned from, most of it made here."""
    rng = np.random.default_rng(1)
    kinds: dict[str, Callable[[np.random.Generator], Image.Image]] = {
        "noise": _noise,
        "noise, blurred": lambda rng: _noise(rng).filter(ImageFilter.GaussianBlur(2)),
        "noise of a photograph's kind": _colored_noise,
        "gradients": _gradient,
        "plaid": _plaid,
        "colored blocks": _blocks,
        "writing": _writing,
    }
    made = {kind: _measure([make(rng) for _ in range(200)]) for kind, make in kinds.items()}
    made["drawn"] = _measure([Image.open(io.BytesIO(item.data)) for item in read_drawn()])
    if photographs is not None:
        made["photographs"] = _measure(photographs)
        made["photographs as JPEG"] = _measure([_jpeg(p, rng) for p in photographs[:500]])
        made["photographs cut out on white"] = _measure([_cut_out(p) for p in photographs[:500]])
    return made


def _measure(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([picture_statistics(picture) for picture in pictures])


def _jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    made = io.BytesIO()
    picture.convert("RGB").save(made, "JPEG", quality=int(rng.integers(60, 96)))
    return Image.open(io.BytesIO(made.getvalue())).convert("RGB")


def _noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _colored_noise(rng: np.random.Generator) -> Image.Image:
    """With the 1/f spectrum of photographs, and mostly gray."""
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    frequency[0, 0] = 1
    waves = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(64, 64))) / frequency).real for _ in range(3)]
    stack = np.stack(waves, -1)
    stack = 0.7 * stack.mean(-1, keepdims=True) + 0.3 * stack
    return _picture((stack - stack.mean()) / stack.std() * 50 + 128)


def _gradient(rng: np.random.Generator) -> Image.Image:
    first, last = rng.integers(0, 256, (2, 3))
    share = np.linspace(0, 1, 64)[:, None, None]
    return _picture(first * (1 - share) + last * share + np.zeros((64, 64, 1)))


def _plaid(rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:64, :64]
    a, b = rng.uniform(0.1, 0.9, 2)
    shifts = rng.uniform(0, 6, (3, 2))
    return _picture(np.stack([127 + 60 * np.sin(a * x + s) + 60 * np.sin(b * y + t) for s, t in shifts], -1))


def _blocks(rng: np.random.Generator) -> Image.Image:
    palette = rng.integers(0, 256, (4, 3)).astype(np.uint8)
    return Image.fromarray(palette[rng.integers(0, 4, (8, 8))]).resize((64, 64), Image.Resampling.NEAREST)


def _writing(rng: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(page)
    for y in range(4, 124, 12):
        draw.text((4, y), "".join(chr(int(code)) for code in rng.integers(97, 123, 20)), fill="black")
    return page


def _cut_out(photograph: Image.Image) -> Image.Image:
    page = Image.new("RGB", (64, 64), "white")
    page.paste(photograph.resize((44, 44)), (10, 10))
    return page


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
