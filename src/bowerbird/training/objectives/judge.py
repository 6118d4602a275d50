"""The independent judge: a network that names the entity and the drawing style of a picture, for measuring only.

It shares no weights with any model that generates and is never a condition. It is trained on all public pictures, the
rare entities and every style included, because it has to recognize them; it is blurred, noised and shifted in training
so that a generated picture is not judged by its texture. Its penultimate features serve the Fréchet distance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import files, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.models.classifier import ClassifierModel
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Share, column


class JudgeConfig(ObjectiveConfig):
    """Sizes, labels, the share of pictures held out, the share blurred or noised, how far they are moved; stored in
    `recipe.json`."""

    kind: Literal["classifier"] = "classifier"
    channels: tuple[int, ...] = (32, 64, 128, 192)
    entity_key: str = column("hexcode")
    style_key: str = column("style")
    held_out: Share = 0.0
    degraded: Share = 0.5
    jitter: Amount = 1.0


class JudgeBatch(TypedDict):
    """Pictures `(n, 3, S, S)` in [-1, 1] with the numbers of their `entity` and `style` `(n,)`."""

    pixels: Tensor
    entity: Tensor
    style: Tensor


class JudgeObjective(Objective[JudgeBatch]):
    """Cross-entropy on entity and style; a `held_out` share of the pictures is never drawn (none of the others is
    touched)."""

    def __init__(self, config: JudgeConfig, pictures: Pictures, seed: int, known: Pictures) -> None:
        """`known`: the pictures with the labels to learn. Raises: BowerbirdError when none of `pictures` has one."""
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        for key in ("entity_key", "style_key"):
            if getattr(config, key) not in known.columns:
                raise BowerbirdError(
                    f"system.{key} {getattr(config, key)!r} is not a column of this data; it has"
                    f" {', '.join(sorted(known.columns)) or 'none'}"
                )
        entity, style = pictures.column(config.entity_key), pictures.column(config.style_key)
        self.entities, self.styles = (sorted(set(known.column(key))) for key in (config.entity_key, config.style_key))
        self.entity_labels = _numbers(entity, self.entities)
        self.style_labels = _numbers(style, self.styles)
        shuffled = seeds.numpy_generator(seed, "held out").permutation(len(pictures))
        self.rows = np.sort(shuffled[int(len(pictures) * config.held_out) :])
        labeled = ((self.entity_labels >= 0) & (self.style_labels >= 0)).numpy()
        self.rows = self.rows[labeled[self.rows]]
        if not len(self.rows):
            raise BowerbirdError(
                f"no picture is left to learn from with a known {config.entity_key!r} and {config.style_key!r}; lower"
                " system.held_out, or hold out others"
            )
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.model = ClassifierModel(config.channels, len(self.entities), len(self.styles))

    def batch(self, step: int, size: int, rank: int = 0) -> JudgeBatch:
        """`size` pictures, moved and tinted; a share of them blurred or noised."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "jitter", step, rank)
        rows = torch.from_numpy(rng.choice(self.rows, size=size))
        x = augment.jitter(tensors.to_float(self.pictures.pixels[rows]), generator, self.config.jitter)
        quarter = int(size * self.config.degraded / 2)
        if quarter:
            x[:quarter] = F.interpolate(F.avg_pool2d(x[:quarter], 2), scale_factor=2, mode="bilinear")
        x[quarter : 2 * quarter] += 0.15 * torch.randn(x[quarter : 2 * quarter].shape, generator=generator)
        return {"pixels": x, "entity": self.entity_labels[rows], "style": self.style_labels[rows]}

    def forward(self, batch: JudgeBatch) -> Tensor:
        """Entity cross-entropy + 0.3 style cross-entropy, both lightly smoothed."""
        _, entity, style = self.model(batch["pixels"])
        return F.cross_entropy(entity.float(), batch["entity"], label_smoothing=0.05) + 0.3 * F.cross_entropy(
            style.float(), batch["style"], label_smoothing=0.05
        )

    def export(self, out: Path) -> None:
        """Write weights and labels for `evaluation.judge`."""
        files.save_tensors(out / "model.safetensors", self.model.state_dict())
        files.write_json(
            out / "config.json",
            {
                "type": "bowerbird-evaluator",
                "channels": self.config.channels,
                "entities": self.entities,
                "styles": self.styles,
                "size": self.pictures.size,
            },
        )


def _numbers(values: list[str], known: list[str]) -> Tensor:
    """Where each value stands among the `known` ones, -1 where it does not."""
    places = {value: place for place, value in enumerate(known)}
    return torch.tensor([places.get(value, -1) for value in values])


def build(config: JudgeConfig, pictures: Pictures, run: RunContext) -> JudgeObjective:
    """The objective over `pictures`."""
    return JudgeObjective(config, pictures, run.seed, pictures if run.database is None else run.database)
