"""How good pictures are against how many steps they take, by solver, guidance interval and model: Frechet distance to real pictures.

Every setting paints the same pictures: the same neighbours (of real pictures, themselves left out) from the same noise, so differences between
settings are not differences between draws, and how far a picture is from the same one after 100 steps (PSNR, median) is error of sampling alone.
Distances are on the features of an evaluator that is never a condition; "rare" are the things no model of ours was trained on. What has been
painted is kept, and the same command goes on.

    bowerbird train evaluator --data ../shared/data/emoji.parquet --out runs/evaluator
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

from bowerbird import KnowledgeBase, RDMPipeline, generation, tensors
from bowerbird.data import load_pictures
from bowerbird.metrics.frechet import frechet_distance
from bowerbird.sheets import grid
from bowerbird.systems.classifier import Evaluator
from bowerbird.types import Neighbors

K = 4
REFERENCE = "tiny-rdm ddim 100 w3"
SETTINGS = (
    REFERENCE, "tiny-rdm ddim 50 w3", "tiny-rdm ddim 25 w3", "tiny-rdm ddim 10 w3", "tiny-rdm ddim 4 w3",
    *(f"tiny-rdm dpmsolver++ {n} w3" for n in (25, 20, 15, 12, 10, 8, 6, 4, 3, 2)), *(f"tiny-rdm unipc {n} w3" for n in (20, 10, 6, 4)),
)  # fmt: skip


def neighbors_of(kb: KnowledgeBase, pictures: Any) -> Neighbors:
    """The K nearest of each picture in `kb`, itself left out."""
    found = kb.search(images=tensors.to_pil(pictures.pixels), k=K + 1)
    own = np.array(pictures.ids)[:, None]
    kept = np.stack([np.flatnonzero(row != item)[:K] for row, item in zip(found.ids, own, strict=True)])
    pick = lambda array: np.take_along_axis(array, kept.reshape(*kept.shape, *[1] * (array.ndim - 2)), 1)  # noqa: E731
    return Neighbors(pick(found.ids), pick(found.scores), pick(found.embeddings), (("",) * K,) * len(kept))


def parse(setting: str) -> tuple[str, generation.Settings]:
    """`MODEL SAMPLER STEPS wSCALE [LOW-HIGH]`, the last being where guidance acts."""
    model, sampler, steps, scale, *interval = setting.split()
    bounds = tuple(float(each) for each in interval[0].split("-")) if interval else None
    extra = {} if bounds is None else {"guidance_interval": bounds}
    return model, generation.Settings(steps=int(steps), guidance_scale=float(scale[1:]), sampler=sampler, **extra)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Median over pictures `(n, 3, H, W)`, in dB."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).reshape(len(a), -1).mean(1)
    return float(np.median(10 * np.log10(255**2 / np.maximum(error, 1e-3))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/emoji.parquet"))
    parser.add_argument("--evaluator", type=Path, default=Path("runs/evaluator/model"))
    parser.add_argument("--out", type=Path, default=Path("runs/steps"))
    parser.add_argument("--n", type=int, default=400, help="pictures a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), help="MODEL SAMPLER STEPS wSCALE [LOW-HIGH]")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    judge = Evaluator(arguments.evaluator)
    emoji = load_pictures(arguments.data)
    drawn = emoji.select([i for i, m in enumerate(emoji.metadata) if m["style"] != "openmoji"])
    path = arguments.out / "kb"
    kb = KnowledgeBase.open(path) if path.exists() else KnowledgeBase.build(path, arguments.data, where="style != 'openmoji'")[0]
    real = judge(drawn.pixels)[0].numpy()
    rare = np.array([m["split"] == "rare" for m in drawn.metadata])
    pipes: dict[str, RDMPipeline] = {}
    made: dict[str, dict[str, list[np.ndarray]]] = {}
    file = arguments.out / "report.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    pictures: dict[str, np.ndarray] = {}
    for setting in arguments.settings:
        model, settings = parse(setting)
        if model not in pipes:
            pipes[model] = RDMPipeline.from_pretrained(model)
        features, painted, seconds = [], [], 0.0
        for seed in range(arguments.seeds):
            kept = arguments.out / "features" / f"{setting.replace('/', '_').replace(' ', '_')}-{arguments.n}-{seed}.npz"
            rows = np.random.default_rng(seed).permutation(len(drawn))[: arguments.n]
            known, new = rows[: arguments.n // 2], np.flatnonzero(rare)[np.random.default_rng(seed).permutation(int(rare.sum()))[: arguments.n // 2]]
            asked = np.concatenate([known, new])
            if not kept.is_file():
                hits = neighbors_of(kb, drawn.select(asked.tolist()))
                started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16):
                    images = generation.paint(pipes[model], hits, settings, picture_seeds=[100_000 * (seed + 1) + i for i in range(len(asked))], batch=100)
                took = (time.perf_counter() - started) / len(asked)
                kept.parent.mkdir(parents=True, exist_ok=True)
                pixels = tensors.stack(images)
                np.savez(kept, features=judge(pixels)[0].numpy(), pixels=pixels.numpy(), seconds=took)
                if seed == 0:
                    grid([images[:20], images[-20:]]).save(kept.with_suffix(".png"))
            stored = np.load(kept)
            features.append(stored["features"])
            painted.append(stored["pixels"])
            seconds = float(stored["seconds"]) if seconds == 0 else min(seconds, float(stored["seconds"]))
        half = arguments.n // 2
        made[setting] = {"known": [f[:half] for f in features], "rare": [f[half:] for f in features]}
        pictures[setting] = np.concatenate(painted)
        line = f"{setting:40} {1000 * seconds:7.1f} ms a picture"
        entry: dict[str, Any] = {"seconds a picture": seconds}
        for part, there in (("known", real), ("rare", real[rare])):
            entry[part] = frechet_distance(np.concatenate(made[setting][part]), there)
            line += f"   {part} {entry[part]:7.3f}"
            if REFERENCE in made:
                ratios = [frechet_distance(a, there) / frechet_distance(b, there) for a, b in zip(made[setting][part], made[REFERENCE][part], strict=True)]
                entry[f"{part}, share of the reference"] = entry[part] / frechet_distance(np.concatenate(made[REFERENCE][part]), there)
                entry[f"{part}, share by seed"] = ratios
                line += f" = {entry[f'{part}, share of the reference']:.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
        if REFERENCE in pictures and setting != REFERENCE:
            entry["psnr to the reference's pictures"] = near = psnr(pictures[setting], pictures[REFERENCE])
            line += f"   {near:.1f} dB"
        report[setting] = entry
        print(line, flush=True)
        file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
