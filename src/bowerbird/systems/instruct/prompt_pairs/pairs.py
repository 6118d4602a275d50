"""Pairs of pictures of an edit: so many tries, each from a noise of its own, of which the best are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder
from bowerbird.systems.grounded import bases
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.grounded.wrapped import OWN_SAMPLER
from bowerbird.systems.instruct.prompt_pairs.prompts import PromptPair
from bowerbird.systems.instruct.prompt_pairs.scores import PairJudge, PairScores, Thresholds
from bowerbird.systems.instruct.prompt_pairs.shared_attention import KINDS, SELF, same_words, shared_attention


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made: so many `tries` for an edit, of which at most `keep` that reach `thresholds` are kept, those
    of the largest directional similarity. `share`: from which range the share of the steps with shared attention is
    drawn; `guidance`: the range of the scale; `size`: the edge in pixels, None for the base's own.

    The paper's values, but for its sampler, Euler ancestral in 100 steps.
    """

    tries: int = 100
    keep: int = 4
    thresholds: Thresholds = field(default_factory=Thresholds)
    share: tuple[float, float] = (0.1, 0.9)
    guidance: tuple[float, float] = (7.5, 15.0)
    steps: int = 50
    sampler: str = OWN_SAMPLER
    attention: str = SELF
    size: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises: BowerbirdError for what cannot be done."""
        if not (self.tries >= 1 and self.keep >= 1 and self.steps >= 1):
            raise BowerbirdError(f"tries, keep and steps are 1 or more; got {self.tries}, {self.keep}, {self.steps}")
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise BowerbirdError(
                f"`share` {self.share[0]:g},{self.share[1]:g}: two numbers from 0 to 1, the smaller first"
            )
        if not 1 <= self.guidance[0] <= self.guidance[1] <= 100:
            raise BowerbirdError(
                f"guidance {self.guidance[0]:g},{self.guidance[1]:g}: two numbers from 1 to 100, the smaller first"
            )
        if self.attention not in KINDS:
            raise BowerbirdError(f"`attention` {self.attention!r} is not known; choose one of {', '.join(KINDS)}")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise BowerbirdError(f"`size` {self.size}: a multiple of 8")


@dataclass(frozen=True)
class MadePair:
    """Two pictures, with what they were made by and how good they are."""

    pictures: tuple[Image.Image, Image.Image]
    seed: int
    share: float
    guidance: float
    scores: PairScores


def open_pair_base(name: str, device: str) -> ReferencePipeline:
    """The base called `name`. Raises: BowerbirdError when it is not there, or no U-Net makes its pictures."""
    pipe = ReferencePipeline.from_pretrained(name)
    kind = type(pipe.base).__name__
    if bases.facts_of(pipe.base).family != bases.SD:
        raise BowerbirdError(
            f"base {name!r} is a {kind}, whose attention is to pictures and words at once, so it cannot be shared"
            " between two prompts; give a Stable Diffusion (1, 2 or XL)"
        )
    return pipe.to(device)


@torch.no_grad()
def make_pair(
    pipe: ReferencePipeline,
    prompts: PromptPair,
    settings: PairSettings,
    *,
    seed: int,
    share: float,
    guidance: float,
) -> tuple[Image.Image, Image.Image]:
    """The pictures of both prompts from one noise, with shared attention in the first `share` of the steps: 0 is two
    pictures that share nothing but their noise, 1 shares in all steps."""
    base = pipe.base
    edge = settings.size or bases.trained_edge(base)
    columns = [] if settings.attention == SELF else same_words(base.tokenizer, prompts.original, prompts.edited)
    with pipe.sampling_with(settings.sampler), shared_attention(base.unet, settings.attention, columns) as switch:

        def on_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            switch.active = step + 1 < share * len(base.scheduler.timesteps)
            return tensors

        switch.active = share > 0
        first, second = base(
            [prompts.original, prompts.edited],
            # two generators of one seed: the same noise at the start, and in every step of a sampler that adds some
            generator=[seeds.picture_generator(seed) for _ in range(2)],
            num_inference_steps=settings.steps,
            guidance_scale=guidance,
            height=edge,
            width=edge,
            callback_on_step_end=on_step,
        ).images
    return first, second


def best_pairs(
    pipe: ReferencePipeline, encoder: Encoder, prompts: PromptPair, settings: PairSettings, number: int
) -> tuple[list[MadePair], Counter[str]]:
    """The pairs of edit `number` that are kept, the best first, and what became of all tries: `kept`, or the threshold
    that was not reached. What is tried depends on the seed, the number and the try alone."""
    judge, found, counts = PairJudge(encoder, prompts), list[MadePair](), Counter[str]()
    for attempt in range(settings.tries):
        rng = seeds.numpy_generator(settings.seed, "pair", number, attempt)
        share, guidance = (float(rng.uniform(*given)) for given in (settings.share, settings.guidance))
        seed = int(rng.integers(2**31))
        pictures = make_pair(pipe, prompts, settings, seed=seed, share=share, guidance=guidance)
        scores = judge.score(pictures)
        failed = settings.thresholds.failed(scores)
        counts[failed or "passed"] += 1
        if failed is None:
            found.append(MadePair(pictures, seed, share, guidance, scores))
    found.sort(key=lambda each: -each.scores.direction)  # the sort is stable: of equals the earlier try
    return found[: settings.keep], counts
