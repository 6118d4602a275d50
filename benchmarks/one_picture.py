"""What comes out when a model is given one picture and nothing else: is it that picture, how near, how clean?

For each style of the data, up to 200 pictures, one at a time as the only neighbor, without a text:
- nearest: is the source, of the pictures of its style, the one most like the result (16 x 16 pixels, centered cosine)?
- dB: peak signal-to-noise ratio of the result against the source, the mean over pictures.
- grain: where the source is flat (every 5 x 5 window of one color), the result's deviation inside such windows, of 255,
  and the share of them in which it is over 2: one stroke in a wrong place is most of the deviation, and few windows.

    python benchmarks/one_picture.py tiny-rdm tiny-reimagen --data ../shared/data/emoji.parquet --styles openmoji

Settings are chosen by the held-out icon styles (`training/recipes/drawings.py`), never by openmoji or rare things.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import tensors
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.data.pictures import Pictures, load_pictures


@dataclass(frozen=True)
class OnePicture:
    """Shares, decibels and deviations over one set of pictures."""

    pictures: int
    nearest: float
    decibels: float
    grain: float
    grained: float

    def __str__(self) -> str:
        line = f"nearest {self.nearest:.1%} of {self.pictures}, {self.decibels:.2f} dB, grain {self.grain:.2f} of 255"
        line += f" (over 2 in {self.grained:.1%} of flat windows)"
        return line


def nearest(made: Tensor, sources: Tensor) -> Tensor:
    """For each of the pictures `made` `(n, 3, S, S)`, whether its own source is the most alike of `sources`, boolean
    `(n,)`: cosine of 16 x 16 pixels less their mean over the set."""
    small = [F.interpolate(x.float(), size=16, mode="area").flatten(1) for x in (made, sources)]
    center = small[1].mean(0)
    unit = [F.normalize(x - center, dim=1) for x in small]
    return (unit[0] @ unit[1].T).argmax(1) == torch.arange(len(made))


def decibels(made: Tensor, sources: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in [-1, 1], `(n,)`."""
    error = (made.float() - sources.float()).square().flatten(1).mean(1)
    return 10 * (4 / error.clamp(min=1e-8)).log10()


def flat_deviations(made: Tensor, sources: Tensor) -> Tensor:
    """The deviation of the pictures `made`, in steps of 255, inside each 5 x 5 window in which the source is of one
    color (and in whose surrounding ring it is, so that a soft edge next to a flat area does not count), `(w,)`."""

    def variance(x: Tensor, edge: int) -> Tensor:
        x = x.float() * 127.5
        squares, mean = F.avg_pool2d(x.square(), edge, 1), F.avg_pool2d(x, edge, 1)
        return (squares - mean.square()).clamp(min=0).mean(1)

    return variance(made, 5)[:, 2:-2, 2:-2][variance(sources, 9) < 0.5].sqrt()


def grain(made: Tensor, sources: Tensor) -> float:
    """Root of the mean square of the `flat_deviations`."""
    return float(flat_deviations(made, sources).square().mean().sqrt())


def own_pictures(pictures: list[Any]) -> Neighbors:
    """Each of n pictures as the one neighbor of a row of its own, nothing said about it."""
    n = len(pictures)
    everyone = Neighbors.from_images([""] * n, pictures, [""] * n)
    return replace(
        everyone,
        ids=everyone.ids.diagonal()[:, None].copy(),
        scores=everyone.scores[:, :1],
        embeddings=everyone.embeddings[:, :1],
        captions=(("",),) * n,
        metadata=(({},),) * n,
    )


def from_one(
    pipe: Any, pictures: Pictures, *, encoder: Encoder | None = None, steps: int | None = None, seed: int = 0
) -> OnePicture:
    """The measures of one set of pictures; `encoder` is for models that take embeddings."""
    size = max(pipe.capabilities.sizes)
    sources = tensors.to_float(pictures.pixels)
    if sources.shape[-1] != size:
        sources = F.interpolate(sources, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
    shown = tensors.to_pil(sources)
    pipe.set_progress_bar_config(disable=True)
    options = {} if steps is None else {"num_inference_steps": steps}
    made = []
    for start in range(0, len(shown), 16):
        part = shown[start : start + 16]
        if pipe.capabilities.needs_images:
            hits = own_pictures(part)
        else:
            assert encoder is not None
            hits = Neighbors.from_embeddings(encoder.embed_images(part)[:, None], [["picture"]] * len(part))
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made.append(pipe(neighbors=hits, generator=generators, output_type="pt", **options).images.cpu() * 2 - 1)
    x = torch.cat(made)
    return OnePicture(
        len(x),
        float(nearest(x, sources).float().mean()),
        float(decibels(x, sources).mean()),
        grain(x, sources),
        float((flat_deviations(x, sources) > 2).float().mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="bundled names or directories")
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--styles", nargs="*", help="default: every style of the data")
    parser.add_argument("--limit", type=int, default=200, help="pictures a style")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--encoder", help="over the model's own, which may lie elsewhere")
    parser.add_argument("--out", type=Path, help="JSON lines, appended")
    arguments = parser.parse_args()
    from bowerbird import encoders
    from bowerbird.systems.loading import open_pipeline

    for source in arguments.data:
        everything = load_pictures(source, size=128)
        styles = np.array(everything.column("style"))
        for style in arguments.styles or sorted(set(styles)):
            rows = np.flatnonzero(styles == style)
            if not len(rows):
                continue
            rows = rows[np.linspace(0, len(rows) - 1, min(arguments.limit, len(rows))).astype(int)]
            for model in arguments.models:
                pipe = open_pipeline(model)
                encoder = None
                if not pipe.capabilities.needs_images:
                    encoder = encoders.load(arguments.encoder or pipe.config.encoder_name)
                for seed in range(arguments.seeds):
                    found = from_one(
                        pipe, everything.select(rows.tolist()), encoder=encoder, steps=arguments.steps, seed=1000 * seed
                    )
                    print(f"{model} {style} seed {seed}: {found}", flush=True)
                    if arguments.out is not None:
                        row = {"model": model, "style": style, "seed": seed, **asdict(found)}
                        with arguments.out.open("a") as file:
                            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
