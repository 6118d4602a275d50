"""Are synthetic copies found? Recall at 1% false alarms, for each kind of copy, on collections seen in training
and not.

| collection | references | honest pictures, on which false alarms are set |
|---|---|---|
| photographs | CIFAR-10 test pictures, never seen | others of them |
| emoji, never seen | openmoji and the rare entities | openmoji's: the same things in the four other styles |
| emoji, trained on | the four styles the descriptor was trained on | the same things in openmoji |

For emoji also with others *of the collection* as the honest ones, as `bowerbird check-copies` does: emoji are full of
near copies (one cyclist twice, a heart in eight colors), which are no false alarms, so that row is a floor. Pictures
held twice are left out of either. Descriptors run side by side: the bundled one, `gradients`, and raw pixels at 16 x
16 as the peer. Also the threshold of `generate`: what 1% of honest pictures reach with the nearest of their four
neighbors by `small`.

    python benchmarks/copy_detection.py --data drawings.parquet --out runs/copy-detection
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird import encoders
from bowerbird.core import seeds, tensors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation import features
from bowerbird.evaluation.copies import calibration, detect, synthetic
from bowerbird.evaluation.copies.nearest import nearest, to_neighbors
from bowerbird.training.recipes.small import NEVER_TRAINED_ON


class Pixels:
    """The peer: 16 x 16 pixels less their mean."""

    name, fingerprint, dim, preprocessing = "pixels-16", "pixels-16", 768, "16 x 16, mean taken away"

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        x = np.stack(
            [np.asarray(p.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32).ravel() for p in pictures]
        )
        return x - x.mean(1, keepdims=True)


def sample(pictures: Pictures, limit: int) -> list[Image.Image]:
    """At most `limit` of them, at random."""
    return tensors.to_pil(pictures.pixels[seeds.numpy_generator(0, "some").permutation(len(pictures))[:limit]])


def measure(
    extractor: Any, references: list[Image.Image], honest: dict[str, list[Image.Image]], count: int, baseline: int
) -> dict[str, Any]:
    """Recall by kind of copy against each set of honest pictures; one walk over the references, as
    `detect.check_copies` does it."""
    start = time.perf_counter()
    rows = np.sort(seeds.numpy_generator(0, "replication benchmark").choice(len(references), baseline, replace=False))
    rows = rows[~calibration.near_duplicates(references, rows)]
    copies = calibration.synthesize(references, count)
    sets = {"of the collection": [references[i] for i in rows], **honest}
    queries = [*copies.pictures, *(p for s in sets.values() for p in s)]
    own = np.full(len(queries), -1)
    own[: len(copies.hosts)] = copies.hosts
    own[len(copies.hosts) : len(copies.hosts) + len(rows)] = rows
    found = nearest(extractor, queries, references, own=own)
    table: dict[str, Any] = {"references": len(references)}
    at = len(copies.pictures)
    for against, pictures in sets.items():
        recall = detect.recall_of_synthetic(
            found.part(slice(0, len(copies.pictures))), copies.sources, found.part(slice(at, at + len(pictures)))
        )
        at += len(pictures)
        table[against] = {"pictures": len(pictures), "false alarms": recall.strict.rate, **recall.found}
    table["seconds"] = round(time.perf_counter() - start, 1)
    return table


def honest_neighbors(extractor: Any, pictures: Pictures, count: int) -> dict[str, float]:
    """Whole similarity of pictures to the nearest of their four neighbors, near-duplicates left out: quantiles."""
    training = tensors.to_pil(pictures.pixels)
    vectors = encoders.load("small").embed_images(training)
    rows = np.sort(seeds.numpy_generator(0, "honest").choice(len(training), count, replace=False))
    rows = rows[~calibration.near_duplicates(training, rows)]
    table = vectors[rows] @ vectors.T
    table[np.arange(len(rows)), rows] = -np.inf
    near = np.argsort(-table, axis=1)[:, :4]
    found = to_neighbors(extractor, [training[i] for i in rows], [[training[j] for j in some] for some in near])
    return {f"{q:.1%}": float(np.quantile(found.whole, q)) for q in (0.5, 0.9, 0.95, 0.99, 0.995)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--photographs", type=Path, help="as CIFAR-10's test pictures; left out when not given")
    parser.add_argument("--out", type=Path, default=Path("runs/copy-detection"))
    parser.add_argument("--count", type=int, default=100, help="copies of each kind")
    parser.add_argument("--baseline", type=int, default=300)
    parser.add_argument("--limit", type=int, default=3000, help="references of a collection")
    parser.add_argument("--descriptor", action="append", help="default tiny-copies, gradients, pixels")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    trained, others = (
        load_pictures(arguments.data, where=NEVER_TRAINED_ON),
        load_pictures(arguments.data, where="style = 'openmoji'"),
    )
    unseen = load_pictures(arguments.data, where=f"NOT ({NEVER_TRAINED_ON})")
    collections: dict[str, tuple[list[Image.Image], dict[str, list[Image.Image]]]] = {
        "emoji, never seen": (
            sample(unseen, arguments.limit),
            {"drawn by others": sample(trained, arguments.baseline)},
        ),
        "emoji, trained on": (
            sample(trained, arguments.limit),
            {"drawn by others": sample(others, arguments.baseline)},
        ),
    }
    if arguments.photographs is not None:
        photographs = sample(load_pictures(arguments.photographs, size=32), arguments.limit)
        collections = {"photographs": (photographs, {}), **collections}
    report: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(arguments).items()}}
    for name in arguments.descriptor or ["tiny-copies", "gradients", "pixels"]:
        extractor = Pixels() if name == "pixels" else features.load(name)
        for collection, (references, honest) in collections.items():
            table = report[f"{collection}, {name}"] = measure(
                extractor, references, honest, arguments.count, arguments.baseline
            )
            for against in ("of the collection", *honest):
                print(f"{collection} ({len(references)}), {name}, honest: {against}; {table['seconds']} s")
                for kind in synthetic.KINDS:
                    print(
                        f"  {kind:18} "
                        + "  ".join(f"{key} {share:.0%}" for key, share in table[against][kind].items()),
                        flush=True,
                    )
            (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for collection, pictures in (("emoji trained on", trained), ("emoji never seen", unseen)):
        found = report[f"honest neighbors, {collection}"] = honest_neighbors(
            features.load(detect.DESCRIPTOR), pictures, 300
        )
        print("honest neighbors,", collection, found)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
