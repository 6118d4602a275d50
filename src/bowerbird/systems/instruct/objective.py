"""InstructPix2Pix on a Stable Diffusion (arXiv 2211.09800): its first convolution also reads the latents of the picture
that an instruction is about.

Added is retrieval: where an instruction names a thing, the network is also shown a picture of it, as further channels
of the same convolution, in part under a name that means nothing. So it learns to take the look from there.
Differs from the paper: pairs are exact, by code (`data/edits`), and not of a generator.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.data.edits.pair import NONE, Edit, Edits, instruction
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps, Tokens
from bowerbird.models import clip_text
from bowerbird.models.unet import widen, with_short_attention
from bowerbird.systems import common
from bowerbird.systems.base_text import ENCODERS, TOKENIZERS, encode, encoder_names, tokenizers
from bowerbird.systems.grounded.recorded_base import base_header, write_note
from bowerbird.systems.instruct import placing
from bowerbird.systems.instruct.config import InstructConfig
from bowerbird.systems.instruct.network import ReferenceInput, predict
from bowerbird.systems.instruct.pipeline import InstructPipeline
from bowerbird.systems.instruct.placing import Place
from bowerbird.systems.instruct.usual import PAPER, UsualEdit
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.objective import Objective


@dataclass(frozen=True)
class Base:
    """The networks that a training goes on from, of SDXL with a second reader of texts; `scheduler` is of diffusers.
    `usual`: how an edit is made unless asked otherwise, as the base says how it generates."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    autoencoder: Any
    scheduler: Any
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    usual: UsualEdit = PAPER


@dataclass(frozen=True)
class HeldOut:
    """Edits of names and in wordings that are not trained on: pictures `source` and `wanted` `(n, 3, S, S)` in
    [-1, 1], the `instructions`, and of those that name a drawing as `references`, uint8 `(n, 3, R, R)`, another picture
    of it, with their `weights` `(n,)`, 0 where there is none."""

    source: Tensor
    wanted: Tensor
    instructions: tuple[str, ...]
    kinds: tuple[str, ...]
    references: Tensor
    weights: Tensor


@dataclass(frozen=True)
class EditData:
    """Edits with the scaled latents `(n, C, h, w)` of the pictures they are of, in float16, and the `places`, int16
    `(n, 7)`, where something is drawn in them (`placing.Place.numbers`); the `drawings` that references are, uint8
    `(m, 3, R, R)`, and for each the rows of `others` of its name."""

    edits: Edits
    latents: Tensor
    places: Tensor
    drawings: Tensor
    others: tuple[tuple[int, ...], ...]
    held_out: HeldOut


class InstructBatch(TypedDict):
    """n items: scaled latents `clean` of the wanted pictures and noise `eps` `(n, C, h, w)`, `image` the unscaled
    latents of the pictures they are made from, `timestep` `(n,)`, the instructions' `tokens` `(n, L)` (of each text
    encoder, one after the other), and `references`, uint8 `(n, 3, S, S)`, in their places, with `weights` `(n,)`."""

    clean: Tensor
    image: Tensor
    tokens: Tensor
    references: Tensor
    weights: Tensor
    eps: Tensor
    timestep: Tensor


class InstructObjective(Objective[InstructBatch]):
    """The widened U-Net with the loss of latent diffusion."""

    def __init__(self, config: InstructConfig, data: EditData, base: Base, seed: int) -> None:
        super().__init__()
        self.config, self.data, self.seed = config, data, seed
        self.grown_from = None if config.base is None else base_header(config.base, _networks(base))
        channels = int(base.autoencoder.config.latent_channels)
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = with_short_attention(widen(base.unet, 2 * channels, None))
            first = self.unet.conv_in.out_channels
            self.references = ReferenceInput(channels, first) if config.references else None
        self.learns_text = config.train_text or config.base is None
        self.text_model = base.text_encoder if self.learns_text else None
        self.text_model_2 = base.text_encoder_2 if self.learns_text else None
        readers = [getattr(base, name).requires_grad_(self.learns_text) for name in encoder_names(base)]
        # a tuple hides them from nn.Module: they are not trained and not checkpointed
        self.frozen = (base.autoencoder, readers)
        self.tokenizers, self.base_scheduler, self.usual = tokenizers(base), base.scheduler, base.usual
        self._tokens: dict[str, np.ndarray] = {}
        self.noise_scheduler = schedulers.scheduler("ddim", config=base.scheduler.config)
        self.groups = [np.array(numbers) for numbers in data.edits.groups.values()]
        # by the root of how many there are: neither a few of one kind again and again, nor the largest alone
        sizes = np.sqrt([len(group) for group in self.groups])
        self.group_shares = sizes / sizes.sum()

    def batch(self, step: int, size: int, rank: int = 0) -> InstructBatch:
        """`size` edits in one of their wordings, some without text, picture or both."""
        config, data = self.config, self.data
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        groups = rng.choice(len(self.groups), size=size, p=self.group_shares)
        within = rng.random(size)
        edits = [
            data.edits.edits[int(group[int(at * len(group))])]
            for group, at in zip((self.groups[i] for i in groups), within, strict=True)
        ]
        luck = rng.random((3, size))
        # one draw for both: the text goes below 2 p, the picture from p to 3 p
        dropped = rng.random(size)
        blank = dropped < 2 * config.drop
        kept = torch.from_numpy((dropped < config.drop) | (dropped >= 3 * config.drop))
        named = np.array([edit.drawing != NONE for edit in edits]) & (self.references is not None)
        invented = named & (luck[0] < config.invented)
        referred = (invented | (named & (luck[1] < config.referred))) & ~blank
        texts = [
            "" if none else instruction(edit, rng, invented=bool(strange))
            for edit, none, strange in zip(edits, blank, invented, strict=True)
        ]
        source = data.latents[[edit.source for edit in edits]].float() / self._scale()
        clean = data.latents[[edit.target for edit in edits]].float()
        references = torch.zeros(size, 3, config.picture_size, config.picture_size, dtype=torch.uint8)
        for row in np.flatnonzero(referred):
            shown = self._reference(edits[row].drawing, float(luck[2][row]), rng)
            references[row] = self._put(shown, edits[row].source)
        return {
            "clean": clean,
            "image": source * kept[:, None, None, None],
            "tokens": self._token_ids(texts),
            "references": references,
            "weights": torch.from_numpy(referred.astype(np.float32)),
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(schedulers.TIMESTEPS, (size,), generator=generator),
        }

    def _token_ids(self, texts: list[str]) -> Tensor:
        """The tokens `(n, L)` of texts, those of each text encoder one after the other. Texts are said again and again:
        each is cut into tokens once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if new:
            cut = torch.cat([clip_text.token_ids(each, new) for each in self.tokenizers], 1)
            for text, row in zip(new, cut.numpy(), strict=True):
                self._tokens[text] = row.astype(np.int32)
        return torch.from_numpy(np.stack([self._tokens[text] for text in texts])).long()

    def _scale(self) -> float:
        return float(self.frozen[0].config.scaling_factor)

    def _reference(self, drawing: int, luck: float, rng: np.random.Generator) -> int:
        """A picture of the thing that is drawn in a row: that drawing itself, or another of its name."""
        others = self.data.others[drawing]
        if luck < self.config.exact or not others:
            return drawing
        return others[int(rng.integers(len(others)))]

    def _put(self, drawing: int, picture: int) -> Tensor:
        """A drawing brought to where something is in a picture that is edited, uint8 `(3, S, S)`."""
        reference, place = self.data.drawings[drawing].permute(1, 2, 0), Place.of(self.data.places[picture].numpy())
        return torch.from_numpy(placing.put(reference.numpy(), place, self.config.picture_size)).permute(2, 0, 1)

    @torch.no_grad()
    def _latents(self, references: Tensor, weights: Tensor) -> Tensor:
        """The unscaled latents `(n, C, h, w)` of `references`, of those that there are."""
        there, edge = weights > 0, self.data.latents.shape[-1]
        latents = torch.zeros(len(weights), self.data.latents.shape[1], edge, edge, device=weights.device)
        if there.any():
            pixels = tensors.to_float(references[there])
            with torch.autocast(weights.device.type, enabled=False):  # it says itself what it computes in
                made = encode_latents(self.frozen[0], pixels, weights.device.type).float() / self._scale()
            latents[there] = made.to(latents.device)
        return latents

    def forward(self, batch: InstructBatch) -> Tensor:
        """E || target - network([z_t ; E(I)], t, text, reference) ||^2. Source: InstructPix2Pix, equation 2."""
        with torch.set_grad_enabled(self.learns_text and torch.is_grad_enabled()):
            text = encode(self.frozen[1], batch["tokens"].chunk(len(self.frozen[1]), 1))
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        condition = Conditioning(
            FeatureMaps((self._latents(batch["references"], batch["weights"])[:, None],), batch["weights"][:, None]),
            text=Tokens(text.tokens, torch.ones_like(text.tokens[..., 0])),
            image=batch["image"],
            pooled=text.pooled,
        )
        predicted = predict(self.unet, self.references, noisy, batch["timestep"], condition, self.config.picture_size)
        return F.mse_loss(
            predicted.float(),
            schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]),
        )

    def pipeline(self) -> InstructPipeline:
        """The current weights as a pipeline."""
        pipe = InstructPipeline(
            vae=self.frozen[0],
            unet=self.unet,
            scheduler=schedulers.scheduler("dpmsolver++", config=self.base_scheduler.config),
            **dict(zip(ENCODERS, self.frozen[1], strict=False)),
            **dict(zip(TOKENIZERS, self.tokenizers, strict=False)),
        )
        pipe.usual = replace(self.usual, change_threshold=self.config.change_threshold)
        if self.references is not None:
            pipe.references = self.references
        return pipe

    def export(self, out: Path) -> None:
        """Write diffusers' `StableDiffusionInstructPix2PixPipeline`, or the one for SDXL, in half precision, what reads
        references, and a note on the base."""
        pipe = self.pipeline()
        pipe.register_modules(
            vae=copy.deepcopy(self.frozen[0]).half(),
            scheduler=self.base_scheduler,
            **{name: copy.deepcopy(each).half() for name, each in zip(ENCODERS, self.frozen[1], strict=False)},
        )
        common.save_half(pipe, self.unet, out)
        if self.grown_from is not None:
            write_note(out, self.grown_from)


def _networks(base: Base) -> dict[str, Any]:
    """What a LoRA for the base changes: it goes into what is trained from that base too."""
    return {"unet": base.unet, **{name: getattr(base, name) for name in encoder_names(base)}}


def chosen_edits(edits: Edits, count: int) -> list[Edit]:
    """So many edits, of every group in turn."""
    groups = [list(numbers) for _, numbers in sorted(edits.groups.items())]
    rng = seeds.numpy_generator(0, "held-out edits")
    for group in groups:
        rng.shuffle(group)
    longest = max((len(group) for group in groups), default=0)
    turns = [group[i] for i in range(longest) for group in groups if i < len(group)]
    return [edits.edits[number] for number in turns[:count]]
