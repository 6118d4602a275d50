"""Does retrieval help, are entities never trained on generated faithfully, does the database set the style?

An independent judge (recipe `judge`, never a condition) judges every picture. Three seeds, 95% intervals.

    bowerbird train judge --data drawings.parquet --out runs/judge
    bowerbird train style-judge --data drawings.parquet --out runs/style-judge
    bowerbird train tiny-rdm --data drawings.parquet --out runs/tiny-rdm
    bowerbird train tiny-rdm-no-neighbors --data drawings.parquet --out runs/tiny-rdm-no-neighbors
    python benchmarks/rdm_quality.py --data drawings.parquet --out runs/quality
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bowerbird import KnowledgeBase, RDMPipeline
from bowerbird.core import contact_sheet, tensors
from bowerbird.core.seeds import numpy_generator
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation.evaluate import proposal_counts
from bowerbird.evaluation.judge import Judge
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import Estimate, over_groups, over_seeds
from bowerbird.systems import generation
from bowerbird.systems.queries import Request
from bowerbird.training.recipes.small import NEVER_TRAINED_ON

TRAINED_STYLES = ("noto", "twemoji", "fluent", "flat")
STYLES = (*TRAINED_STYLES, "openmoji")


class Benchmark:
    """The data, the judge and the databases all parts share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.source: Path = arguments.data
        self.steps, self.seeds = arguments.steps, list(range(arguments.seeds))
        self.batch: int = arguments.batch
        self.judge, self.style_judge = Judge(arguments.judge), Judge(arguments.style_judge)
        self.drawings = load_pictures(self.source)
        self.train = self.drawings.select(
            [i for i, m in enumerate(self.drawings.metadata) if m["split"] != "rare" and m["style"] != "openmoji"]
        )
        self.rare = self.drawings.select([i for i, m in enumerate(self.drawings.metadata) if m["split"] == "rare"])
        self.entities = sorted(set(self.rare.column("hexcode")))
        self.names = {m["hexcode"]: c for m, c in zip(self.rare.metadata, self.rare.captions, strict=True)}
        self.columns = torch.tensor([self.judge.entities.index(e) for e in self.entities])
        earlier = self.out / "report.json"  # parts measured one by one (--only) end up in one report
        self.results: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {}
        self.results["settings"] = {k: str(v) for k, v in vars(arguments).items()}

    def kb(self, name: str, where: str | None) -> KnowledgeBase:
        path = self.out / "kb" / name
        return KnowledgeBase.open(path) if path.exists() else KnowledgeBase.build(path, self.source, where=where)[0]

    def generate(self, pipe: RDMPipeline, hits: Neighbors, seed: int, guidance_scale: float) -> torch.Tensor:
        settings = generation.Settings(steps=self.steps, guidance_scale=guidance_scale, seed=1_000_000 * (seed + 1))
        return tensors.stack(generation.generate(pipe, hits, settings, batch=self.batch))

    def verdicts(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Index of the entity among the rare ones, and the style, of each picture."""
        _, entity, _ = self.judge(pixels)
        _, _, style = self.style_judge(pixels)
        return entity[:, self.columns].argmax(1).numpy(), np.array(
            [self.style_judge.styles[i] for i in style.argmax(1)]
        )

    def note(self, key: str, estimate: Estimate | float, text: str = "") -> None:
        self.results[key] = asdict(estimate) if isinstance(estimate, Estimate) else estimate
        print(f"{key:44} {estimate if isinstance(estimate, Estimate) else f'{estimate:.3f}'}  {text}", flush=True)
        (self.out / "report.json").write_text(json.dumps(self.results, indent=2) + "\n")


def real_pictures(benchmark: Benchmark, pipe: RDMPipeline, style_run: Path, held_out: Path) -> None:
    """The judge's own figures: on the pictures it learned, on the same through the autoencoder of `pipe`, on pictures
    held out from the trainings in `style_run` and `held_out`."""
    rare = benchmark.rare
    truth = np.array([benchmark.entities.index(h) for h in rare.column("hexcode")])
    styles = np.array(rare.column("style"))
    main = styles != "openmoji"
    entity, style = benchmark.verdicts(rare.pixels)
    benchmark.note(
        "judge: real rare pictures, top-1 of 100", float((entity == truth)[main].mean()), "(seen in its training)"
    )
    benchmark.note("judge: real rare pictures, style", float((style == styles).mean()), "(a tenth of them held out)")
    for name in STYLES:
        benchmark.note(f"judge: real rare pictures, style {name}", float((style == styles)[styles == name].mean()))
    unseen = held_out_pictures(style_run, benchmark.drawings)
    if len(unseen):
        seen_as = [benchmark.style_judge.styles[i] for i in benchmark.style_judge(unseen.pixels)[2].argmax(1)]
        right = float(np.mean(np.array(seen_as) == np.array(unseen.column("style"))))
        benchmark.note("judge: held-out pictures, style", right)
    with torch.no_grad():
        parts = [
            pipe.vae.decode(pipe.vae.encode(tensors.to_float(p)).latent_dist.mean).sample
            for p in torch.split(rare.pixels, 64)
        ]
    rebuilt = tensors.to_uint8(torch.cat(parts))
    mse = ((tensors.to_float(rebuilt) - tensors.to_float(rare.pixels)) / 2).square().flatten(1).mean(1)
    benchmark.note("autoencoder: unseen pictures, PSNR dB", float((-10 * mse.log10()).mean()))
    entity, _ = benchmark.verdicts(rebuilt)
    benchmark.note("judge: the same through the autoencoder", float((entity == truth)[main].mean()))
    if (held_out / "model").is_dir():
        unseen = held_out_pictures(held_out, benchmark.drawings)
        second = Judge(held_out / "model")
        rows = [i for i, m in enumerate(unseen.metadata) if m["split"] == "rare" and m["style"] != "openmoji"]
        columns = [second.entities.index(e) for e in benchmark.entities]
        best = second(unseen.pixels[rows])[1][:, columns].argmax(1).numpy()
        truth = np.array([benchmark.entities.index(str(unseen.metadata[i]["hexcode"])) for i in rows])
        benchmark.note(
            "second judge: held-out rare pictures",
            float((best == truth).mean()),
            f"({len(rows)} pictures of one style each, not in its training)",
        )


def held_out_pictures(run: Path, pictures: Pictures) -> Pictures:
    """The pictures that a judge's training in the folder `run` held out; none where there was no such training."""
    file = run / "recipe.json"
    if not file.is_file():
        return pictures.select([])
    recipe = json.loads(file.read_text())
    order = numpy_generator(recipe["train"]["seed"], "held out").permutation(len(pictures))
    return pictures.select(order[: int(len(pictures) * recipe["system"]["held_out"])].tolist())


def distances(benchmark: Benchmark, rdm: RDMPipeline, plain: RDMPipeline, count: int) -> None:
    """(a) Fréchet distance to the training pictures, with and without neighbors, after equal training."""
    kb = benchmark.kb("train", NEVER_TRAINED_ON)
    counts = proposal_counts(rdm, kb, 4)
    real, _, _ = benchmark.judge(benchmark.train.pixels)
    rng = np.random.default_rng(0)
    half = rng.permutation(len(real))
    benchmark.note(
        "FD of real halves (floor)",
        frechet_distance(real[half[: len(half) // 2]].numpy(), real[half[len(half) // 2 :]].numpy()),
    )
    values: dict[str, list[float]] = {"with neighbors": [], "without": []}
    for seed in benchmark.seeds:
        hits = rdm.retrieve(Request(unconditional=True, k=4), kb, count, seed=1_000_000 * (seed + 1), proposal=counts)
        for name, pipe in (("with neighbors", rdm), ("without", plain)):
            pixels = benchmark.generate(pipe, hits, seed, 1.0 if pipe is rdm else 0.0)
            features, _, _ = benchmark.judge(pixels)
            values[name].append(frechet_distance(features.numpy(), real.numpy()))
            if seed == 0:
                shown = tensors.to_pil(pixels[:64])
                contact_sheet.grid([shown[i : i + 16] for i in range(0, 64, 16)], size=96).save(
                    benchmark.out / f"a-{name.replace(' ', '-')}.png"
                )
    for name, each in values.items():
        benchmark.note(f"(a) FD {name}", over_seeds(each))
    benchmark.note(
        "(a) FD ratio",
        over_seeds([a / b for a, b in zip(values["with neighbors"], values["without"], strict=True)]),
        "goal: 0.7 or less",
    )


def rare_entities(benchmark: Benchmark, pipe: RDMPipeline, weights: list[float], repeats: int) -> float:
    """(b) Entities never trained on, their four pictures in the database. Returns the best guidance weight."""
    kb = benchmark.kb("rare", "split = 'rare' AND style != 'openmoji'")
    pools = Neighbors.stack([kb.get(kb.ids(f"hexcode = '{e}'").tolist()) for e in benchmark.entities]).repeat(repeats)
    truth = np.repeat(np.arange(len(benchmark.entities)), repeats)
    best, best_weight = -1.0, weights[0]
    for weight in [0.0, *weights]:
        hits = [
            benchmark.verdicts(pixels := benchmark.generate(pipe, pools, seed, weight))[0] == truth
            for seed in benchmark.seeds
        ]
        estimate = over_groups(np.stack(hits, 1).reshape(len(benchmark.entities), -1))
        name = "null" if weight == 0 else f"guidance {weight:g}"
        benchmark.note(
            f"(b) rare, retrieved, {name}: top-1 of 100",
            estimate,
            "goal: 0.03 or less" if weight == 0 else "goal: 0.70 at the best weight",
        )
        if weight and estimate.mean > best:
            best, best_weight = estimate.mean, weight
        shown = tensors.to_pil(pixels[:: repeats * 2])
        contact_sheet.grid([shown[i : i + 10] for i in range(0, 50, 10)], size=96).save(
            benchmark.out / f"b-{name.replace(' ', '-')}.png"
        )
    rows: list[tuple[str, list[Image.Image | None], list[str]]] = []
    for i in range(0, len(benchmark.entities), 10):
        near = [image for image in pools.rows([i * repeats]).images()[0] if image is not None]
        rows.append(
            (
                benchmark.names[benchmark.entities[i]],
                [*tensors.to_pil(benchmark.generate(pipe, pools.rows([i * repeats] * 4), 0, best_weight)), *near],
                [],
            )
        )
    contact_sheet.labeled_grid(
        rows, title=f"rare entities at guidance {best_weight:g}: generated | neighbors", divide=4
    ).save(benchmark.out / "b-sheet.png")
    return best_weight


def by_name(benchmark: Benchmark, pipe: RDMPipeline, weight: float, repeats: int) -> None:
    """(b) The same entities by name alone: hybrid search in everything (four styles), then RDM."""
    kb = benchmark.kb("four-styles", "style != 'openmoji'")
    hits = pipe.retrieve(Request(prompts=tuple(benchmark.names[e] for e in benchmark.entities), k=4), kb, repeats)
    right = np.array(
        [[m.get("hexcode") == e for m in hits.metadata[i * repeats]] for i, e in enumerate(benchmark.entities)]
    )
    benchmark.note("(b) share of retrieved that are the entity", float(right.mean()))
    truth = np.repeat(np.arange(len(benchmark.entities)), repeats)
    outcomes = [
        benchmark.verdicts(benchmark.generate(pipe, hits, seed, weight))[0] == truth for seed in benchmark.seeds
    ]
    benchmark.note(
        f"(b) rare by name, guidance {weight:g}: top-1 of 100",
        over_groups(np.stack(outcomes, 1).reshape(len(benchmark.entities), -1)),
        "goal: 0.60",
    )


def style_exchange(benchmark: Benchmark, pipe: RDMPipeline, weight: float, k: int, repeats: int) -> None:
    """(c) The same prompts from a database of one style only."""
    truth = np.repeat(np.arange(len(benchmark.entities)), repeats)
    rows: list[tuple[str, list[Image.Image | None], list[str]]] = []
    for style in STYLES:
        kb = benchmark.kb(f"style-{style}", f"style = '{style}'")
        hits = pipe.retrieve(Request(prompts=tuple(benchmark.names[e] for e in benchmark.entities), k=k), kb, repeats)
        judged = []
        for seed in benchmark.seeds:
            pixels = benchmark.generate(pipe, hits, seed, weight)
            judged.append(benchmark.verdicts(pixels))
            if seed == 0:
                rows.append((style, [*tensors.to_pil(pixels[:: 8 * repeats])], []))
        styles = np.stack([s == style for _, s in judged], 1).reshape(len(benchmark.entities), -1)
        identity = np.stack([e == truth for e, _ in judged], 1).reshape(len(benchmark.entities), -1)
        benchmark.note(f"(c) database of {style} only: style (k={k})", over_groups(styles), "goal: 0.60")
        benchmark.note(f"(c) database of {style} only: identity (k={k})", over_groups(identity), "goal: half of (b)")
    contact_sheet.labeled_grid(rows, title="the same names and seeds, five databases").save(
        benchmark.out / f"c-sheet-k{k}.png"
    )


def load(model: str) -> RDMPipeline:
    """The U-Net in bfloat16, twice as fast here; latents and autoencoder stay float32."""
    pipe = RDMPipeline.from_pretrained(model)
    pipe.unet.to(torch.bfloat16)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"), help="bowerbird datasets drawings")
    parser.add_argument("--model", default="tiny-rdm")
    parser.add_argument("--equal", default="runs/tiny-rdm/model-2000", help="RDM after as many steps as the baseline")
    parser.add_argument("--baseline", default="runs/tiny-rdm-no-neighbors/model")
    parser.add_argument("--judge", type=Path, default=Path("runs/judge/model"))
    parser.add_argument("--style-judge", type=Path, default=Path("runs/style-judge/model"))
    parser.add_argument("--held-out", type=Path, default=Path("runs/judge-held-out"), help="training with held_out")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32, help="pictures in one pass of the network")
    parser.add_argument("--count", type=int, default=1500, help="pictures for each Fréchet distance")
    parser.add_argument("--repeats", type=int, default=2, help="pictures of an entity and seed")
    parser.add_argument("--weights", default="1,2,4")
    parser.add_argument("--style-k", type=int, default=1)
    parser.add_argument("--only", default="real,a,b,name,c")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start, parts = time.perf_counter(), arguments.only.split(",")
    benchmark, pipe = Benchmark(arguments), load(arguments.model)
    if "real" in parts:
        real_pictures(benchmark, pipe, arguments.style_judge.parent, arguments.held_out)
    if "a" in parts:
        distances(benchmark, load(arguments.equal), load(arguments.baseline), arguments.count)
    weights = [float(w) for w in arguments.weights.split(",")]
    best = rare_entities(benchmark, pipe, weights, arguments.repeats) if "b" in parts else weights[-1]
    if "name" in parts:
        by_name(benchmark, pipe, best, arguments.repeats)
    if "c" in parts:
        style_exchange(benchmark, pipe, best, arguments.style_k, 1)
    print(f"done in {time.perf_counter() - start:.0f} s; report and sheets in {arguments.out}")


if __name__ == "__main__":
    main()
