"""KNN-Diffusion's two backbones side by side, in one process: quality, steps, seconds a picture.

Both generate the 100 rare things from their names and the four drawings that words find, at guidance 3. Quality: the
share that an independent judge names, and the Fréchet distance of its features to those of the real drawings (500 of
them; `real halves` is what two halves of them have). A sheet shows the first entities, a row a setting.

    python benchmarks/knn_backbones.py --data drawings.parquet \
        --discrete runs/tiny-knn-discrete/model --out runs/backbones
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bowerbird import encoders
from bowerbird.core import contact_sheet, seeds, tensors
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import load_pictures
from bowerbird.evaluation.claims.benchmark import Benchmark, per_entity
from bowerbird.evaluation.claims.experiment import Experiment, Settings, open_pipeline
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.intervals import over_seeds

SEEDS = (0, 1, 2)
STEPS = {"continuous": (5, 10, 20, 50), "discrete": (5, 10, 20, 50, 100)}
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="drawings.parquet")
    parser.add_argument("--continuous", default="tiny-knn")
    parser.add_argument("--discrete", default="runs/tiny-knn-discrete/model")
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"))
    arguments = parser.parse_args()
    drawings = load_pictures(arguments.data)
    models = {"continuous": arguments.continuous, "discrete": arguments.discrete}
    rows, truth = [], None
    for name, counts in STEPS.items():
        for steps in counts:
            benchmark = Benchmark(Experiment(Settings(sampling_steps=steps), [], drawings))
            if truth is None:
                truth = np.arange(len(benchmark.entities))
                real = benchmark.judge(benchmark.drawings.pixels)[0].numpy()
                halves = seeds.numpy_generator(0, "halves").permutation(len(real))
                print(f"judge on real drawings: {benchmark.describe_judges()}")
                print(
                    "Fréchet distance of real halves:"
                    f" {frechet_distance(real[halves[: len(real) // 2]], real[halves[len(real) // 2 :]]):.1f}"
                )
                print("backbone    steps   seconds a picture   named            Fréchet distance")
            texts = encoders.load("small").embed_text(benchmark.names)[:, None]
            hits = Neighbors.concat(
                Neighbors.from_embeddings(texts, [[f"(text) {n}"] for n in benchmark.names]),
                benchmark.with_embeddings(benchmark.search(benchmark.names, 4)),
            )
            generated = [benchmark.generate(hits, seed, model=models[name]) for seed in SEEDS]
            named = per_entity([benchmark.name_entities(images) == truth for images in generated])
            far = over_seeds(
                [
                    frechet_distance(benchmark.judge(benchmark.judge.prepare(images))[0].numpy(), real)
                    for images in generated
                ]
            )
            took = seconds(models[name], benchmark, steps)
            print(
                f"{name:11} {steps:5d}   {took:8.2f}            {named.mean:.0%} [{named.low:.0%}, {named.high:.0%}]  "
                f" {far}",
                flush=True,
            )
            rows.append((f"{name}, {steps} steps, {took:.2f} s", list(generated[0][:SHOWN]), benchmark.names[:SHOWN]))
            if len(rows) == 1:
                firsts = [min(benchmark.rows_of(entity).values()) for entity in benchmark.entities[:SHOWN]]
                rows.insert(
                    0,
                    (
                        "one of the real drawings",
                        tensors.to_pil(benchmark.drawings.pixels[firsts]),
                        benchmark.names[:SHOWN],
                    ),
                )
    arguments.out.mkdir(parents=True, exist_ok=True)
    contact_sheet.labeled_grid(rows).save(arguments.out / "backbones.png")
    print(f"{arguments.out / 'backbones.png'} shows them")


def seconds(model: str, benchmark: Benchmark, steps: int) -> float:
    """Seconds a picture in batches of four, as `generate` generates them, bfloat16."""
    pipe = open_pipeline(model, "cpu")
    pipe.set_progress_bar_config(disable=True)
    hits = benchmark.with_embeddings(benchmark.search(benchmark.names[:4], 4))
    pipe(neighbors=hits, num_inference_steps=2)
    start = time.perf_counter()
    pipe(neighbors=hits, num_inference_steps=steps)
    return (time.perf_counter() - start) / 4


if __name__ == "__main__":
    main()
