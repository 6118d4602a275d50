"""The loss of DreamBooth (arXiv 2208.12242, equation 2), and how it begins and ends: a Stable Diffusion, and that with
a subject, as a LoRA's file or as a whole pipeline."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import to_pil
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.models.low_rank import FILE, add_low_rank, factors
from bowerbird.systems.base_text import added, encode, encoder_names, token_ids, tokenizers
from bowerbird.systems.components import base_parts
from bowerbird.systems.dreambooth.class_pictures import class_pictures, rebuilt, with_usual_steps
from bowerbird.systems.dreambooth.collapse import CHECKED, MOST, ClassDiversity, diversity, generate, least_share
from bowerbird.systems.dreambooth.config import TEXT_TARGETS, DreamBoothConfig
from bowerbird.systems.dreambooth.rare_word import check_word
from bowerbird.systems.grounded.adapter_training.objective import load_pipeline
from bowerbird.systems.grounded.bases import CALL, trained_edge
from bowerbird.systems.grounded.lora_file import METADATA
from bowerbird.systems.grounded.recorded_base import base_header
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.objective import Objective, RunContext

if TYPE_CHECKING:
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

FEWEST = 2
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


class DreamBoothBatch(TypedDict):
    """n pictures of the subject, then as many of the class where there are any: scaled latents `clean` and noise `eps`
    `(m, C, h, w)`, `timestep` `(m,)`; and how many are of the `subject`."""

    clean: Tensor
    eps: Tensor
    timestep: Tensor
    subject: int


class DreamBoothObjective(Objective[DreamBoothBatch]):
    """The U-Net of `base`, and where asked for its text encoders, or their changes by low rank; with the `pixels` of
    the subject and of its class, and the latents `(n, C, h, w)` of both (of the class None: without)."""

    def __init__(
        self,
        config: DreamBoothConfig,
        base: Any,
        pixels: tuple[Tensor, Tensor | None],
        latents: tuple[Tensor, Tensor | None],
        seed: int,
        opened: ReferencePipeline | None = None,
    ) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.guidance = None if opened is None else opened.defaults.guidance_scale
        self.folder = None if opened is None else opened.folder
        self.pixels, of_class = pixels
        self.class_pixels = None if of_class is None else of_class[:MOST]
        self.subject, self.prior = latents
        self.edge = trained_edge(base)
        self.scale = 1.0 if config.alpha is None else config.alpha / config.rank
        names = encoder_names(base)
        readers = [getattr(base, name).eval().requires_grad_(False) for name in names]
        self.frozen = (base, readers)  # a tuple hides it from nn.Module; it stays as it is
        self.unet = self._learner(base.unet, config.targets, "unet")
        self.text_encoders = torch.nn.ModuleDict(
            {name: self._learner(getattr(base, name), TEXT_TARGETS, name) for name in names if config.train_text}
        )
        self.tokens = token_ids(base, [config.subject_prompt, config.class_prompt])
        self.texts = None
        if not config.train_text:
            with torch.no_grad():
                self.texts = encode(readers, [each.to(base.unet.device) for each in self.tokens])
        self.noise_scheduler = schedulers.scheduler("ddim", config=base.scheduler.config)
        self._base_pictures: list[Image.Image] = []
        self._least_share = config.stop_below

    def _learner(self, network: Any, targets: Sequence[str], name: str) -> Any:
        """A copy of `network` that learns whole, or by low rank in its `targets`."""
        made = copy.deepcopy(network).requires_grad_(True)
        if self.config.method == "lora":
            with torch.random.fork_rng([]):
                torch.manual_seed(seeds.derive(self.seed, "init", *([] if name == "unet" else [name])))
                rank = self.config.rank
                # normal numbers over the rank, as peft's "gaussian", which diffusers' rate is chosen for
                add_low_rank(made, targets, rank, scale=self.scale, deviation=1 / rank)
            if not any(each.requires_grad for each in made.parameters()):
                raise BowerbirdError(f"`targets` {', '.join(targets)}: no layer of the {name} is called so")
        return made

    def batch(self, step: int, size: int, rank: int = 0) -> DreamBoothBatch:
        """`size` pictures of the subject and `size` of the class, each with a noise and a time of its own."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        clean = self.subject[rng.integers(len(self.subject), size=size)]
        if self.prior is not None:
            clean = torch.cat([clean, self.prior[rng.integers(len(self.prior), size=size)]])
        times = self.noise_scheduler.config.num_train_timesteps
        return {
            "clean": clean.float(),
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(times, (len(clean),), generator=generator),
            "subject": size,
        }

    def forward(self, batch: DreamBoothBatch) -> Tensor:
        """The loss on the subject, and `prior_weight` times that on the class."""
        clean, count, device = batch["clean"], batch["subject"], batch["clean"].device
        texts = self.texts
        if texts is None:
            texts = encode(list(self.text_encoders.values()), [each.to(device) for each in self.tokens])
        rows = (torch.arange(len(clean), device=device) >= count).long()  # the subject's text, then that of the class
        pooled = None if texts.pooled is None else texts.pooled.to(device)[rows]
        noisy = self.noise_scheduler.add_noise(clean, batch["eps"], batch["timestep"])
        predicted = self.unet(
            noisy,
            batch["timestep"],
            encoder_hidden_states=texts.tokens.to(device)[rows],
            added_cond_kwargs=added(pooled, self.edge),
        ).sample.float()
        wanted = schedulers.training_target(self.noise_scheduler, clean, batch["eps"], batch["timestep"])
        loss = F.mse_loss(predicted[:count], wanted[:count])
        if self.prior is not None:
            loss = loss + self.config.prior_weight * F.mse_loss(predicted[count:], wanted[count:])
        return loss

    def plain(self) -> Any:
        """Diffusers' pipeline of the base with the current weights."""
        return rebuilt(self.frozen[0], unet=self.unet, **self.text_encoders)

    def base_pictures(self) -> list[Image.Image]:
        """Pictures of the class by the base, from the noises that the class is looked at with."""
        if not self._base_pictures:
            self._base_pictures = generate(self.frozen[0], self.config.class_prompt, CHECKED, self.guidance)
        return self._base_pictures

    def class_diversity(self) -> tuple[ClassDiversity, list[Image.Image]]:
        """How various the class is now and by the base, and the pictures of it now."""
        now = generate(self.plain(), self.config.class_prompt, CHECKED, self.guidance)
        return ClassDiversity(diversity(now), diversity(self.base_pictures())), now

    def least_share(self, base: float) -> float:
        """`stop_below`, or what is found for it, where the class by the base has the diversity `base`."""
        if self._least_share is None:
            shown = [] if self.class_pixels is None else to_pil(self.class_pixels)
            self._least_share = least_share(to_pil(self.pixels), base, shown)
        return self._least_share

    def fault(self) -> str | None:
        """That the class has collapsed: less of its diversity is left than `stop_below`."""
        if self.config.stop_below == 0:
            return None
        state, _ = self.class_diversity()
        least = self.least_share(state.base)
        return None if state.share >= least else f"the class has collapsed ({state.line(least)})"

    def export(self, out: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` opens, or the whole
        pipeline."""
        if self.config.method == "full":
            self.plain().save_pretrained(out)
            if self.folder is not None and (self.folder / CALL).is_file():
                files.write_json(out / CALL, files.read_json(self.folder / CALL, "note on how a base generates"))
            return
        config, base, said = self.config, self.frozen[0], dict[str, Any]()
        tensors: dict[str, Tensor] = {}
        networks = {"unet": self.unet, **self.text_encoders}
        for part, network in networks.items():
            tensors |= {f"{part}.{name}": tensor.cpu().contiguous() for name, tensor in factors(network).items()}
            settings = {
                "peft_type": "LORA",
                "r": config.rank,
                "lora_alpha": config.rank * self.scale,
                "target_modules": list(config.targets if part == "unet" else TEXT_TARGETS),
            }
            said |= {f"{part}.{key}": value for key, value in settings.items()}
        header = {
            METADATA: json.dumps(said),
            "bowerbird.prompt": files.portable(config.subject_prompt),
            **base_header(config.base, {part: getattr(base, part) for part in networks}),
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
    opened = _open_base(config.base)
    base = opened.base
    edge = trained_edge(base)
    if pictures.size != edge:
        raise BowerbirdError(
            f"this base is for pictures of {edge} px, and these are read at {pictures.size}: size={edge}"
        )
    for tokenizer in tokenizers(base):
        check_word(tokenizer, config.word)
    shown = None
    if config.prior_weight > 0:
        usual = opened.defaults
        of_class = with_usual_steps(config, usual.num_inference_steps)
        shown = class_pictures(base, of_class, run.seed, run.device, usual.guidance_scale)
    base.to(run.device)
    latents = [None if each is None else _latents(base.vae, each, run.device) for each in (pictures.pixels, shown)]
    assert latents[0] is not None
    return DreamBoothObjective(config, base, (pictures.pixels, shown), (latents[0], latents[1]), run.seed, opened)


def _open_base(name: str) -> ReferencePipeline:
    """Raises: BowerbirdError for what is no Stable Diffusion, or one that reads no text, as SDXL's refiner."""
    opened = load_pipeline(name, KINDS)
    base = opened.base
    if getattr(base, "text_encoder", None) is None or getattr(base, "tokenizer", None) is None:
        raise BowerbirdError(
            f"base {name!r} has no first text encoder, as SDXL's refiner, so a subject cannot be named in it; name the"
            " base itself: --base …"
        )
    return opened


def _latents(autoencoder: Any, pixels: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return encode_latents(autoencoder, pixels.float() / 127.5 - 1, device)


def frozen(config: DreamBoothConfig) -> dict[str, str]:
    """Fingerprints of the base's networks."""
    base = _open_base(config.base).base
    return base_parts(base.unet, base.text_encoder, base.vae, base.scheduler, getattr(base, "text_encoder_2", None))
