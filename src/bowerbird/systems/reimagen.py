"""Re-Imagen, retrieval-augmented text-to-image (arXiv 2209.14491): its configuration and its training objective.

p(x) = p_theta(x | c_p, c_n): a text, and k pairs of picture and caption found with it. Both enter one U-Net (`models/neighbor_unet.py`),
each is dropped in 10% of the draws independently of the other, so that all four of eps(c_p, c_n), eps(c_p, -), eps(-, c_n) and eps(-, -)
exist. A stage above the first also sees the picture of the stage below, noised to a drawn level. The pipeline is in `reimagen_pipeline.py`.

Differs from the paper, and why:
- D is the training set under a leak guard, as our collections are small: never the picture itself, at times never its entity.
- What neighbours mean has to be learnt from 6,000 pictures instead of 50 million, so draws are of three kinds (`NeighborDraw`).
- Target and neighbours are changed together (mirror, quarter turn, shift, hue) in half the draws, and then the thing goes by an
  invented name: a name that was never met must mean what its neighbours show.
- v-prediction in the first stage; the stage above predicts the clean picture, as a small network that predicts velocities has to carry
  the noise through all its layers to take it away, and leaves grain. k is 1 or 2 in training.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import augment, gaussian, seeds, tensors
from bowerbird.data import Pictures
from bowerbird.errors import BowerbirdError
from bowerbird.knowledge import sparse
from bowerbird.knowledge.tables import neighbor_table
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.models.text_tower import SmallTextTower, text_dim, text_tokens
from bowerbird.types import ABSENT
from bowerbird.types_torch import Tokens

MOST_WEIGHT = 5.0
"""Cap of the loss weight of a stage that predicts the clean picture, where little noise is left to remove."""
STYLED = ("{text}, {style} style", "{text} in {style} style", "a {style} drawing of {text}")
PLAIN = ("{text}", "{text}", "a picture of {text}", "a {text}", "the {text} icon")


class UNetSizes(BaseModel):
    """Sizes of one stage's network; see `NeighborUNet`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sample_size: int = 32
    low_size: int = 0
    patch_size: int = 2
    block_out_channels: tuple[int, ...] = (64, 96, 128)
    layers_per_block: tuple[int, ...] = (1, 1, 1)
    attention: tuple[bool, ...] = (True, True, True)
    itself: tuple[bool, ...] = (False, True, True)
    head_channels: int = 64
    text_dim: int = 96
    time_dim: int = 256
    up_attention: bool = True
    prediction_type: Literal["v_prediction", "epsilon", "sample"] = "v_prediction"

    @model_validator(mode="after")
    def _fits(self) -> UNetSizes:
        levels = len(self.block_out_channels)
        if {len(self.layers_per_block), len(self.attention), len(self.itself)} != {levels}:
            raise ValueError(f"layers_per_block, attention and itself need one entry for each of the {levels} levels")
        step = self.patch_size * 2 ** (levels - 1)
        if self.sample_size % step:
            raise ValueError(f"sample_size {self.sample_size} is not a multiple of {step}, which patches and levels divide it by")
        if self.low_size and self.sample_size % self.low_size:
            raise ValueError(f"sample_size {self.sample_size} is not a multiple of low_size {self.low_size}")
        return self


class TowerSizes(BaseModel):
    """Sizes of the small text tower; see `SmallTextTower`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    buckets: int = 4096
    dim: int = 96
    heads: int = 3
    layers: int = 1
    max_words: int = 24


class NeighborDraw(BaseModel):
    """A share of the training draws whose neighbours are of one kind, and how often the text then names the target's style.

    `retrieved`: what the search finds, mostly the same thing drawn by others; `itself`: first the target under a small turn, scale, shift
    and mirror, so that a look can be kept; `others`: what the search finds among other things.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["retrieved", "itself", "others"]
    share: float
    style_named: float


class ReImagenConfig(BaseModel):
    """Everything that shapes one stage and its training data; stored in `recipe.json`.

    `text_encoder`: a frozen T5 or CLIP (directory or hub id) in place of the small tower. `base`: the directory of a trained pipeline that
    this stage is added to; its text tower is used, frozen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["reimagen"] = "reimagen"
    unet: UNetSizes = UNetSizes()
    tower: TowerSizes = TowerSizes()
    text_encoder: str | None = None
    base: str | None = None
    max_level: int = 400
    search: Literal["bm25", "dense", "hybrid"] = "bm25"
    encoder: str = "small"
    k: int = Field(default=2, ge=1)
    k_stored: int = 12
    pool: int = 4
    max_similarity: float | None = None
    style_key: str | None = "style"
    draws: tuple[NeighborDraw, ...] = (
        NeighborDraw(kind="retrieved", share=0.45, style_named=0.7),
        NeighborDraw(kind="itself", share=0.35, style_named=0.0),
        NeighborDraw(kind="others", share=0.2, style_named=0.5),
    )
    text_null: float = 0.1
    neighbors_null: float = 0.1
    view_probability: float = 0.5

    @property
    def schedule_type(self) -> str:
        """What samplers are given: a stage that predicts the clean picture is converted to velocities."""
        return "v_prediction" if self.unet.prediction_type == "sample" else self.unet.prediction_type


def invented_name(rng: np.random.Generator) -> str:
    """A word nobody uses: 4 to 9 letters, vowels and consonants in turn."""
    vowels = "aeiou"
    consonants = [c for c in string.ascii_lowercase if c not in vowels]
    length, start = int(rng.integers(4, 10)), int(rng.integers(2))
    return "".join(str(rng.choice(consonants if (i + start) % 2 else list(vowels))) for i in range(length))


def low_resolution(pixels: Tensor, low_size: int) -> Tensor:
    """`(…, C, S, S)` -> averaged to `low_size` and enlarged again (bilinear), which is how a stage sees the one below it."""
    flat = pixels.flatten(0, -4) if pixels.ndim > 4 else pixels
    return enlarge(F.interpolate(flat, size=low_size, mode="area"), pixels.shape[-1]).view(pixels.shape)


def enlarge(pixels: Tensor, size: int) -> Tensor:
    """`(n, C, s, s)` -> `(n, C, size, size)`, bilinear."""
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


class ReImagenObjective(nn.Module):
    """One stage's U-Net, with its text tower where that is trained too, and Re-Imagen's loss over pictures."""

    def __init__(
        self, config: ReImagenConfig, pictures: Pictures, seed: int, *, text: tuple[Any, Any] | None = None, below: Sequence[Any] = (), encoder: Any = None
    ) -> None:
        """`text`: a frozen tower and its tokenizer (None for the small tower); None trains a small tower. `below`: the networks of the stages
        below, frozen. `encoder`: for dense search and `max_similarity`."""
        super().__init__()
        if pictures.size != config.unet.sample_size:
            raise BowerbirdError(f"the pictures are {pictures.size} px and this stage paints {config.unet.sample_size}; set size={config.unet.sample_size}")
        width = text_dim(text[0]) if text is not None else config.tower.dim
        if width != config.unet.text_dim:
            raise BowerbirdError(f"the text tower gives {width} numbers a token and the network reads {config.unet.text_dim}; set system.unet.text_dim={width}")
        self.config, self.pictures, self.seed = config, pictures, seed
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = NeighborUNet(**config.unet.model_dump())
            self.tower = SmallTextTower(**config.tower.model_dump()) if text is None else None
        self.frozen = text or (None, None)  # a tuple hides it from nn.Module: it is not trained and not checkpointed
        self.below = tuple(below)
        self.noise_scheduler = gaussian.scheduler("ddim", prediction_type=config.schedule_type)
        self.styles = pictures.column(config.style_key) if config.style_key else [""] * len(pictures)
        self.tables = self._tables(encoder)

    def _tables(self, encoder: Any) -> tuple[Tensor, Tensor]:
        """Neighbours of every picture, by the search and by the search among other things: `(n, k_stored)` each."""
        config, pictures = self.config, self.pictures
        tags = [" ".join(pictures.tags(row)) for row in range(len(pictures))]
        embeddings = None
        if config.search != "bm25" or config.max_similarity is not None:
            parts = [encoder.embed_images(tensors.to_pil(part)) for part in torch.split(pictures.pixels, 256)]
            raw = np.concatenate(parts)
            embeddings = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        same = [sparse.whole(caption) for caption in pictures.captions]
        ids = np.asarray(pictures.ids, np.int64)
        found = [
            neighbor_table(
                config.search, pictures.captions, tags, config.k_stored, ids=ids, embeddings=embeddings, max_similarity=config.max_similarity, exclude=exclude
            )
            for exclude in (None, same)
        ]
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """Pictures with texts and neighbours: one k for the batch (1..`config.k`); kind, view, names and dropouts drawn for each."""
        config = self.config
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        k = int(rng.integers(1, config.k + 1))
        rows = rng.integers(len(self.pictures), size=size)
        shares = np.array([draw.share for draw in config.draws])
        kinds = rng.choice(len(shares), size=size, p=shares / shares.sum())
        sets, texts, captions, weights, itself = [], [], [], [], []
        for i, row in enumerate(rows.tolist()):
            draw = config.draws[kinds[i]]
            near = self._neighbors(row, draw.kind, k, rng)
            itself.append(draw.kind == "itself")
            present = [r for r in near if r != ABSENT]
            pixels = tensors.to_float(self.pictures.pixels[[row, *[r if r != ABSENT else row for r in near]]])
            names = {self.pictures.captions[r]: self.pictures.captions[r] for r in [row, *present]}
            if rng.random() < config.view_probability:
                pixels = augment.exact_view(rng, self.pictures.size)(pixels)
                names = {name: invented_name(rng) for name in names}
            sets.append(pixels)
            texts.append(self._text(row, names[self.pictures.captions[row]], draw.style_named, rng))
            captions += [names[self.pictures.captions[r]] if r != ABSENT else "" for r in near]
            weights.append([float(r != ABSENT) for r in near])
        x = torch.stack(sets)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean, neighbors = x[:, 0], x[:, 1:].clone()
        own = torch.tensor(itself)
        if own.any():
            neighbors[own, 0] = _other_form(neighbors[own, 0], generator)
        drawn = torch.rand(2, size, generator=generator)
        no_neighbors = drawn[1] < config.neighbors_null
        batch: dict[str, object] = {
            "clean": clean,
            "neighbors": neighbors,
            "weights": torch.tensor(weights) * (~no_neighbors)[:, None],
            "texts": ["" if drawn[0, i] < config.text_null else text for i, text in enumerate(texts)],
            "captions": captions,
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(self.noise_scheduler.config.num_train_timesteps, (size,), generator=generator),
        }
        if config.unet.low_size:
            batch["level"] = torch.randint(config.max_level, (size,), generator=generator)
            batch["low_eps"] = torch.randn(clean.shape, generator=generator)
        return batch

    def _neighbors(self, row: int, kind: str, k: int, rng: np.random.Generator) -> list[int]:
        """k rows of D for the target `row`, -1 pads: the best in order in half the draws, else any of the best `pool`."""
        found = self.tables[1 if kind == "others" else 0][row]
        best = found[found != ABSENT].tolist()[: max(k, self.config.pool)]
        if rng.random() < 0.5:
            best = rng.permutation(best).tolist()
        best = [row, *best] if kind == "itself" else best
        return [int(r) for r in best[:k]] + [ABSENT] * (k - len(best[:k]))

    def _text(self, row: int, name: str, style_named: float, rng: np.random.Generator) -> str:
        """What a person might ask for: the name, at times with tags, in a phrase, and with the style where `style_named` draws it."""
        tags = [tag for tag in self.pictures.tags(row) if rng.random() < 0.5]
        known = name == self.pictures.captions[row]
        text = " ".join([name, *tags]) if known and tags and rng.random() < 0.3 else name
        style = self.styles[row]
        if style and rng.random() < style_named:
            return str(rng.choice(STYLED)).replace("{text}", text).replace("{style}", style)
        return str(rng.choice(PLAIN)).replace("{text}", text)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """E || target - network(x_t, t, c_p, c_n) ||^2. Source: Re-Imagen, equation 4, with the target of `gaussian`."""
        clean, neighbors = batch["clean"], batch["neighbors"]
        noisy = self.noise_scheduler.add_noise(clean, batch["eps"], batch["timestep"])
        text = self.tokens([*batch["texts"], *batch["captions"]])
        own, theirs = (Tokens(text.keys[part], text.weights[part]) for part in (slice(None, len(clean)), slice(len(clean), None)))
        image = near_image = level = None
        if self.config.unet.low_size:
            level = batch["level"]
            image = self.noise_scheduler.add_noise(low_resolution(clean, self.config.unet.low_size), batch["low_eps"], level)
            near_image = low_resolution(neighbors, self.config.unet.low_size)
        features = self.unet.encode_neighbors(neighbors, theirs, batch["weights"], near_image)
        predicted = self.unet(noisy, batch["timestep"], own, features, image, level).float()
        if self.config.unet.prediction_type == "sample":
            a = self.noise_scheduler.alphas_cumprod.to(clean.device)[batch["timestep"]]
            weight = (1 / (1 - a)).clamp(max=MOST_WEIGHT)  # 1 / (1 - a) would be the loss on velocities
            return (weight * (predicted - clean).square().flatten(1).mean(1)).mean()
        return F.mse_loss(predicted, gaussian.training_target(self.noise_scheduler, clean, batch["eps"], batch["timestep"]))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts through the tower that is trained here, or through the frozen one."""
        if self.tower is not None:
            return text_tokens(self.tower, None, texts)
        device = next(self.unet.parameters()).device  # accelerate moves what is trained, a process to its own
        tower, tokenizer = self.frozen
        assert tower is not None
        with torch.no_grad():
            return text_tokens(tower.to(device), tokenizer, texts)

    # -- what is written -----------------------------------------------------------------------------------------------

    def pipeline(self) -> Any:
        """The current weights as a `ReImagenPipeline`: alone, or as the last stage above those of `config.base`."""
        from bowerbird.systems.reimagen_pipeline import STAGES, ReImagenPipeline

        text_encoder, tokenizer = (self.tower, None) if self.tower is not None else self.frozen
        below = dict(zip(STAGES, self.below, strict=False))
        return ReImagenPipeline(
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            **(below | {STAGES[len(self.below)]: self.unet}),
            scheduler=gaussian.scheduler("dpmsolver++", config={**self.noise_scheduler.config, "thresholding": True, "sample_max_value": 1.0}),
            k=self.config.k,
            search_mode=self.config.search,
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, our networks in half precision."""
        ours = [self.unet, *self.below, *(tower for tower in (self.tower, self.frozen[0]) if isinstance(tower, SmallTextTower))]
        for module in ours:
            module.half()
        self.pipeline().save_pretrained(out)
        for module in ours:
            module.float()

    def sheet(self, path: Path) -> None:
        """A row for each of eight pictures: it, two neighbours, then painted from text and neighbours, from neighbours alone, from text alone."""
        from bowerbird.references import by_hand
        from bowerbird.sheets import grid

        pipe, pictures, rows = self.pipeline(), self.pictures, []
        pipe.set_progress_bar_config(disable=True)

        def paint(item: int, prompt: str, near: list[int]) -> Any:
            if not prompt and not near:
                return None
            hits = by_hand([prompt], tensors.to_pil(pictures.pixels[near]) if near else [], [pictures.captions[r] for r in near])
            options: dict[str, Any] = {}
            if self.config.unet.low_size:
                own = F.interpolate(tensors.to_float(pictures.pixels[[item]]), size=self.config.unet.low_size, mode="area")
                options["low_resolution"] = tensors.to_pil(own)
            return pipe(neighbors=hits, num_inference_steps=12, generator=seeds.picture_generators(0, 1), **options).images[0]

        for item in np.linspace(0, len(pictures) - 1, 8).astype(int).tolist():
            found = self.tables[0][item]
            near = found[found != ABSENT][:2].tolist()
            text = f"{pictures.captions[item]}, {self.styles[item]} style" if self.styles[item] else pictures.captions[item]
            shown: list[Any] = [*tensors.to_pil(pictures.pixels[[item, *near]]), *[None] * (2 - len(near))]
            rows.append([*shown, paint(item, text, near), paint(item, "", near), paint(item, text, [])])
        grid(rows).save(path)


def _other_form(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures `(n, 3, S, S)`, a quarter of them mirrored, turned up to 10 degrees, at scale .9 to 1.1, shifted up to 5%."""
    n = len(x)
    drawn = torch.rand(5, n, generator=generator)
    x = torch.where((drawn[0] < 0.25)[:, None, None, None], x.flip(3), x)
    return augment.affine(x, (drawn[1] * 2 - 1) * 0.175, 0.9 + 0.2 * drawn[2], (drawn[3:].T * 2 - 1) * 0.05)
