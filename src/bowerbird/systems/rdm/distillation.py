"""A trained RDM distilled to a few steps: its configuration and its training objective.

Time is cut into `segments`. In each, the student learns to go in one step where its teacher goes in several: from a
noisy picture at the segment's beginning, the guided teacher's solver leads to the segment's end,

    z_b = solver(z_t, t -> b)          `teacher_steps / segments` steps of DPM-Solver++, guided with weight w where t
                                       lies in `guidance_interval`
    x*  = the x with ddim(x, z_t, t -> b) = z_b
    loss = |v_student(z_t) - v*|^2     v* is the velocity that says x*

and the student generates with DDIM in `segments` steps of one pass each. Source: progressive distillation, arXiv
2202.00512, section 3 (targets), and of guided models, arXiv 2210.03142.
Differs from the papers: many teacher steps become one at once, not two by two; the student is trained at the times
that it visits only; one weight of guidance; only low-rank changes to the teacher's weights are trained. `draws` says
what is sampled, as for RDM; its network settings are the teacher's own. Consistency distillation (arXiv 2403.06807) was
tried before: see docs/log.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird import encoders
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder
from bowerbird.data.pictures import Pictures
from bowerbird.diffusion import conditioning, guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models import low_rank
from bowerbird.models.unet import with_short_attention
from bowerbird.systems import common
from bowerbird.systems.components import load_autoencoder
from bowerbird.systems.latent_cache import LatentCache, cached_latents, check_neighbors
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.rdm import objective as rdm
from bowerbird.systems.rdm.objective import RDMBatch, RDMConfig
from bowerbird.systems.settings import Count, network

CHANGED = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "conv",
    "conv_in",
    "conv_out",
    "linear_1",
    "linear_2",
    "net.0.proj",
)
"""The layers whose weights change: convolutions, and what reads the time. Attention stays: what neighbors mean does
not change with steps."""


class FewStepConfig(ObjectiveConfig):
    """Everything that shapes the distillation; stored in `recipe.json`. `rank` None trains every weight;
    `guidance_interval`: see `RDMPipeline`."""

    kind: Literal["rdm-few-steps"] = "rdm-few-steps"
    base: str = network("tiny-rdm")
    segments: Count = 2
    teacher_steps: Count = 10
    guidance_scale: float = 3.0
    guidance_interval: tuple[float, float] = (0.2, 0.8)
    rank: Annotated[int, Field(ge=1)] | None = 4
    changed: tuple[str, ...] = CHANGED
    draws: RDMConfig = RDMConfig()


class FewStepBatch(RDMBatch):
    """RDM's batch, and the number of the segment that it is for."""

    segment: int


class FewStepObjective(Objective[FewStepBatch]):
    """A student that starts as its teacher, with the loss of distillation over a `LatentCache`."""

    def __init__(
        self, config: FewStepConfig, cache: LatentCache, teacher: Any, autoencoder: Any, encoder: Encoder, seed: int
    ) -> None:
        super().__init__()
        total, segments, steps = schedulers.TIMESTEPS, config.segments, config.teacher_steps
        if not (1 <= segments <= steps <= total and total % segments == 0 and steps % segments == 0):
            raise BowerbirdError(
                f"system.segments divides {total} and system.teacher_steps, which is at most {total}; got {segments}"
                f" and {steps}"
            )
        self.config, self.cache, self.seed = config, cache, seed
        self.frozen = (autoencoder, encoder, teacher.eval().requires_grad_(False))  # a tuple hides them from nn.Module
        self.unet = with_short_attention(type(teacher).from_config(teacher.config))
        self.unet.load_state_dict(teacher.state_dict())
        if config.rank is not None:
            with torch.random.fork_rng([]):
                torch.manual_seed(seeds.derive(seed, "init"))
                low_rank.add_low_rank(self.unet, config.changed, config.rank)
            if not any(p.requires_grad for p in self.unet.parameters()):
                raise BowerbirdError(
                    f"system.changed {', '.join(config.changed)}: no layer of the network has this name"
                )
        self.noise_scheduler = schedulers.scheduler("ddim")
        self.interval = common.timestep_interval(self.noise_scheduler, config.guidance_interval)
        self.times = self._solver().timesteps

    def batch(self, step: int, size: int, rank: int = 0) -> FewStepBatch:
        """RDM's batch; the segments take turns, one for a whole batch."""
        sample = rdm.sample_batch(self.config.draws, self.cache, self.noise_scheduler, self.seed, step, size, rank)
        return {**sample, "segment": step % self.config.segments}

    def forward(self, batch: FewStepBatch) -> Tensor:
        """E || v_student(z_t) - v* ||^2 with the target of the module's text."""
        tokens = conditioning.neighbor_tokens(batch["embeddings"], batch["weights"], normalize=True)
        asked = tokens.without("neighbors", rows=batch["null"])
        first, count = batch["segment"] * self._per_segment, self._per_segment
        start, end = self._bar(first), self._bar(first + count)
        noisy = start[0] * batch["clean"] + start[1] * batch["eps"]
        with torch.no_grad():
            landed = self._teach(noisy, asked, first, count)
            clean = (landed - end[1] / start[1] * noisy) / (end[0] - start[0] * end[1] / start[1])
            target = (start[0] * noisy - clean) / start[1]
        return F.mse_loss(self._velocity(self.unet, noisy, self.times[first], asked), target)

    @property
    def _per_segment(self) -> int:
        return self.config.teacher_steps // self.config.segments

    def _solver(self) -> Any:
        """The teacher's, at its steps; it counts them, so every use takes a new one."""
        solver = schedulers.scheduler("dpmsolver++", config=self.noise_scheduler.config)
        solver.set_timesteps(self.config.teacher_steps)
        return solver

    def _bar(self, number: int) -> tuple[float, float]:
        """alpha and sigma at the teacher's step of that number; after the last one the picture is clean."""
        bar = float(self.noise_scheduler.alphas_cumprod[self.times[number]]) if number < len(self.times) else 1.0
        return bar**0.5, (1 - bar) ** 0.5

    def _velocity(self, unet: Any, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        tokens = condition.neighbors
        assert isinstance(tokens, Tokens)
        mask = conditioning.attention_mask(tokens)
        found: Tensor = unet(sample, timestep, encoder_hidden_states=tokens.keys, encoder_attention_mask=mask).sample
        return found.float()

    def _teach(self, sample: Tensor, asked: Conditioning, first: int, count: int) -> Tensor:
        """Where `count` guided steps of the teacher lead from its step number `first`."""
        teacher = self.frozen[2].to(sample.device)  # accelerate moves what is trained, a process to its own
        predict = partial(self._velocity, teacher)
        guided = guidance.within_interval(
            guidance.classifier_free(predict, asked, self.config.guidance_scale), predict, asked, self.interval
        )
        solver = self._solver()
        solver.set_begin_index(first)
        for number, t in enumerate(self.times[first : first + count]):
            sample = solver.step(guided(sample, t, number), t, sample).prev_sample
        return sample

    def pipeline(self) -> Any:
        """The current weights as an `RDMPipeline` that generates in `segments` steps without guidance."""
        autoencoder, encoder, _ = self.frozen
        return rdm.pipeline_of(
            self.unet,
            autoencoder,
            encoder,
            self.cache,
            self.config.draws.k,
            schedulers.scheduler("ddim"),
            num_inference_steps=self.config.segments,
            guidance_scale=1.0,
            sampler="ddim",
        )

    def export(self, out: Path) -> None:
        """Write the pipeline in diffusers layout, whole, and beside it the low-rank factors alone."""
        if self.config.rank is not None:
            low_rank.save_factors(self.unet, out / low_rank.FOLDER, common.fingerprint([self.frozen[2]]))
        pipe = self.pipeline()
        unet = type(self.unet).from_config(self.unet.config)
        unet.load_state_dict(low_rank.plain_state(self.unet))
        pipe.register_modules(unet=unet.half())
        pipe.save_pretrained(out)


def build(config: FewStepConfig, pictures: Pictures, run: RunContext) -> FewStepObjective:
    """The objective over `pictures`, with the teacher and the frozen networks that `config` names."""
    encoder, autoencoder = encoders.load(config.draws.encoder), load_autoencoder(config.draws.autoencoder)
    cache = check_neighbors(cached_latents(config.draws, pictures, autoencoder, encoder, run), config.draws, run)
    teacher = rdm.load_teacher(config.base, autoencoder, encoder).to(run.device)
    return FewStepObjective(config, cache, teacher, autoencoder, encoder, run.seed)


def frozen(config: FewStepConfig) -> dict[str, str]:
    """Fingerprints of the encoder, the autoencoder and the teacher."""
    return {**rdm.frozen(config.draws), "base": rdm.teacher_fingerprint(config.base)}
