"""Re-Imagen, retrieval-augmented text-to-image (arXiv 2209.14491): its configuration and its training objective.

p(x) = p_theta(x | c_p, c_n): a text, and k pairs of picture and caption found with it. Both enter one U-Net
(`models/neighbor_unet.py`), each is dropped in 10% of the samples independently of the other, so that all four of
eps(c_p, c_n), eps(c_p, -), eps(-, c_n) and eps(-, -) exist. A stage above the first also sees the picture of the stage
below, with noise of a random level.

Differs from the paper, and why:
- D is the training set under a leak guard, as our collections are small: never the picture itself, at times never its
  entity.
- What neighbors mean has to be learned from 6,000 pictures instead of 50 million, so samples are of three kinds
  (`config.NeighborKind`).
- Target and neighbors are changed together (mirror, quarter turn, shift, hue) in half the samples, and then the thing
  goes by an invented name: a name that was never met must mean what its neighbors show.
- v-prediction in the first stage; the stage above predicts the clean picture, as a small network that predicts
  velocities has to carry the noise through all its layers to take it away, and leaves grain. k is 1 or 2 in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.models.text_tower import SmallTextTower, load_text_tower, text_dim, text_tokens
from bowerbird.systems.components import load_base, weights_hash
from bowerbird.systems.objective import Objective, RunContext
from bowerbird.systems.reimagen.batches import ReImagenBatch, ReImagenBatches, low_resolution
from bowerbird.systems.reimagen.config import ReImagenConfig

MOST_WEIGHT = 5.0
"""Cap of the loss weight of a stage that predicts the clean picture, where little noise is left to remove."""


class ReImagenObjective(Objective[ReImagenBatch]):
    """One stage's U-Net, with its text tower where that is trained too, and Re-Imagen's loss over pictures."""

    def __init__(
        self,
        config: ReImagenConfig,
        pictures: Pictures,
        seed: int,
        *,
        text: tuple[Any, Any] | None = None,
        below: Sequence[Any] = (),
        encoder: Any = None,
        drawn: int | None = None,
    ) -> None:
        """`text`: a frozen tower and its tokenizer (None for the small tower); None trains a small tower. `below`: the
        networks of the stages below, frozen. `encoder`: for dense search and `max_similarity`. `drawn`: see
        `ReImagenBatches`."""
        super().__init__()
        source = pictures
        if config.varied and pictures.size % config.unet.sample_size == 0:
            pictures = _at_size(pictures, config.unet.sample_size)
        if pictures.size != config.unet.sample_size:
            raise BowerbirdError(
                f"the pictures are {pictures.size} px and this stage generates {config.unet.sample_size}; set"
                f" size={config.unet.sample_size}"
            )
        width = text_dim(text[0]) if text is not None else config.tower.dim
        if width != config.unet.text_dim:
            raise BowerbirdError(
                f"the text tower gives {width} dimensions a token and the network reads {config.unet.text_dim}; set"
                f" system.unet.text_dim={width}"
            )
        self.config, self.pictures = config, pictures
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = NeighborUNet(**config.unet.model_dump())
            self.tower = SmallTextTower(**config.tower.model_dump()) if text is None else None
        self.frozen = text or (None, None)  # a tuple hides it from nn.Module: it is not trained and not checkpointed
        self.below = tuple(below)
        self.noise_scheduler = schedulers.scheduler("ddim", prediction_type=config.schedule_type)
        self.batches = ReImagenBatches(config, pictures, seed, encoder, source=source, drawn=drawn)

    def batch(self, step: int, size: int, rank: int = 0) -> ReImagenBatch:
        """See `ReImagenBatches.batch`."""
        return self.batches.batch(step, size, rank)

    def forward(self, batch: ReImagenBatch) -> Tensor:
        """E || target - network(x_t, t, c_p, c_n) ||^2. Source: Re-Imagen, equation 4, with the target of
        `gaussian`."""
        clean, neighbors = batch["clean"], batch["neighbors"]
        noisy = self.noise_scheduler.add_noise(clean, batch["eps"], batch["timestep"])
        text = self.tokens([*batch["texts"], *batch["captions"]])
        own, theirs = (
            Tokens(text.keys[part], text.weights[part]) for part in (slice(None, len(clean)), slice(len(clean), None))
        )
        image = near_image = level = None
        if self.config.unet.low_size:
            level = batch["level"]
            image = self.noise_scheduler.add_noise(
                low_resolution(clean, self.config.unet.low_size), batch["low_eps"], level
            )
            near_image = low_resolution(neighbors, self.config.unet.low_size)
        features = self.unet.encode_neighbors(neighbors, theirs, batch["weights"], near_image)
        predicted = self.unet(noisy, batch["timestep"], own, features, image, level).float()
        if self.config.unet.prediction_type == "sample":
            a = self.noise_scheduler.alphas_cumprod.to(clean.device)[batch["timestep"]]
            weight = (1 / (1 - a)).clamp(max=MOST_WEIGHT)  # 1 / (1 - a) would be the loss on velocities
            return (weight * (predicted - clean).square().flatten(1).mean(1)).mean()
        return F.mse_loss(
            predicted, schedulers.training_target(self.noise_scheduler, clean, batch["eps"], batch["timestep"])
        )

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
        from bowerbird.systems.reimagen.pipeline import STAGES, ReImagenPipeline

        text_encoder, tokenizer = (self.tower, None) if self.tower is not None else self.frozen
        below = dict(zip(STAGES, self.below, strict=False))
        return ReImagenPipeline(
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            **(below | {STAGES[len(self.below)]: self.unet}),
            scheduler=schedulers.scheduler("dpmsolver++", config=self.noise_scheduler.config),
            k=self.config.k,
            search_mode=self.config.search,
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, our networks in half precision."""
        ours = [
            self.unet,
            *self.below,
            *(tower for tower in (self.tower, self.frozen[0]) if isinstance(tower, SmallTextTower)),
        ]
        for module in ours:
            module.half()
        self.pipeline().save_pretrained(out)
        for module in ours:
            module.float()


def _at_size(pictures: Pictures, size: int) -> Pictures:
    """The same pictures, smaller."""
    parts = [
        tensors.to_uint8(F.interpolate(tensors.to_float(part), size=size, mode="bicubic", antialias=True))
        for part in torch.split(pictures.pixels, 256)
    ]
    return replace(pictures, pixels=torch.cat(parts), alpha=None)


def build(config: ReImagenConfig, pictures: Pictures, run: RunContext) -> ReImagenObjective:
    """One stage over `pictures`, with the frozen networks it stands on: a text tower, the stages below, an encoder
    where the search needs one."""
    text: tuple[Any, Any] | None = None
    below: Sequence[Any] = ()
    if config.base is not None:
        pipe = _open_base(config)
        text, below = (pipe.text_encoder.to(run.device), pipe.tokenizer), pipe.stages
    elif config.text_encoder is not None:
        tower, tokenizer = load_text_tower(config.text_encoder)
        text = (tower.to(run.device), tokenizer)
    encoder = encoders.load(config.encoder, device=run.device) if _needs_encoder(config) else None
    drawn = None if run.database is None else len(pictures)
    seen = pictures if run.database is None else pictures.concat(run.database)
    return ReImagenObjective(config, seen, run.seed, text=text, below=below, encoder=encoder, drawn=drawn)


def frozen(config: ReImagenConfig) -> dict[str, str]:
    """Fingerprints of the stages below or the text tower, and of the encoder where the search needs one."""
    found = {}
    if config.base is not None:
        found["base"] = str(_open_base(config).fingerprint())
    elif config.text_encoder is not None:
        found["text encoder"] = weights_hash(load_text_tower(config.text_encoder)[0])
    return {**found, "encoder": encoders.load(config.encoder).fingerprint} if _needs_encoder(config) else found


def _needs_encoder(config: ReImagenConfig) -> bool:
    return config.search != "bm25" or config.max_similarity is not None


def _open_base(config: ReImagenConfig) -> Any:
    """The stages below, frozen. Raises: BowerbirdError when they are not there, or this stage does not fit on them."""
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline

    pipe = load_base(str(config.base), ReImagenPipeline, "tiny-reimagen-32")
    if (
        len(pipe.stages) > 2
        or config.unet.low_size != pipe.sizes[-1]
        or config.schedule_type != pipe.scheduler.config.prediction_type
    ):
        raise BowerbirdError(
            f"base {config.base!r} generates {pipe.sizes[-1]} px by {pipe.scheduler.config.prediction_type} in"
            f" {len(pipe.stages)} stages; this stage enlarges {config.unet.low_size} px by {config.schedule_type},"
            " and a cascade has up to 3 stages; set system.unet.low_size or another system.base"
        )
    for module in (pipe.text_encoder, *pipe.stages):
        module.eval().requires_grad_(False)
    return pipe
