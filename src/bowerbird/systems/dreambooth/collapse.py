"""Whether the class is still a class: how various its pictures are, beside those of the base from the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from bowerbird.core import seeds
from bowerbird.encoders.perceptual import mean_distance, perceptual_distances

STEPS = 20


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


def generate(plain: Any, prompt: str, count: int) -> list[Image.Image]:
    """`count` pictures of a prompt by diffusers' pipeline `plain`, the same noise each time."""
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    pipe = ReferencePipeline(plain)
    pipe.set_progress_bar_config(disable=True)
    made: list[Image.Image] = pipe(
        prompt,
        num_images_per_prompt=count,
        generator=[seeds.picture_generator(i) for i in range(count)],
        num_inference_steps=STEPS,
    ).images
    return made
