"""Of a model that reads pictures: does it draw things never trained on by their names, and in its collection's style?

- rare: the 100 rare emoji by name (BM25 among all emoji but openmoji), and the same network without neighbors; named by
  a judge of the rare entities.
- style: the same names in a collection of one style (k = 1), emoji styles and the two icon styles that no model learns
  from; named by a judge of the styles of both files, and of the emoji styles alone. A tenth of each style's pictures
  was held out of its training.

Neither judge is a condition of any model. Three sampling seeds; intervals are 95%, over entities. What was generated is
kept in the cache, so that a cut run goes on.

    python benchmarks/drawings_quality.py reimagen-drawings --data emoji.parquet --icons icons.parquet --out report.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird.core import files, seeds, tensors
from bowerbird.core.quiet import quiet_libraries
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.evaluation.claims.benchmark import Benchmark
from bowerbird.evaluation.claims.experiment import Experiment, Settings
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.evaluation.metrics.intervals import over_groups
from bowerbird.training.recipes.drawings import HELD_OUT_STYLES
from bowerbird.training.recipes.judge import judge as judge_recipe
from bowerbird.training.recipes.judge import style_judge as style_judge_recipe

UNSEEN = "openmoji"
A_STYLE = 400
"""Pictures of each style that the judge of styles learns from, a tenth of them held out."""
AT_ONCE = 25
"""Pictures that are generated and kept together."""


class Collection(Benchmark):
    """All of an experiment's drawings as one collection, not the rare ones alone."""

    @cached_property
    def drawings(self) -> Pictures:
        """All of them."""
        return self.experiment.drawings


def main() -> None:
    """Train the judges, generate, and print and keep what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundled name or directory")
    parser.add_argument("--data", type=Path, required=True, help="bowerbird datasets drawings")
    parser.add_argument("--icons", type=Path, help="icons with the columns hexcode, style and split")
    parser.add_argument("--out", type=Path, required=True, help="report.json; a sheet is written beside it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--k", type=int, default=2, help="neighbors of a name")
    parser.add_argument("--entities", type=int, default=50, help="of each style")
    parser.add_argument("--judge-steps", type=int, default=240)
    arguments = parser.parse_args()
    settings = Settings(seeds=tuple(range(arguments.seeds)), sampling_steps=arguments.steps)
    emoji = load_pictures(arguments.data)
    report: dict[str, Any] = {"settings": {key: str(value) for key, value in vars(arguments).items()}}
    for key, values in _measure(arguments, settings, emoji):
        report[key] = values
        print(f"{key:40} {json.dumps(values)}", flush=True)
        files.write_json(arguments.out, report)


def _measure(
    arguments: argparse.Namespace, settings: Settings, emoji: Pictures
) -> Iterator[tuple[str, dict[str, Any]]]:
    rare = emoji.select([i for i, row in enumerate(emoji.metadata) if row["split"] == "rare"])
    entities = sorted(set(rare.column("hexcode")))
    names = dict(zip(rare.column("hexcode"), rare.captions, strict=True))
    judge = _judge(rare, arguments.judge_steps)
    columns = [judge.entities.index(entity) for entity in entities]

    def names_of(images: list[Image.Image]) -> np.ndarray:
        return judge(judge.prepare(images))[1][:, columns].argmax(1).numpy()

    truth = np.array([entities.index(code) for code in rare.column("hexcode")])
    real = names_of(tensors.to_pil(rare.pixels)) == truth
    yield "judge of the rare, on real pictures", {"right": float(real.mean()), "seen in training": True}
    shared = _collection(emoji, settings, lambda row: row["style"] != UNSEEN)
    prompts = [names[entity] for entity in entities]
    for arm, k in ((f"rare by name, k = {arguments.k}", arguments.k), ("rare, without neighbors", 0)):
        made = [_generate(shared, shared.search(prompts, k), seed, arguments) for seed in settings.seeds]
        right = np.stack([names_of(images) == np.arange(len(entities)) for images in made], 1)
        yield arm, asdict(over_groups(right))
        if k:
            _sheet(made[0], arguments.out.with_suffix(".png"))
    icons = None if arguments.icons is None else load_pictures(arguments.icons)
    everything = emoji if icons is None else emoji.concat(icons)
    style_judge, held_out = _style_judge(everything, arguments.judge_steps)
    of_emoji = [style_judge.styles.index(style) for style in sorted(set(emoji.column("style")))]

    def styles_of(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Among all styles, and among those of the emoji."""
        logits = style_judge(style_judge.prepare(images))[2]
        labels = np.array(style_judge.styles)
        return labels[logits.argmax(1).numpy()], labels[of_emoji][logits[:, of_emoji].argmax(1).numpy()]

    unseen = np.array(held_out.column("style"))
    every, among = styles_of(tensors.to_pil(held_out.pixels))
    by_style = {
        style: [float((every[unseen == style] == style).mean()), float((among[unseen == style] == style).mean())]
        for style in sorted(set(unseen))
    }
    emoji_rows = np.isin(unseen, sorted(set(emoji.column("style"))))
    yield (
        "judge of styles, on held-out pictures",
        {
            "among all": float((every == unseen).mean()),
            "among the emoji's": float((among == unseen)[emoji_rows].mean()),
            "by style": by_style,
        },
    )
    chosen = seeds.numpy_generator(0, "entities").permutation(len(entities))[: arguments.entities]
    some = [entities[i] for i in sorted(chosen.tolist())]
    for style in [*sorted(set(emoji.column("style"))), *(HELD_OUT_STYLES if icons is not None else ())]:
        source = emoji if style in emoji.column("style") else icons
        assert source is not None
        own = _collection(source, settings, lambda row, style=style: row["style"] == style)
        if source is emoji:
            asked = [names[entity] for entity in some]
        else:
            every_name = sorted(set(own.drawings.captions))
            order = seeds.numpy_generator(0, "names").permutation(len(every_name))[: arguments.entities]
            asked = [every_name[i] for i in sorted(order.tolist())]
        hits = own.search(asked, 1)
        made = [_generate(own, hits, seed, arguments) for seed in settings.seeds]
        seen = [styles_of(images) for images in made]
        values: dict[str, Any] = {"among all": asdict(over_groups(np.stack([a == style for a, _ in seen], 1)))}
        if source is emoji:
            values["among the emoji's"] = asdict(over_groups(np.stack([b == style for _, b in seen], 1)))
            wanted = np.array([entities.index(entity) for entity in some])
            values["the entity of 100"] = asdict(over_groups(np.stack([names_of(m) == wanted for m in made], 1)))
        shown = [image for row in hits.images() for image in row if image is not None]
        every, among = styles_of(shown)
        values["its neighbors, among all"] = float((every == style).mean())
        if source is emoji:
            values["its neighbors, among the emoji's"] = float((among == style).mean())
        yield f"one style: {style}", values


def _collection(pictures: Pictures, settings: Settings, wanted: Any) -> Collection:
    rows = [i for i, row in enumerate(pictures.metadata) if wanted(row)]
    return Collection(Experiment(settings, [], pictures.select(rows)))


def _generate(collection: Collection, hits: Neighbors, seed: int, arguments: argparse.Namespace) -> list[Image.Image]:
    """One picture for each row; kept in parts."""
    made: list[Image.Image] = []
    for start in range(0, len(hits), AT_ONCE):
        part = hits.rows(list(range(start, min(start + AT_ONCE, len(hits)))))
        number = seed * 1000 + start  # each part has noise of its own
        size = {"height": arguments.size, "width": arguments.size}
        made += collection.generate(part, number, model=arguments.model, **size)
    return made


def _judge(rare: Pictures, steps: int) -> Judge:
    recipe = judge_recipe()
    train = recipe.train.model_copy(update={"batch_size": 64})
    return train_judge(recipe.model_copy(update={"name": "judge-rare", "train": train}), rare, steps=steps)


def _style_judge(pictures: Pictures, steps: int) -> tuple[Judge, Pictures]:
    """The judge, and the pictures that it was not trained on."""
    styles = np.array(pictures.column("style"))
    rng = seeds.numpy_generator(0, "styles")
    rows = [np.flatnonzero(styles == style) for style in sorted(set(styles))]
    chosen = np.concatenate([rng.permutation(each)[:A_STYLE] for each in rows])
    mixed = rng.permutation(np.sort(chosen))
    cut = len(mixed) // 10
    recipe = style_judge_recipe()
    system = recipe.system.model_copy(update={"held_out": 0.0})
    recipe = recipe.model_copy(update={"name": "style-judge-drawings", "system": system})
    trained = pictures.select(np.sort(mixed[cut:]).tolist())
    return train_judge(recipe, trained, steps=steps), pictures.select(np.sort(mixed[:cut]).tolist())


def _sheet(images: list[Image.Image], path: Path) -> None:
    from bowerbird.core import contact_sheet

    contact_sheet.grid([images[i : i + 10] for i in range(0, len(images), 10)], size=96).save(path)


if __name__ == "__main__":
    quiet_libraries()
    main()
