"""How the `small` encoder is trained: one embedding that says what a picture shows, what it looks like and how it is
drawn.

Meaning: picture-picture and picture-text InfoNCE (as in CLIP, arXiv 2103.00020) on pairs of pictures of one entity in
two drawing styles. Look: principal components, computed once. Hand: a linear map of it must name the drawing style,
where the data has such a column; statistics of features over all positions can say little else. That last map is
thrown away afterwards.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import augment
from bowerbird.data.pictures import Pictures
from bowerbird.models.small_encoder import SmallEncoderConfig, SmallEncoderModel
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Share, column

HAND_SCALE = 8.0
"""What a unit vector is multiplied by before the style head, so that its softmax can become sure."""


class ContrastiveConfig(ObjectiveConfig):
    """Everything that shapes the encoder and its objective; stored in `recipe.json`."""

    kind: Literal["small-encoder"] = "small-encoder"
    encoder: SmallEncoderConfig = SmallEncoderConfig()
    entity_key: str = column("hexcode")
    style_key: str | None = column("style")
    strong_fraction: Share = 0.4
    plain_fraction: Share = 0.5


def draw_pairs(groups: list[list[int]], size: int, rng: np.random.Generator) -> np.ndarray:
    """Two rows of each of `size` groups, or of all where there are fewer, `(n, 2)`: one row twice where it is alone."""
    chosen = rng.choice(len(groups), size=min(size, len(groups)), replace=False)
    return np.array([rng.choice(g, size=2, replace=len(g) < 2) for g in (groups[i] for i in chosen)])


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two `(n, d)` batches of unit vectors whose rows pair up; cosine similarity times `scale`."""
    logits = a @ b.T * scale
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class ContrastiveBatch(TypedDict):
    """Pictures of n pairs, first all the first ones `(2 n, 3, S, S)` in [-1, 1], with the `texts` of the first of them;
    and pictures `plain` `(m, 3, S, S)` that nothing blurs, with their `style` `(m,)`, -1 where unknown."""

    pixels: Tensor
    texts: list[str]
    plain: Tensor
    style: Tensor


class ContrastiveObjective(Objective[ContrastiveBatch]):
    """The encoder with its losses over one set of pictures."""

    def __init__(self, config: ContrastiveConfig, pictures: Pictures, seed: int, known: Pictures) -> None:
        """`known`: the pictures whose styles are to be distinguished, and whose look is fitted to."""
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        named = pictures.column(config.style_key) if config.style_key else [None] * len(pictures)
        self.styles = sorted({s for s in known.column(config.style_key) if s}) if config.style_key else []
        self.style = torch.tensor([self.styles.index(style) if style in self.styles else -1 for style in named])
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.encoder = SmallEncoderModel(config.encoder)
            self.style_head = nn.Linear(config.encoder.hand_dim, max(1, len(self.styles)))
        self.encoder.fit_look(tensors.to_float(known.pixels))
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0), math.log(10.0)]))
        self.groups = pictures.groups(config.entity_key)

    def batch(self, step: int, size: int, rank: int = 0) -> ContrastiveBatch:
        """`size` entities, two pictures each (different where there are two), with a text and augmented alike within
        the pair."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        pairs = draw_pairs(self.groups, size, rng)
        strong = int(len(pairs) * self.config.strong_fraction)
        rows = torch.from_numpy(pairs)
        x = tensors.to_float(self.pictures.pixels[rows.T.reshape(-1)]).view(
            2, len(pairs), 3, self.pictures.size, self.pictures.size
        )
        parts = [x[:, strong:]]
        for i in range(strong):  # one strong change a pair, the same for both pictures, so that the pair still matches
            parts.append(augment.random_view(rng)(x[:, i])[:, None])
        x = torch.cat(parts, dim=1).flatten(0, 1)
        generator = seeds.torch_generator(self.seed, "jitter", step, rank)
        order = [*range(strong, len(pairs)), *range(strong)]
        texts = [self._text(int(pairs[i][0]), rng) for i in order[: len(pairs) - strong]]
        # how a picture is drawn is in its finest lines, which every resampling blurs: the hand learns from pictures as
        # they are
        plain = rows[: int(len(pairs) * self.config.plain_fraction), 0]
        sharp = tensors.to_float(self.pictures.pixels[plain])
        sharp = torch.where(torch.from_numpy(rng.random(len(plain)) < 0.5)[:, None, None, None], sharp.flip(3), sharp)
        return {"pixels": augment.jitter(x, generator), "texts": texts, "plain": sharp, "style": self.style[plain]}

    def _text(self, row: int, rng: np.random.Generator) -> str:
        """A caption as a person might type it: the name, the name and some tags, or tags alone, at times inside a
        phrase."""
        name, tags = self.pictures.captions[row], self.pictures.tags(row)
        some = [t for t in tags if rng.random() < 0.5]
        text = (
            name
            if rng.random() < 0.5 or not tags
            else " ".join([name, *some] if rng.random() < 0.6 else (some or tags))
        )
        return str(rng.choice(["{}", "{}", "a picture of {}", "a {}", "an emoji of {}", "the {} icon"])).format(text)

    def forward(self, batch: ContrastiveBatch) -> Tensor:
        """The summed loss of one batch."""
        texts, style = batch["texts"], batch["style"]
        meaning, _, _ = self.encoder.picture_parts(batch["pixels"])
        first, second = meaning.chunk(2)
        words = self.encoder.text_meaning(texts)
        scale = self.log_scale.clamp(max=math.log(50.0)).exp()
        n = len(texts)
        loss = (
            info_nce(first, second, scale[0])
            + 0.5 * info_nce(first[:n], words, scale[1])
            + 0.5 * info_nce(second[:n], words, scale[1])
        )
        _, _, hand = self.encoder.picture_parts(batch["plain"])
        # summed over the pictures that have a style: zero, yet part of the graph, where none has (torchrun wants every
        # gradient)
        styled = F.cross_entropy(self.style_head(hand * HAND_SCALE).float(), style, ignore_index=-1, reduction="sum")
        return loss + styled / (style >= 0).sum().clamp(min=1)

    def export(self, out: Path) -> None:
        """Write the encoder as a directory that `bowerbird.encoders.load` opens."""
        from bowerbird.encoders.small import save_small

        save_small(self.encoder, out)


def build(config: ContrastiveConfig, pictures: Pictures, run: RunContext) -> ContrastiveObjective:
    """The objective over `pictures`."""
    return ContrastiveObjective(config, pictures, run.seed, pictures if run.database is None else run.database)
