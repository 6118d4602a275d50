"""What the `small` encoder finds among entities it never saw, against raw pixels.

For each of the rare entities' pictures: is the nearest *other* picture of the whole collection the same entity? And is
the picture nearest to the entity's bare name one of it? Then CIFAR-10 photographs, which it was never meant for: the
share of the 10 nearest that are of the query's class. Command: python benchmarks/encoder_quality.py --data
drawings.parquet --photographs cifar10-test.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures, load_pictures


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embed(encoder: Encoder, pictures: Pictures) -> np.ndarray:
    return unit(encoder.embed_images(tensors.to_pil(pictures.pixels)))


def pixels(pictures: Pictures) -> np.ndarray:
    small = pictures.pixels.float().reshape(len(pictures), 3, 8, pictures.size // 8, 8, pictures.size // 8).mean((3, 5))
    return unit((small.flatten(1) - small.mean((0, 2, 3)).repeat_interleave(64)).numpy())


def same_entity(vectors: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> float:
    similarity = vectors[rows] @ vectors.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return float((keys[similarity.argmax(1)] == keys[rows]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--photographs", type=Path, help="with a column label; left out when not given")
    parser.add_argument("--encoder", default="small")
    arguments = parser.parse_args()
    encoder = encoders.load(arguments.encoder)
    emoji = load_pictures(arguments.data)
    keys, split = np.array(emoji.column("hexcode")), np.array(emoji.column("split"))
    rare = np.flatnonzero(split == "rare")
    vectors = embed(encoder, emoji)
    print(
        f"unseen entity, nearest other of {len(emoji):,}: small {same_entity(vectors, rare, keys):.1%}, pixels"
        f" {same_entity(pixels(emoji), rare, keys):.1%}"
    )
    seen = np.flatnonzero(split != "rare")[::8]
    print(f"seen entity, the same: small {same_entity(vectors, seen, keys):.1%}")
    names = sorted({(k, emoji.captions[i]) for i, k in enumerate(keys) if split[i] == "rare"})
    text = unit(encoder.embed_text([name for _, name in names]))
    top = keys[(text @ vectors.T).argmax(1)]
    print(f"unseen name to picture: {np.mean(top == np.array([k for k, _ in names])):.1%}")
    if arguments.photographs is not None:
        photos = load_pictures(arguments.photographs)
        photos = photos.select(np.random.default_rng(0).permutation(len(photos))[:4000].tolist())
        labels = np.array(photos.column("label")) if any(photos.column("label")) else np.array(photos.captions)
        for name, v in (("small", embed(encoder, photos)), ("pixels", pixels(photos))):
            similarity = v[:500] @ v.T
            np.fill_diagonal(similarity, -np.inf)
            near = np.argsort(-similarity, axis=1)[:, :10]
            print(
                f"photographs, share of the 10 nearest of the same class: {name}"
                f" {np.mean(labels[near] == labels[:500, None]):.1%} (chance 10%)"
            )


if __name__ == "__main__":
    main()
