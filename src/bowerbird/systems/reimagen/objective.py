"""Re-Imagen, retrieval-augmented text-to-image (arXiv 2209.14491): its configuration and its training objective.

p(x) = p_theta(x | c_p, c_n): a text, and k pairs of picture and caption found with it. Both enter one U-Net
(`models/neighbor_unet.py`), each is dropped in 10% of the draws independently of the other, so that all four of
eps(c_p, c_n), eps(c_p, -), eps(-, c_n) and eps(-, -) exist. A stage above the first also sees the picture of the stage
below, noised to a drawn level. The pipeline is in `reimagen_pipeline.py`.

Differs from the paper, and why:
- D is the training set under a leak guard, as our collections are small: never the picture itself, at times never its
  entity.
- What neighbors mean has to be learned from 6,000 pictures instead of 50 million, so draws are of three kinds
  (`reimagen_config.NeighborDraw`).
- Target and neighbors are changed together (mirror, quarter turn, shift, hue) in half the draws, and then the thing
  goes by an invented name: a name that was never met must mean what its neighbors show.
- v-prediction in the first stage; the stage above predicts the clean picture, as a small network that predicts
  velocities has to carry the noise through all its layers to take it away, and leaves grain. k is 1 or 2 in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.models.text_tower import SmallTextTower, text_dim, text_tokens
from bowerbird.systems.reimagen.batches import ReImagenDraws, low_resolution
from bowerbird.systems.reimagen.config import ReImagenConfig

MOST_WEIGHT = 5.0
"""Cap of the loss weight of a stage that predicts the clean picture, where little noise is left to remove."""


class ReImagenObjective(nn.Module):
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
    ) -> None:
        """`text`: a frozen tower and its tokenizer (None for the small tower); None trains a small tower. `below`: the
        networks of the stages below, frozen. `encoder`: for dense search and `max_similarity`."""
        super().__init__()
        if pictures.size != config.unet.sample_size:
            raise BowerbirdError(
                f"the pictures are {pictures.size} px and this stage generates {config.unet.sample_size}; set"
                f" size={config.unet.sample_size}"
            )
        width = text_dim(text[0]) if text is not None else config.tower.dim
        if width != config.unet.text_dim:
            raise BowerbirdError(
                f"the text tower gives {width} numbers a token and the network reads {config.unet.text_dim}; set"
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
        self.draws = ReImagenDraws(config, pictures, seed, encoder)

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """See `ReImagenDraws.batch`."""
        return self.draws.batch(step, size, rank)

    def forward(self, batch: dict[str, Any]) -> Tensor:
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
            scheduler=schedulers.scheduler(
                "dpmsolver++", config={**self.noise_scheduler.config, "thresholding": True, "sample_max_value": 1.0}
            ),
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

    def sheet(self, path: Path) -> None:
        """A row for each of eight pictures: it, two neighbors, then generated from text and neighbors, from neighbors
        alone, from text alone."""
        from bowerbird.core.contact_sheet import grid

        pipe, pictures, rows = self.pipeline(), self.pictures, []
        pipe.set_progress_bar_config(disable=True)

        def generate(item: int, prompt: str, near: list[int]) -> Any:
            if not prompt and not near:
                return None
            hits = Neighbors.from_images(
                [prompt], tensors.to_pil(pictures.pixels[near]) if near else [], [pictures.captions[r] for r in near]
            )
            options: dict[str, Any] = {}
            if self.config.unet.low_size:
                own = F.interpolate(
                    tensors.to_float(pictures.pixels[[item]]), size=self.config.unet.low_size, mode="area"
                )
                options["low_resolution"] = tensors.to_pil(own)
            return pipe(
                neighbors=hits, num_inference_steps=12, generator=seeds.picture_generators(0, 1), **options
            ).images[0]

        for item in np.linspace(0, len(pictures) - 1, 8).astype(int).tolist():
            found = self.draws.tables[0][item]
            near = found[found != ABSENT][:2].tolist()
            text = (
                f"{pictures.captions[item]}, {self.draws.styles[item]} style"
                if self.draws.styles[item]
                else pictures.captions[item]
            )
            shown: list[Any] = [*tensors.to_pil(pictures.pixels[[item, *near]]), *[None] * (2 - len(near))]
            rows.append([*shown, generate(item, text, near), generate(item, "", near), generate(item, text, [])])
        grid(rows).save(path)
