"""What a tokenizer keeps: decibels, codes in use, and of the pictures whose thing is named rightly, how many still are
after coding and decoding.

    python benchmarks/tokenizer.py runs/queue/vq-drawings/model --data ../shared/data/emoji.parquet --judge JUDGE

Without a judge (`bowerbird train judge`) the encoder `small` names: the caption nearest to the picture, among all that
there are. It was trained on most of these pictures, and is no independent judge; say which of the two a figure is of.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from train_queue import decibels

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation.judge import Judge
from bowerbird.models.vq import to_pictures, to_tokens
from bowerbird.systems.components import load_tokenizer

Name = Callable[[Tensor], list[str]]
"""From uint8 pictures `(n, 3, S, S)` to what each shows."""


def by_judge(judge: Judge) -> Name:
    """The likeliest of the judge's entities."""

    def name(pixels: Tensor) -> list[str]:
        return [judge.entities[int(i)] for i in judge(pixels)[1].argmax(1)]

    return name


def by_encoder(pictures: Pictures) -> Name:
    """The nearest of all captions."""
    encoder, captions = encoders.load("small"), sorted(set(pictures.captions))
    shared = encoder.shared_dim
    texts = F.normalize(torch.from_numpy(encoder.embed_text(captions))[:, :shared], dim=1)

    def name(pixels: Tensor) -> list[str]:
        looks = torch.from_numpy(encoder.embed_images(tensors.to_pil(tensors.to_float(pixels))))[:, :shared]
        return [captions[int(i)] for i in (F.normalize(looks, dim=1) @ texts.T).argmax(1)]

    return name


@torch.no_grad()
def measure(model: Any, pictures: Pictures, name: Name, truth: list[str]) -> dict[str, float]:
    """Over all pictures."""
    codes = torch.cat([to_tokens(model, tensors.to_float(part)) for part in torch.split(pictures.pixels, 64)])
    made = torch.cat([to_pictures(model, part) for part in torch.split(codes, 64)])
    before, after = name(pictures.pixels), name(tensors.to_uint8(made))
    right = [i for i, thing in enumerate(truth) if before[i] == thing]
    used = torch.bincount(codes.flatten(), minlength=int(model.config.num_vq_embeddings)).double()
    share = used[used > 0] / used.sum()
    return {
        "pictures": len(pictures),
        "dB": decibels(made, tensors.to_float(pictures.pixels)),
        "codes used": float((used > 0).double().mean()),
        "bits a code": float(-(share * share.log2()).sum()),
        "named on originals": len(right) / len(truth),
        "of those still named": float(np.mean([after[i] == truth[i] for i in right])) if right else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="+", help="directories in diffusers' VQModel layout")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--where")
    parser.add_argument("--limit", type=int, default=1000)
    arguments = parser.parse_args()
    everything = load_pictures(arguments.data, size=64, where=arguments.where)
    rows = np.linspace(0, len(everything) - 1, min(arguments.limit, len(everything))).astype(int)
    pictures = everything.select(sorted({int(row) for row in rows}))
    judge = None if arguments.judge is None else Judge(arguments.judge)
    name = by_encoder(everything) if judge is None else by_judge(judge)
    truth = list(pictures.captions) if judge is None else pictures.column("hexcode")
    print(f"named by {'the encoder small' if judge is None else arguments.judge}")
    for place in arguments.tokenizers:
        found = measure(load_tokenizer(place), pictures, name, truth)
        print(place, "; ".join(f"{key} {value:.3f}" for key, value in found.items()))


if __name__ == "__main__":
    main()
