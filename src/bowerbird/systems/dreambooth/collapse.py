"""Whether the class is still a class: how various its pictures are, beside those of the base from the same noise, and
beside those of the subject, which is what a class that has collapsed is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bowerbird.core import seeds
from bowerbird.encoders.perceptual import mean_distance, perceptual_distances
from bowerbird.systems.dreambooth.class_pictures import unchecked

STEPS = 20
CHECKED = 8
"""Pictures by which the class is looked at."""
DRAWS, RARELY = 400, 0.01
CHANCE = 0.75
"""The share of a class' diversity that `CHECKED` pictures of it have by chance in `RARELY` of cases, where it cannot be
measured: of nine classes of drawings the least was 0.76 (docs/log.md)."""
MOST = 64
"""Pictures of the class by which chance is measured."""


@dataclass(frozen=True)
class ClassDiversity:
    """The mean perceptual distance between pictures of the class, `now` and by the `base` (DreamBooth's DIV)."""

    now: float
    base: float

    @property
    def share(self) -> float:
        """What is left of the base's, 1 where the base itself makes one picture alone."""
        return self.now / self.base if self.base > 0 else 1.0

    def line(self, threshold: float) -> str:
        """Both, and where training stops."""
        return (
            f"diversity of the class {self.now:.3f}, by the base {self.base:.3f}: {self.share:.0%} is left, stops below"
            f" {threshold:.0%}"
        )


def diversity(pictures: list[Image.Image]) -> float:
    """The mean perceptual distance of two of `pictures`."""
    return mean_distance(perceptual_distances(pictures))


def least_share(subject: Sequence[Image.Image], base: float, of_class: Sequence[Image.Image] = ()) -> float:
    """The share of the diversity `base` of a class below which it is taken for collapsed: halfway from all of it to
    that of the training pictures of the `subject`, but never more than `CHECKED` of the base's own pictures `of_class`
    have by chance."""
    if base <= 0:
        return 0.0
    chance, known = CHANCE, of_class[:MOST]
    if len(known) >= 2 * CHECKED:
        apart = perceptual_distances(known)
        rng = seeds.numpy_generator(0, "class by chance")
        drawn = (rng.choice(len(known), CHECKED, replace=False) for _ in range(DRAWS))
        shares = [mean_distance(apart[np.ix_(rows, rows)]) for rows in drawn]
        chance = float(np.quantile(shares, RARELY) / max(mean_distance(apart), 1e-9))
    return min((1 + diversity([*subject][:MOST]) / base) / 2, chance)


def generate(plain: Any, prompt: str, count: int, guidance: float | None = None) -> list[Image.Image]:
    """`count` pictures of a prompt by diffusers' pipeline `plain`, the same noise each time; `guidance`: the scale,
    None for that of its call."""
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    pipe = ReferencePipeline(unchecked(plain))
    pipe.set_progress_bar_config(disable=True)
    made: list[Image.Image] = pipe(
        prompt,
        num_images_per_prompt=count,
        generator=[seeds.picture_generator(i) for i in range(count)],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
    ).images
    return made
