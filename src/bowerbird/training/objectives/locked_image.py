"""The text side of an encoder of `models/patch_encoder.py`, trained while its picture side is locked.

The picture network is most of the cost of a step, and the words are what learns slowest: thousands of names, each seen
a few times. So the pictures, as they are and under some variations, go through it once; what trains afterwards is the
text tower and the last layer of the semantic part, with a thousand names in a batch. Patches and style stay as they
are.

Source: LiT, arXiv 2111.07991. Differs from the usual: the last layer of the picture side trains too, and pictures of
one name under two variations are drawn together (InfoNCE) so that it does not forget how.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.data import variation
from bowerbird.data.pictures import Pictures
from bowerbird.encoders.load import load
from bowerbird.encoders.small import SmallEncoder, save_small
from bowerbird.models.patch_encoder import PatchEncoderModel
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Count, Share, network
from bowerbird.training.objectives.patch_encoder import freely_varied, of_one_name, typed
from bowerbird.training.objectives.small_encoder import draw_pairs, info_nce

CHUNK = 256
"""Pictures that go through the locked network at once."""


class LockedImageConfig(ObjectiveConfig):
    """Settings; stored in `recipe.json`. Each picture is seen as it is and under `views` - 1 variations, `varied` the
    share of each kind. `noise`: of its features, in their own standard deviations."""

    kind: Literal["locked-image"] = "locked-image"
    base: str = network("runs/small-patches/model")
    views: Count = 4
    varied: Share = 0.5
    noise: Amount = 0.1


class LockedImageBatch(TypedDict):
    """Features `(n, d)` of two pictures of each of n names, and a text of the first."""

    first: Tensor
    second: Tensor
    texts: list[str]


class LockedImageObjective(Objective[LockedImageBatch]):
    """The text tower and the last layer of the semantic part, with their loss."""

    def __init__(self, config: LockedImageConfig, model: PatchEncoderModel, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed = config, pictures, seed
        self.encoder = model.eval().requires_grad_(False)
        *_, last = model.semantic
        for layer in (model.pieces, model.piece_weight, model.text, last):
            layer.requires_grad_(True)
        self.last: nn.Module = last
        self.log_scale = nn.Parameter(torch.full((2,), math.log(20.0)))
        self.groups = of_one_name(pictures)
        self.features = torch.stack([self._features(view) for view in range(config.views)])
        self.spread = float(self.features[0].float().std())

    @torch.no_grad()
    def _features(self, view: int) -> Tensor:
        """What the last layer is given for each picture under one variation, the first the identity, `(n, d)`."""
        share, size = self.config.varied, self.encoder.config.image_size
        generator, opacity = seeds.torch_generator(self.seed, "view", view), self.pictures.opacity()
        *before, _ = self.encoder.semantic
        device = self.log_scale.device
        found = []
        for rows in torch.split(torch.arange(len(self.pictures)), CHUNK):
            change = freely_varied(len(rows), share, generator) if view else variation.identity(len(rows))
            h = variation.apply(change, self.pictures.pixels[rows], opacity[rows], size).to(device)
            for layer in (*self.encoder.stages, *before):
                h = layer(h)
            found.append(h.half().cpu())
        return torch.cat(found)

    def batch(self, step: int, size: int, rank: int = 0) -> LockedImageBatch:
        """`size` names with two pictures each (different where there are two) and a text."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        pairs = draw_pairs(self.groups, size, rng)

        def seen(rows: np.ndarray) -> Tensor:
            found = self.features[rng.integers(len(self.features), size=len(rows)), rows].float()
            return found + self.config.noise * self.spread * torch.randn(found.shape, generator=generator)

        return {
            "first": seen(pairs[:, 0]),
            "second": seen(pairs[:, 1]),
            "texts": [typed(self.pictures, int(row), rng) for row in pairs[:, 0]],
        }

    def forward(self, batch: LockedImageBatch) -> Tensor:
        """The summed loss of one batch: pictures of one name, and each of them and the text."""
        first, second = (F.normalize(self.last(batch[name]).float(), dim=1) for name in ("first", "second"))
        words = self.encoder.text_meaning(batch["texts"])
        scale = self.log_scale.clamp(max=math.log(50.0)).exp()
        with_text = info_nce(first, words, scale[1]) + info_nce(second, words, scale[1])
        return info_nce(first, second, scale[0]) + 0.5 * with_text

    def export(self, out: Path) -> None:
        """Write the encoder as a directory that `bowerbird.encoders.load` opens."""
        save_small(self.encoder, out)


def frozen(config: LockedImageConfig) -> dict[str, str]:
    """The fingerprint of the encoder it starts from."""
    return {"encoder": load(config.base).fingerprint}


def build(config: LockedImageConfig, pictures: Pictures, run: RunContext) -> LockedImageObjective:
    """The objective over `pictures`, from the weights of `config.base`. Raises: BowerbirdError for an encoder without
    patches."""
    found = load(config.base, device=run.device)
    if not isinstance(found, SmallEncoder) or not isinstance(found.model, PatchEncoderModel):
        raise BowerbirdError(
            f"system.base {config.base}: is not an encoder with patches; give one that the recipe small-patches trained"
        )
    return LockedImageObjective(config, found.model, pictures, run.seed)
