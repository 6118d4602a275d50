"""Are planted copies found? Recall at 1% false alarms, for each kind of copy, and the threshold that `generate` warns at.

Copies are made of training pictures (mirrored, cropped, tinted, pasted in part or shrunk into a picture of something else); the false-alarm rate is
set on other training pictures, each compared with all the others. The peer, in the same run: raw pixels at 16 x 16 in place of the descriptor.

    python benchmarks/replication.py --out runs/replication
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bowerbird import features, replication, seeds, tensors
from bowerbird.data import load_pictures
from bowerbird.metrics.replication import recall_at
from bowerbird.recipes.small import NEVER_TRAINED_ON


class Pixels:
    """The peer: unit vectors of 16 x 16 pixels less their mean."""

    name, fingerprint, dim, preprocessing = "pixels-16", "pixels-16", 768, "16 x 16, mean taken away"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        x = np.stack([np.asarray(p.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32).ravel() for p in pictures])
        return x - x.mean(1, keepdims=True)


def planters(hosts: list[Image.Image], rng: np.random.Generator) -> dict[str, Callable[[Image.Image], Image.Image]]:
    def crop(p: Image.Image) -> Image.Image:
        side = int(p.width * rng.uniform(0.5, 0.85))
        x, y = rng.integers(0, p.width - side + 1, 2)
        return p.crop((x, y, x + side, y + side)).resize(p.size, Image.Resampling.BICUBIC)

    def tint(p: Image.Image) -> Image.Image:
        turned = np.asarray(p.convert("HSV")) + np.array([rng.integers(30, 226), 0, 0], np.uint8)
        changed = ImageEnhance.Contrast(Image.fromarray(turned, "HSV").convert("RGB")).enhance(rng.uniform(0.7, 1.3))
        return ImageEnhance.Brightness(changed).enhance(rng.uniform(0.8, 1.2))

    def paste(p: Image.Image, part: Image.Image) -> Image.Image:
        host = hosts[rng.integers(len(hosts))].copy()
        x, y = (int(v) for v in rng.integers(0, host.width - part.width + 1, 2))
        host.paste(part, (x, y))
        return host

    def patch(p: Image.Image) -> Image.Image:
        side = int(p.width * rng.uniform(0.45, 0.6))
        x, y = rng.integers(0, p.width - side + 1, 2)
        return paste(p, p.crop((x, y, x + side, y + side)))

    def shrunk(p: Image.Image) -> Image.Image:
        side = int(p.width * rng.uniform(0.5, 0.7))
        return paste(p, p.resize((side, side), Image.Resampling.BICUBIC))

    return {"copy": lambda p: p, "mirrored": ImageOps.mirror, "crop": crop, "tinted": tint, "pasted part": patch, "shrunk and pasted": shrunk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/emoji.parquet"))
    parser.add_argument("--out", type=Path, default=Path("runs/replication"))
    parser.add_argument("--count", type=int, default=100, help="copies of each kind")
    parser.add_argument("--baseline", type=int, default=300)
    parser.add_argument("--limit", type=int, default=3000, help="training pictures")
    parser.add_argument("--descriptor", default="gradients")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    everything = load_pictures(arguments.data, where=NEVER_TRAINED_ON)
    rng = seeds.numpy_generator(0, "replication benchmark")
    order = rng.permutation(len(everything))
    entities = [everything.metadata[i]["hexcode"] for i in order[: arguments.limit]]
    training = tensors.to_pil(everything.pixels[order[: arguments.limit]])
    hosts = tensors.to_pil(load_pictures(arguments.data, where="split = 'rare'").pixels)
    chosen = rng.choice(len(training), arguments.count, replace=False)
    planted = {name: [make(training[i]) for i in chosen] for name, make in planters(hosts, rng).items()}
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(arguments).items()}}
    for extractor in (features.load(arguments.descriptor), Pixels()):
        start = time.perf_counter()
        rows = rng.choice(len(training), arguments.baseline, replace=False)
        own = np.concatenate([rows, *[np.full(arguments.count, -1)] * len(planted)])
        # the same entity in another style is a near copy in its own right (flat and fluent share outlines): no false alarm, so left out
        asked = [entities[i] for i in rows] + [""] * (arguments.count * len(planted))
        found = replication.nearest(
            extractor, [training[i] for i in rows] + [p for made in planted.values() for p in made], training, own=own, groups=(asked, entities)
        )
        table: dict[str, Any] = {}
        for kind in ("whole", "split"):
            values = getattr(found, kind)
            at = getattr(found, f"{kind}_at")
            baseline = values[: len(rows)]
            table[f"{kind}: 99% quantile of the baseline"] = float(np.quantile(baseline, 0.99))
            for i, name in enumerate(planted):
                part = slice(len(rows) + i * arguments.count, len(rows) + (i + 1) * arguments.count)
                table[f"{kind}: {name}"] = {"recall at 1%": recall_at(values[part], baseline), "right source first": float((at[part] == chosen).mean())}
        report[extractor.name] = table | {"seconds": round(time.perf_counter() - start, 1)}
        print(extractor.name)
        for key, value in report[extractor.name].items():
            print(f"  {key:40} {value}")
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
