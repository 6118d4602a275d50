"""How good pictures are against how many steps they take, by solver, guidance interval and model.

Every setting generates the same pictures: the same neighbors (of real pictures, themselves left out) from the same
noise. So differences between settings are not differences between draws, and how far a picture is from the same one
after 100 steps (PSNR, median) is error of sampling alone. Frechet distances are on the features of a judge that
is never a condition, to all real pictures ("all") and to those of things no model of ours was trained on ("rare").
They are biased upwards at so few pictures, by as much as the floor says (as many real pictures against the others), so
shares of the reference are given with and without the floor; of rare pictures there are too few to tell theirs.
Seconds are per picture at 100 a batch under bfloat16 autocast.

What has been generated is kept, and the same command goes on.

    bowerbird train judge --data drawings.parquet --out runs/judge
    python benchmarks/steps.py --out runs/steps
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bowerbird import KnowledgeBase, RDMPipeline
from bowerbird.core import tensors
from bowerbird.core.contact_sheet import grid
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation.judge import Judge
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.systems import generation

K = 4
REFERENCE = "tiny-rdm ddim 100 w3"
SETTINGS = (
    *(f"tiny-rdm ddim {n} w3" for n in (25, 10, 5)),
    *(f"tiny-rdm dpmsolver++ {n} w3" for n in (25, 20, 15, 10, 8, 6, 5, 4, 3, 2)),
    *(f"tiny-rdm unipc {n} w3" for n in (20, 10, 5)),
    *(f"tiny-rdm dpmsolver++ 20 w3 {part}" for part in ("0-0.8", "0.2-1", "0.2-0.8")),
    "tiny-rdm dpmsolver++ 10 w3 0.2-0.8",
    "tiny-rdm dpmsolver++ 20 w1",
    *(f"tiny-rdm-fast ddim {n} w1" for n in (1, 2, 4)),
)


class Benchmark:
    """The judge, the database, and the pictures asked for: by seed, half of them any, half of them rare."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out, self.n, self.seeds = arguments.out, arguments.n, arguments.seeds
        self.judge = Judge(arguments.judge)
        emoji = load_pictures(arguments.data)
        self.pictures = emoji.select([i for i, m in enumerate(emoji.metadata) if m["style"] != "openmoji"])
        path = self.out / "kb"
        self.kb = (
            KnowledgeBase.open(path)
            if path.exists()
            else KnowledgeBase.build(path, arguments.data, where="style != 'openmoji'")[0]
        )
        features, rare = (
            self.judge(self.pictures.pixels)[0].numpy(),
            np.array([m["split"] == "rare" for m in self.pictures.metadata]),
        )
        self.real = {"all": features, "rare": features[rare]}
        self.rare = np.flatnonzero(rare)
        self.pipes: dict[str, RDMPipeline] = {}

    def rows(self, seed: int) -> np.ndarray:
        """The pictures of a seed: half of them any, half of them rare."""
        half = self.n // 2
        any_rows = np.random.default_rng(seed).permutation(len(self.pictures))[: self.n][:half]
        return np.concatenate([any_rows, self.rare[np.random.default_rng(seed).permutation(len(self.rare))[:half]]])

    def floor(self, part: str, count: int) -> float:
        """The distance of `count` real pictures to the others, mean of five draws."""
        there = self.real[part]
        orders = [np.random.default_rng(seed).permutation(len(there)) for seed in range(5)]
        return float(np.mean([frechet_distance(there[order[:count]], there[order[count:]]) for order in orders]))

    def generate(self, setting: str, seed: int) -> dict[str, np.ndarray]:
        """Features `(n, d)` and pixels of the pictures of a seed, and seconds a picture; from earlier where the same
        weights generated them."""
        model, settings = parse(setting)
        if model not in self.pipes:
            self.pipes[model] = RDMPipeline.from_pretrained(model)
        name = f"{setting.replace('/', '_').replace(' ', '_')}-{self.pipes[model].fingerprint()}-{self.n}-{seed}.npz"
        kept = self.out / "generated" / name
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            rows = self.rows(seed)
            hits = neighbors_of(self.kb, self.pictures.select(rows.tolist()))
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                images = generation.generate(
                    self.pipes[model],
                    hits,
                    settings,
                    picture_seeds=[100_000 * (seed + 1) + i for i in range(len(rows))],
                    batch=100,
                )
            seconds = (time.perf_counter() - started) / len(rows)
            pixels = tensors.stack(images)
            np.savez(kept, features=self.judge(pixels)[0].numpy(), pixels=pixels.numpy(), seconds=seconds)
            if seed == 0:
                grid([images[:20], images[-20:]]).save(kept.with_suffix(".png"))
        return dict(np.load(kept))


def neighbors_of(kb: KnowledgeBase, pictures: Pictures) -> Neighbors:
    """The K nearest of each picture in `kb`, itself left out."""
    found = kb.search(images=tensors.to_pil(pictures.pixels), k=K + 1)
    own = np.array(pictures.ids)[:, None]
    kept = np.stack([np.flatnonzero(row != item)[:K] for row, item in zip(found.ids, own, strict=True)])

    def pick(array: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, kept.reshape(*kept.shape, *[1] * (array.ndim - 2)), 1)

    return Neighbors(
        ids=pick(found.ids),
        scores=pick(found.scores),
        embeddings=pick(found.embeddings),
        captions=(("",) * K,) * len(kept),
    )


def parse(setting: str) -> tuple[str, generation.Settings]:
    """`MODEL SAMPLER STEPS wSCALE [LOW-HIGH]`, the last being where guidance acts."""
    model, sampler, steps, scale, *interval = setting.split()
    low, high = map(float, interval[0].split("-")) if interval else (0.0, 1.0)
    between = (low, high) if interval else None
    return model, generation.Settings(
        steps=int(steps), guidance_scale=float(scale[1:]), sampler=sampler, guidance_interval=between
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Median over pictures `(n, 3, H, W)`, in dB."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).reshape(len(a), -1).mean(1)
    return float(np.median(10 * np.log10(255**2 / np.maximum(error, 1e-3))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--judge", type=Path, default=Path("runs/judge/model"))
    parser.add_argument("--out", type=Path, default=Path("runs/steps"))
    parser.add_argument("--n", type=int, default=400, help="pictures a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), help="MODEL SAMPLER STEPS wSCALE [LOW-HIGH]")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(arguments)
    half = benchmark.n // 2
    parts = {"all": slice(None, half), "rare": slice(half, None)}
    floors = {
        part: benchmark.floor(part, half * benchmark.seeds)
        for part in parts
        if len(benchmark.real[part]) >= 2 * half * benchmark.seeds
    }
    print(
        f"{half * benchmark.seeds} pictures a part; floor: "
        + ", ".join(f"{part} {value:.1f}" for part, value in floors.items())
    )
    report: dict[str, Any] = {"pictures a part": half * benchmark.seeds, "floor": floors}
    reference: dict[str, list[np.ndarray]] = {}
    compared = np.empty(0)
    for setting in [REFERENCE, *(each for each in arguments.settings if each != REFERENCE)]:
        seen = [benchmark.generate(setting, seed) for seed in range(benchmark.seeds)]
        seconds, pixels = (
            min(float(each["seconds"]) for each in seen),
            np.concatenate([each["pixels"] for each in seen]),
        )
        entry: dict[str, Any] = {"seconds a picture": seconds}
        line = f"{setting:36} {1000 * seconds:6.1f} ms"
        for part, rows in parts.items():
            there, features = benchmark.real[part], [each["features"][rows] for each in seen]
            distance = frechet_distance(np.concatenate(features), there)
            if setting == REFERENCE:
                reference[part] = features
            theirs = frechet_distance(np.concatenate(reference[part]), there)
            by_seed = [
                frechet_distance(a, there) / frechet_distance(b, there)
                for a, b in zip(features, reference[part], strict=True)
            ]
            entry[part] = {"frechet": distance, "share": distance / theirs, "share by seed": by_seed}
            line += f"   {part} {distance:6.2f} = {distance / theirs:.3f} [{min(by_seed):.3f}, {max(by_seed):.3f}]"
            if part in floors:
                entry[part]["share above the floor"] = above = (distance - floors[part]) / (theirs - floors[part])
                line += f", above the floor {above:.3f}"
        if setting == REFERENCE:
            compared = pixels
        else:
            entry["psnr to the reference's pictures"] = near = psnr(pixels, compared)
            line += f"   {near:.1f} dB"
        report[setting] = entry
        print(line, flush=True)
        (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
