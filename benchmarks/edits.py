"""Edits with known answers by every system that edits, on the same pairs, with one sheet of all.

The pairs are those of the claim about edits (`evaluation/claims/edit_pairs.py`): two drawings of one collection that
agree in most of the picture, of which no model was trained on the second. Measured without a judge:
- done: inside the change, the result is nearer to what is wanted than to what was there (mean squared error);
- dB: peak signal-to-noise ratio outside the change, against the picture as it was.

    python benchmarks/edits.py --data ../shared/data/emoji.parquet --knn tiny-knn --instruct runs/tiny-instruct/model
        --sheet edits.png

"without" is the same instruction and no reference; "another" has the reference of another pair. Settings are no choice
of this file: give `--image-guidance` and `--guidance-scale` several times for a curve.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.core.contact_sheet import labeled_grid
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.data.scenes.words import with_article
from bowerbird.evaluation.claims.edit_pairs import EditPairs, find
from bowerbird.evaluation.claims.edits import K, found_by_name
from bowerbird.systems import generation, loading

Made = dict[str, Tensor]


def score(before: Tensor, wanted: Tensor, made: Tensor, changed: Tensor) -> tuple[float, float]:
    """(share done, dB outside) of pictures uint8 `(n, 3, S, S)`; `changed` boolean `(n, S, S)`."""
    first, last, now = (x.float() / 255 for x in (before, wanted, made))

    def inside(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        squared = (a - b).square().mean(1) * where
        return squared.sum((1, 2)) / where.sum((1, 2)).clamp(min=1)

    done = inside(now, last, changed) < inside(now, first, changed)
    kept = -10 * inside(now, first, ~changed).clamp(min=1e-8).log10()
    return float(done.float().mean()), float(kept.mean())


def by_instruction(
    model: str, drawings: Pictures, pairs: EditPairs, scales: Sequence[tuple[float, float]], steps: int
) -> Made:
    """What a model that reads instructions makes, with the reference found by name, with that of another pair, and
    without."""
    pipe = loading.load_pipeline(model)
    near = found_by_name(drawings, pairs, 1)
    said = tuple(f"make it {with_article(name.lower())}" for name in near.queries)
    other = near.rows(np.roll(np.arange(len(near)), 1))
    arms = {"reference": near, "another": other, "without": Neighbors.empty(said)}
    found: Made = {}
    for text, image in scales:
        settings = replace(
            generation.default_settings(pipe), steps=steps, guidance_scale=text, image_guidance=image, seed=0
        )
        for name, hits in arms.items():
            found[f"instruct {text:g}/{image:g}, {name}"] = generate(
                pipe, replace(hits, queries=said), settings, drawings, pairs
            )
    return found


def by_retrieval(model: str, drawings: Pictures, pairs: EditPairs, steps: int) -> Made:
    """KNN-Diffusion's edit, and image-to-image with the same network."""
    pipe = loading.load_pipeline(model)
    encoder = encoders.load("small")
    near = found_by_name(drawings, pairs, K, encoder=encoder)
    names = list(near.queries)
    asked = Neighbors.from_embeddings(encoder.embed_text(names)[:, None], [[f"(text) {name}"] for name in names])
    usual = replace(generation.default_settings(pipe), steps=steps)
    plain = replace(usual, strength=0.6, show_source=False, change_threshold=0.0)
    hits = Neighbors.concat(asked, near)
    return {
        "KNN-Diffusion": generate(pipe, hits, usual, drawings, pairs),
        "image-to-image 0.6": generate(pipe, hits, plain, drawings, pairs),
    }


def generate(pipe: Any, hits: Neighbors, settings: generation.Settings, drawings: Pictures, pairs: EditPairs) -> Tensor:
    sources = tensors.to_pil(drawings.pixels[pairs.source])
    images = generation.generate(pipe, hits, settings, sources=sources, batch=16)
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--knn")
    parser.add_argument("--instruct")
    parser.add_argument("--guidance-scale", type=float, action="append")
    parser.add_argument("--image-guidance", type=float, action="append")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    drawings = load_pictures(arguments.data, size=64)
    pairs = find(drawings, arguments.pairs)
    before, wanted = drawings.pixels[pairs.source], drawings.pixels[pairs.target]
    made: Made = {"as it was": before}
    if arguments.knn:
        made |= by_retrieval(arguments.knn, drawings, pairs, arguments.steps)
    if arguments.instruct:
        texts, images = arguments.guidance_scale or [4.0], arguments.image_guidance or [1.5]
        scales = [(text, image) for text in texts for image in images]
        made |= by_instruction(arguments.instruct, drawings, pairs, scales, arguments.steps)
    changed = torch.from_numpy(pairs.changed)
    for name, x in made.items():
        done, kept = score(before, wanted, x, changed)
        print(f"{name}: done {done:.1%}, {kept:.2f} dB outside, of {len(before)}", flush=True)
    if arguments.sheet is not None:
        columns = [tensors.to_pil(x) for x in (*made.values(), wanted)]
        rows = zip([drawings.captions[i] for i in pairs.target], *columns, strict=True)
        labeled_grid([(label, list(images), [*made, "wanted"]) for label, *images in list(rows)[:24]], size=64).save(
            arguments.sheet
        )


if __name__ == "__main__":
    main()
