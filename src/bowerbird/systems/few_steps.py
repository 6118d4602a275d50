"""A trained RDM distilled to a few steps: its configuration and its training objective.

Multistep consistency distillation (arXiv 2403.06807): time is cut into `segments`; within each, the student learns to jump from any time to
the segment's start, where the teacher's guided path leads. One step of the teacher, z_t -> z_s, then the student's own jump from z_s, says
where z_t should have landed:

    z_s  = ddim(x_teacher(z_t), z_t, t -> s)            x_teacher: guided, weight w
    z_b  = ddim(x_student(z_s), z_s, s -> b)            no gradient; z_s itself where s is the boundary b
    x*   = the x with ddim(x, z_t, t -> b) = z_b        the student's target, compared in velocity (weight SNR + 1, arXiv 2202.00512)

It paints with DDIM in `segments` steps of one pass each: guidance is learnt, so there is no second pass (arXiv 2210.03142).
Differs from the paper: the number of teacher steps is fixed, and only low-rank changes to the teacher's weights are trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from bowerbird import conditioning, gaussian, seeds
from bowerbird.errors import BowerbirdError
from bowerbird.models import low_rank
from bowerbird.models.unet import with_short_attention
from bowerbird.systems import sampling
from bowerbird.systems.latents import LatentBank
from bowerbird.systems.rdm import RDMConfig, draw_batch, pipeline_of, show
from bowerbird.types import Encoder
from bowerbird.types_torch import Conditioning, Tokens

CHANGED = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv", "conv_in", "conv_out", "linear_1", "linear_2", "net.0.proj")
"""The layers whose weights change: convolutions, and what reads the time. Attention stays: what neighbours mean does not change with steps."""


class FewStepConfig(BaseModel):
    """Everything that shapes the distillation; stored in `recipe.json`. `teacher_steps` is a multiple of `segments`; `rank` None trains every weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["rdm-few-steps"] = "rdm-few-steps"
    base: str = "tiny-rdm"
    segments: int = 2
    teacher_steps: int = 32
    guidance_scale: float = 3.0
    rank: int | None = 4
    changed: tuple[str, ...] = CHANGED
    draws: RDMConfig = RDMConfig()

    @property
    def encoder(self) -> str:
        """The encoder of the neighbours."""
        return self.draws.encoder

    @property
    def autoencoder(self) -> str:
        """The autoencoder painted through."""
        return self.draws.autoencoder


class FewStepObjective(nn.Module):
    """A student that starts as its teacher, with the consistency loss over a `LatentBank`."""

    def __init__(self, config: FewStepConfig, bank: LatentBank, teacher: Any, autoencoder: Any, encoder: Encoder, seed: int) -> None:
        super().__init__()
        if config.segments < 1 or config.teacher_steps % config.segments:
            raise BowerbirdError(f"system.teacher_steps is a multiple of system.segments; got {config.teacher_steps} and {config.segments}")
        self.config, self.bank, self.seed = config, bank, seed
        self.frozen = (autoencoder, encoder, teacher.eval().requires_grad_(False))  # a tuple hides them from nn.Module
        self.unet = with_short_attention(type(teacher).from_config(teacher.config))
        self.unet.load_state_dict(teacher.state_dict())
        if config.rank is not None:
            with torch.random.fork_rng([]):
                torch.manual_seed(seeds.derive(seed, "init"))
                low_rank.add_low_rank(self.unet, config.changed, config.rank)
        self.noise_scheduler = gaussian.scheduler("ddim")
        # time as grid numbers: 0 is the clean picture, `teacher_steps` the noisiest; entry i is alpha-bar there
        self.grid = torch.from_numpy(np.round(np.arange(config.teacher_steps + 1) * gaussian.TIMESTEPS / config.teacher_steps).astype(np.int64)) - 1
        bars = self.noise_scheduler.alphas_cumprod
        self.bars = torch.cat([torch.ones(1), bars[self.grid[1:]]])

    def batch(self, step: int, size: int, rank: int = 0) -> dict[str, object]:
        """RDM's batch, with a time on the teacher's grid for each item."""
        drawn = draw_batch(self.config.draws, self.bank, self.noise_scheduler, self.seed, step, size, rank)
        rng = seeds.numpy_generator(self.seed, "grid", step, rank)
        return {**drawn, "at": torch.from_numpy(rng.integers(1, self.config.teacher_steps + 1, size=size))}

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """E || v_student(z_t) - v* ||^2 with the target of the module's text."""
        config, at, clean = self.config, batch["at"], batch["clean"]
        condition = conditioning.neighbor_tokens(batch["embeddings"], batch["weights"], normalize=True)
        null = condition.without("neighbors")
        asked = condition.without("neighbors", rows=batch["null"])
        boundary = (at - 1) // (config.teacher_steps // config.segments) * (config.teacher_steps // config.segments)
        noisy = self._mix(clean, batch["eps"], at)
        with torch.no_grad():
            both = self._velocity(self.frozen[2], noisy.repeat(2, 1, 1, 1), at.repeat(2), Conditioning.cat([null, asked]))
            plain, conditional = both.chunk(2)
            later = self._jump(self._clean(noisy, plain + config.guidance_scale * (conditional - plain), at), noisy, at, at - 1)
            own = self._velocity(self.unet, later, (at - 1).clamp(min=1), asked)
            landed = self._jump(self._clean(later, own, at - 1), later, at - 1, boundary)
            there = (at - 1 == boundary).view(-1, 1, 1, 1)
            landed = torch.where(there, later, landed)
            target = self._velocity_of(noisy, self._from_jump(noisy, landed, at, boundary), at)
        return F.mse_loss(self._velocity(self.unet, noisy, at, asked), target)

    def _bar(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at the grid numbers `at` `(n,)`, `(n, 1, 1, 1)` each."""
        bar = self.bars.to(at.device)[at].view(-1, 1, 1, 1)
        return bar.sqrt(), (1 - bar).sqrt()

    def _velocity(self, unet: Any, sample: Tensor, at: Tensor, condition: Conditioning) -> Tensor:
        tokens = condition.neighbors
        assert isinstance(tokens, Tokens)
        mask = conditioning.attention_mask(tokens)
        found: Tensor = unet(sample, self.grid.to(at.device)[at], encoder_hidden_states=tokens.keys, encoder_attention_mask=mask).sample
        return found.float()

    def _mix(self, clean: Tensor, eps: Tensor, at: Tensor) -> Tensor:
        a, s = self._bar(at)
        return a * clean + s * eps

    def _clean(self, sample: Tensor, velocity: Tensor, at: Tensor) -> Tensor:
        a, s = self._bar(at)
        return a * sample - s * velocity

    def _velocity_of(self, sample: Tensor, clean: Tensor, at: Tensor) -> Tensor:
        """The velocity that says `clean`; the inverse of `_clean`."""
        a, s = self._bar(at)
        return (a * sample - clean) / s

    def _jump(self, clean: Tensor, sample: Tensor, at: Tensor, to: Tensor) -> Tensor:
        """DDIM without fresh noise from one time to another. Source: arXiv 2010.02502, equation 12."""
        (a, s), (b, r) = self._bar(at), self._bar(to)
        return b * clean + r / s.clamp(min=1e-6) * (sample - a * clean)

    def _from_jump(self, sample: Tensor, landed: Tensor, at: Tensor, to: Tensor) -> Tensor:
        """The clean picture whose `_jump` lands at `landed`."""
        (a, s), (b, r) = self._bar(at), self._bar(to)
        return (landed - r / s * sample) / (b - a * r / s)

    def pipeline(self) -> Any:
        """The current weights as an `RDMPipeline` that paints in `segments` steps without guidance."""
        autoencoder, encoder, _ = self.frozen
        return pipeline_of(
            self.unet, autoencoder, encoder, self.bank, self.config.draws.k, gaussian.scheduler("ddim"),
            num_inference_steps=self.config.segments, guidance_scale=1.0, sampler="ddim",
        )  # fmt: skip

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, whole, and beside it the low-rank factors alone."""
        if self.config.rank is not None:
            low_rank.save_factors(self.unet, out / low_rank.FOLDER, sampling.fingerprint([self.frozen[2]]))
        pipe = self.pipeline()
        unet = type(self.unet).from_config(self.unet.config)
        unet.load_state_dict(low_rank.plain_state(self.unet))
        pipe.register_modules(unet=unet.half())
        pipe.save_pretrained(out)

    def sheet(self, path: Path) -> None:
        """A row for each of eight items: the item, its four neighbours, and pictures painted in 1, 2, `segments` and twice `segments` steps."""
        asked = [{"guidance_scale": 1.0, "num_inference_steps": steps} for steps in (1, 2, self.config.segments, 2 * self.config.segments)]
        show(self.pipeline(), self.bank, asked, path)
