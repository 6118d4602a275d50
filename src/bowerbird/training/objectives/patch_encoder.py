"""How the encoder of `models/patch_encoder.py` is trained.

Semantic: pictures of one name under two different variations, and the name (InfoNCE, arXiv 2103.00020). Style: two
things of one collection under the *same* colors, outlines and lines must agree against all other pairs, and a linear
map must name the collection of pictures as they are. Patches: a decoder, thrown away afterwards, gives the picture
back from noisy tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data import variation
from bowerbird.data.pictures import Pictures
from bowerbird.data.variation import VariedPictures
from bowerbird.models.patch_encoder import PatchDecoder, PatchEncoderConfig, PatchEncoderModel
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Amount, Share, column
from bowerbird.training.objectives.autoencoder import gradient_l1
from bowerbird.training.objectives.small_encoder import draw_pairs, info_nce

STYLE_SCALE = 8.0
"""What a unit vector is multiplied by before the style head, so that its softmax can become sure."""


class PatchEncoderTraining(ObjectiveConfig):
    """Everything that shapes the encoder and its objective; stored in `recipe.json`.

    Of a batch of n names, `style_share` n pairs are for style and `rebuilt_share` n pictures are given back.
    """

    kind: Literal["patch-encoder"] = "patch-encoder"
    encoder: PatchEncoderConfig = PatchEncoderConfig()
    style_key: str | None = column("style")
    varied: Share = 0.5
    style_share: Share = 0.5
    rebuilt_share: Share = 0.5
    rebuilt_weight: Amount = 4.0
    token_noise: Amount = 0.2


class PatchEncoderBatch(TypedDict):
    """n pictures `first` and n `second` of the same names, with `texts`; `alike` are m pairs of pictures of one `style`
    `(m,)` under one change, first all the first ones, and `plain` `(m,)` says of which there is none."""

    first: VariedPictures
    second: VariedPictures
    texts: list[str]
    alike: VariedPictures
    style: Tensor
    plain: Tensor
    noise: int


def of_one_name(pictures: Pictures) -> list[list[int]]:
    """The rows of each name; a picture without one stands alone."""
    names: dict[str, list[int]] = {}
    for row, caption in enumerate(pictures.captions):
        names.setdefault(caption.lower() or f"row {row}", []).append(row)
    return list(names.values())


def typed(pictures: Pictures, row: int, rng: np.random.Generator) -> str:
    """A caption as a person might type it: the name, at times with some tags, at times inside a phrase."""
    name = pictures.captions[row]
    tags = [tag for tag in pictures.tags(row) if rng.random() < 0.5]
    text = " ".join([name, *tags]) if rng.random() < 0.4 else name
    return str(rng.choice(["{}", "{}", "a picture of {}", "a {}", "the {} icon"])).format(text)


def freely_varied(n: int, share: float, generator: torch.Generator) -> variation.Variation:
    """Variations of n pictures under which each still shows the same thing; `share` have each kind of change."""
    return variation.draw(n, generator, colored=share, moved=share, grounded=share, drawn=share / 3, several=share / 10)


class PatchEncoderObjective(Objective[PatchEncoderBatch]):
    """The encoder with its losses over one set of pictures."""

    def __init__(self, config: PatchEncoderTraining, pictures: Pictures, seed: int) -> None:
        super().__init__()
        self.config, self.pictures, self.seed, self.opacity = config, pictures, seed, pictures.opacity()
        named = pictures.column(config.style_key) if config.style_key else [""] * len(pictures)
        self.styles = sorted({style for style in named if style})
        self.style = torch.tensor([self.styles.index(style) if style else -1 for style in named])
        self.groups = of_one_name(pictures)
        self.of_style = [np.flatnonzero(self.style.numpy() == i) for i in range(-1, len(self.styles))]
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.encoder = PatchEncoderModel(config.encoder)
            self.decoder = PatchDecoder(config.encoder)
            self.style_head = nn.Linear(config.encoder.style_dim, max(1, len(self.styles)))
        self.log_scale = nn.Parameter(torch.full((3,), math.log(10.0)))

    def batch(self, step: int, size: int, rank: int = 0) -> PatchEncoderBatch:
        """`size` names with two pictures each (different where there are two) and a text; pairs of one style."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "vary", step, rank)
        pairs = draw_pairs(self.groups, size, rng)
        several = max(2, int(len(pairs) * self.config.style_share))
        some = rng.integers(len(self.pictures), size=several)
        partners = np.array([rng.choice(self.of_style[int(self.style[row]) + 1]) for row in some])
        change = variation.draw(several, generator, colored=0.5, moved=0.0, grounded=0.0, drawn=0.4, several=0.0)
        plain = torch.rand(several, generator=generator) < 0.5
        change = variation.where(plain, variation.identity(several), change)
        # how a thing is drawn does not change with its ground, mirror and size
        freely = variation.draw(2 * several, generator, moved=0.3, grounded=0.4, several=0.0)
        both = change.select(torch.arange(several).repeat(2))
        both = replace(both, place=freely.place, ground=freely.ground, moved=freely.moved)
        rows = np.concatenate([some, partners])
        return {
            "first": self._varied(pairs[:, 0], generator),
            "second": self._varied(pairs[:, 1], generator),
            "texts": [typed(self.pictures, int(row), rng) for row in pairs[:, 0]],
            "alike": VariedPictures(self.pictures.pixels[rows], self.opacity[rows], both),
            "style": self.style[some],
            "plain": plain,
            "noise": seeds.derive(self.seed, "token noise", step, rank),
        }

    def _varied(self, rows: np.ndarray, generator: torch.Generator) -> VariedPictures:
        change = freely_varied(len(rows), self.config.varied, generator)
        return VariedPictures(self.pictures.pixels[rows], self.opacity[rows], change)

    def forward(self, batch: PatchEncoderBatch) -> Tensor:
        """The summed loss of one batch."""
        config = self.config
        size, m = config.encoder.image_size, len(batch["style"])
        views = [batch[name].render(size) for name in ("first", "second", "alike")]
        semantic, style, patches = self.encoder.parts(torch.cat(views))
        n = len(views[0])
        first, second = semantic[:n], semantic[n : 2 * n]
        words = self.encoder.text_meaning(batch["texts"])
        scale = self.log_scale.clamp(max=math.log(50.0)).exp()
        loss = info_nce(first, second, scale[0]) + 0.5 * (
            info_nce(first, words, scale[1]) + info_nce(second, words, scale[1])
        )
        loss = loss + self._style_loss(style[2 * n :], batch["style"], batch["plain"], scale[2])
        count = max(1, int(n * config.rebuilt_share))
        rows = torch.cat([torch.arange(count), 2 * n + torch.arange(min(count // 2, m))])
        tokens = patches / patches.flatten(0, 1).std(0).clamp(min=1e-6)
        tokens = tokens - tokens.mean((0, 1))
        noise = torch.randn((len(rows), *tokens.shape[1:]), generator=torch.Generator().manual_seed(batch["noise"]))
        rebuilt = self.decoder(tokens[rows.to(tokens.device)] + config.token_noise * noise.to(tokens.device)).float()
        wanted = torch.cat([views[0][:count], views[2][: min(count // 2, m)]])
        return loss + config.rebuilt_weight * (F.l1_loss(rebuilt, wanted) + 0.5 * gradient_l1(rebuilt, wanted))

    def _style_loss(self, style: Tensor, known: Tensor, plain: Tensor, scale: Tensor) -> Tensor:
        """InfoNCE over pairs of one style and change, other plain pairs of that style left out; and the style's
        name."""
        a, b = style.chunk(2)
        logits = a @ b.T * scale
        same = (known[:, None] == known[None]) & plain[:, None] & plain[None]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -1e4)
        target = torch.arange(len(a), device=a.device)
        agree = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        wanted = torch.where(plain, known, torch.full_like(known, -1)).repeat(2)
        named = F.cross_entropy(self.style_head(style * STYLE_SCALE).float(), wanted, ignore_index=-1, reduction="sum")
        return 0.5 * agree + named / (wanted >= 0).sum().clamp(min=1)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Bring the patches to unit variance over pictures of the training, half of them varied."""
        rows = seeds.numpy_generator(self.seed, "scale").integers(len(self.pictures), size=512)
        pictures = self._varied(rows, seeds.torch_generator(self.seed, "scale"))
        device = self.log_scale.device
        x = pictures.render(self.config.encoder.image_size)
        self.encoder.fit_patches(torch.cat([self.encoder.parts(part.to(device))[2] for part in torch.split(x, 64)]))

    def export(self, out: Path) -> None:
        """Write the encoder as a directory that `bowerbird.encoders.load` opens."""
        from bowerbird.encoders.small import save_small

        self.calibrate()
        save_small(self.encoder, out)


def sheet(objective: PatchEncoderObjective, path: Path) -> None:
    """Pictures above, below what the decoder gives back from their tokens."""
    from bowerbird.core.contact_sheet import grid

    rows = np.linspace(0, len(objective.pictures) - 1, 12).astype(int)
    x = objective._varied(rows, seeds.torch_generator(0, "sheet")).render(objective.config.encoder.image_size)
    objective.calibrate()
    with torch.no_grad():
        patches = objective.encoder.parts(x.to(objective.log_scale.device))[2]
        rebuilt = objective.decoder(objective.encoder.normal_patches(patches)).cpu()
    grid([tensors.to_pil(x), tensors.to_pil(rebuilt.clamp(-1, 1))]).save(path)


def build(config: PatchEncoderTraining, pictures: Pictures, run: RunContext) -> PatchEncoderObjective:
    """The objective over `pictures`."""
    return PatchEncoderObjective(config, pictures, run.seed)
