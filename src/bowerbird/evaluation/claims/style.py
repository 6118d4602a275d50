"""RDM, claim 5: exchanging the database changes the style, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import encoders
from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import plots
from bowerbird.evaluation.claims.claim import Claim, Effect, Finding
from bowerbird.evaluation.claims.experiment import Database, Experiment, open_pipeline, steps_of
from bowerbird.evaluation.judge import Judge, train_judge
from bowerbird.evaluation.metrics.intervals import over_groups
from bowerbird.systems import generation
from bowerbird.training.recipes.judge import style_judge as style_judge_recipe

if TYPE_CHECKING:
    from PIL import Image

MODEL = "tiny-rdm"
GUIDANCE = 4.0
ENTITIES = 60
JUDGE_STEPS = 1000


HitsOf = Callable[[Pictures, str, list[str]], Neighbors]
"""What the entities are generated from, given the drawings, the style of the database and the entities."""


def measure(experiment: Experiment) -> Finding:
    """RDM, from each entity's picture in the database's style."""
    return exchange(experiment, MODEL, of_entity("small"), guidance_scale=GUIDANCE)


def exchange(experiment: Experiment, model: str, hits_of: HitsOf, **how: Any) -> Finding:
    """The same entities and seeds from a database of each style: how often the judge sees that style, against the other
    databases. `how`: settings of the generation that are not the usual ones. Raises: BowerbirdError where the data has
    too few styles or entities."""
    drawings = experiment.drawings
    styles = sorted(set(drawings.column("style")))
    chosen = _in_every_style(drawings, styles)
    if len(styles) < 2 or len(chosen) < 2:
        raise BowerbirdError(
            f"the style claim needs two styles and entities drawn in each of them; the data has {len(styles)} and"
            f" {len(chosen)}"
        )
    judge = train_judge(
        style_judge_recipe(),
        drawings,
        steps=JUDGE_STEPS,
        device=experiment.device,
        progress=experiment.progress,
    )
    hits = {style: hits_of(drawings, style, chosen) for style in styles}
    pipe = open_pipeline(model, experiment.device)
    seen: dict[str, list[np.ndarray]] = {style: [] for style in styles}  # a style's verdicts, one array a seed
    for seed in experiment.settings.seeds:
        for style in styles:
            steps = steps_of(pipe, experiment.settings)
            settings = generation.Settings(steps=steps, seed=1_000_000 * (seed + 1), **how)
            seen[style].append(_name_styles(judge, generation.generate(pipe, hits[style], settings, batch=32)))
    # share of an entity's pictures (seeds) from the database of `style` that are taken for `other`: (entities,)
    share = {
        style: {
            other: np.mean([named == judge.styles.index(other) for named in seen[style]], axis=0) for other in styles
        }
        for style in styles
    }
    effects, values, rows = [], {}, []
    for style in styles:
        own, others = share[style][style], np.mean([share[other][style] for other in styles if other != style], axis=0)
        effects.append(
            Effect(f"{style}: share seen as {style}, from its database − from others", over_groups(own - others))
        )
        estimate = over_groups(own)
        values[f"from the database of {style}"] = {
            other: asdict(over_groups(found)) for other, found in share[style].items()
        }
        rows.append((style, estimate.mean, estimate.low, estimate.high))
    plot = partial(
        plots.intervals,
        rows=rows,
        title="Pictures seen as the style of their database",
        label="share",
        mark=1 / len(styles),
    )
    real = np.mean(
        [_name_styles(judge, _drawings_of(drawings, style, chosen)) == judge.styles.index(style) for style in styles]
    )
    notes = (
        f"{len(chosen)} entities that every style has, intervals over them; rare entities and openmoji were never"
        f" trained on. The judge names the style of {real:.0%} of the real drawings, of which it saw nine in ten in"
        " training."
    )
    return Finding(effects, values, notes, plot)


def _in_every_style(drawings: Pictures, styles: list[str]) -> list[str]:
    """Up to 60 entities drawn in every style, rare ones first."""
    have: dict[str, set[str]] = {}
    rare = {}
    for row in drawings.metadata:
        have.setdefault(str(row["hexcode"]), set()).add(str(row["style"]))
        rare[str(row["hexcode"])] = row.get("split") == "rare"
    complete = sorted(e for e, found in have.items() if len(found) == len(styles))
    return sorted(complete, key=lambda e: (not rare[e], e))[:ENTITIES]


def _name_styles(judge: Judge, pictures: list[Image.Image]) -> np.ndarray:
    """The style the judge sees in each, by number."""
    return judge(judge.prepare(pictures))[2].argmax(1).numpy()


def _drawings_of(drawings: Pictures, style: str, entities: list[str]) -> list[Image.Image]:
    """The picture of each entity in `style`."""
    at = {str(row["hexcode"]): i for i, row in enumerate(drawings.metadata) if row["style"] == style}
    return tensors.to_pil(drawings.pixels[[at[e] for e in entities]])


def of_entity(encoder: str) -> HitsOf:
    """For each entity its picture in the style, alone: k = 1 from a database of that style only."""

    def hits(drawings: Pictures, style: str, entities: list[str]) -> Neighbors:
        vectors = encoders.load(encoder).embed_images(_drawings_of(drawings, style, entities))
        return Database(vectors, lambda k: np.ones(len(vectors))).at(np.arange(len(vectors))[:, None])

    return hits


CLAIM = Claim(
    name="style",
    says="Exchanging the database at inference changes the style of what is generated.",
    source="RDM, arXiv 2204.11824, section 4.3; 2207.13038",
    varies="the drawing style of the database; entities, seeds and network (the bundled tiny-rdm) alike",
    measures="share of pictures that an independent style judge assigns to the database's style",
    measure=measure,
)
