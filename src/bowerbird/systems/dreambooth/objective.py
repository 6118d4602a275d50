"""The loss of DreamBooth (arXiv 2208.12242, equation 2), and how it begins and ends: a Stable Diffusion, and that with
a subject, as a LoRA's file or as a whole pipeline."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.models import clip_text
from bowerbird.models.low_rank import FILE, add_low_rank, factors
from bowerbird.systems.components import base_parts
from bowerbird.systems.dreambooth.class_pictures import class_pictures
from bowerbird.systems.dreambooth.config import DreamBoothConfig
from bowerbird.systems.dreambooth.rare_word import check_word
from bowerbird.systems.grounded.adapter_training.objective import load_base
from bowerbird.systems.grounded.bases import trained_edge
from bowerbird.systems.grounded.lora_file import METADATA
from bowerbird.systems.grounded.recorded_base import base_header
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.objective import Objective, RunContext

FEWEST = 2


class DreamBoothBatch(TypedDict):
    """n pictures of the subject, then as many of the class where there are any: scaled latents `clean` and noise `eps`
    `(m, C, h, w)`, `timestep` `(m,)`, `tokens` `(m, L)`; and how many are of the `subject`."""

    clean: Tensor
    tokens: Tensor
    eps: Tensor
    timestep: Tensor
    subject: int


class DreamBoothObjective(Objective[DreamBoothBatch]):
    """The U-Net of `base`, or its change by low rank, with the latents `(n, C, h, w)` of the subject and of its class
    (None: without)."""

    def __init__(self, config: DreamBoothConfig, base: Any, subject: Tensor, prior: Tensor | None, seed: int) -> None:
        super().__init__()
        self.config, self.subject, self.prior, self.seed = config, subject, prior, seed
        self.frozen = (base,)  # a tuple hides it from nn.Module; it stays as it is
        self.unet = copy.deepcopy(base.unet).requires_grad_(True)
        self.scale = 1.0 if config.alpha is None else config.alpha / config.rank
        if config.method == "lora":
            with torch.random.fork_rng([]):
                torch.manual_seed(seeds.derive(seed, "init"))
                add_low_rank(self.unet, config.targets, config.rank, scale=self.scale)
            if not any(each.requires_grad for each in self.unet.parameters()):
                raise BowerbirdError(f"`targets` {', '.join(config.targets)}: no layer of the U-Net is called so")
        prompts = clip_text.token_ids(base.tokenizer, [config.subject_prompt, config.class_prompt])
        self.subject_tokens, self.class_tokens = prompts[:1], prompts[1:]
        self.text_encoder = base.text_encoder.eval().requires_grad_(False)
        self.noise_scheduler = schedulers.scheduler("ddim", config=base.scheduler.config)

    def batch(self, step: int, size: int, rank: int = 0) -> DreamBoothBatch:
        """`size` pictures of the subject and `size` of the class, each with a noise and a time of its own."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean, tokens = self.subject[rng.integers(len(self.subject), size=size)], self.subject_tokens.repeat(size, 1)
        if self.prior is not None:
            clean = torch.cat([clean, self.prior[rng.integers(len(self.prior), size=size)]])
            tokens = torch.cat([tokens, self.class_tokens.repeat(size, 1)])
        times = self.noise_scheduler.config.num_train_timesteps
        return {
            "clean": clean.float(),
            "tokens": tokens,
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(times, (len(clean),), generator=generator),
            "subject": size,
        }

    def forward(self, batch: DreamBoothBatch) -> Tensor:
        """The loss on the subject, and `prior_weight` times that on the class."""
        with torch.no_grad():
            text = self.text_encoder(batch["tokens"]).last_hidden_state
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        predicted = self.unet(noisy, batch["timestep"], encoder_hidden_states=text).sample.float()
        wanted = schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"])
        count = batch["subject"]
        loss = F.mse_loss(predicted[:count], wanted[:count])
        if self.prior is not None:
            loss = loss + self.config.prior_weight * F.mse_loss(predicted[count:], wanted[count:])
        return loss

    def plain(self) -> Any:
        """Diffusers' pipeline of the base with the current weights."""
        base = self.frozen[0]
        parts = {**base.components, "unet": self.unet, "text_encoder": self.text_encoder}
        return type(base)(**parts, requires_safety_checker=False)

    def export(self, out: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` opens, or the whole
        pipeline."""
        if self.config.method == "full":
            self.plain().save_pretrained(out)
            return
        tensors = {f"unet.{name}": tensor.cpu().contiguous() for name, tensor in factors(self.unet).items()}
        config = self.config
        said = {
            "peft_type": "LORA",
            "r": config.rank,
            "lora_alpha": config.rank * self.scale,
            "target_modules": list(config.targets),
        }
        header = {
            METADATA: json.dumps({f"unet.{key}": value for key, value in said.items()}),
            "bowerbird.prompt": files.portable(config.subject_prompt),
            **base_header(config.base, {"unet": self.frozen[0].unet}),
        }
        files.save_tensors(out / FILE, tensors, {"format": "pt"} | header)


def build(config: DreamBoothConfig, pictures: Pictures, run: RunContext) -> DreamBoothObjective:
    """The objective over `pictures` of one subject. Raises: BowerbirdError for fewer than two, one that cannot be read,
    a word that is common, or pictures that are not of the base's size."""
    if not config.class_name.strip():
        raise BowerbirdError('say what kind of thing the subject is: --class "toy" (`class_name`)')
    if pictures.left_out:
        raise BowerbirdError(
            f"{pictures.left_out[0]}: every picture of a subject counts; take it out of the folder, or replace it"
        )
    if len(pictures) < FEWEST:
        raise BowerbirdError(
            f"a subject is learned from {FEWEST} or more pictures, best three to five; got {len(pictures)}"
        )
    base = load_base(config.base)
    edge = trained_edge(base)
    if pictures.size != edge:
        raise BowerbirdError(
            f"this base is for pictures of {edge} px, and these are read at {pictures.size}: size={edge}"
        )
    check_word(base.tokenizer, config.word)
    shown = None
    if config.prior_weight > 0:
        shown = class_pictures(base, config, run.seed, run.device)
    base.to(run.device)
    latents = [None if each is None else _latents(base.vae, each, run.device) for each in (pictures.pixels, shown)]
    assert latents[0] is not None
    return DreamBoothObjective(config, base, latents[0], latents[1], run.seed)


def _latents(autoencoder: Any, pixels: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return encode_latents(autoencoder, pixels.float() / 127.5 - 1, device)


def frozen(config: DreamBoothConfig) -> dict[str, str]:
    """Fingerprints of the base's networks."""
    base = load_base(config.base)
    return base_parts(base.unet, base.text_encoder, base.vae)
