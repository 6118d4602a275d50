"""Pictures of the class by the base before any training: what a subject's training is to keep."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bowerbird.core import cache, seeds
from bowerbird.systems.base_text import encoder_names
from bowerbird.systems.components import weights_hash
from bowerbird.systems.dreambooth.config import DreamBoothConfig
from bowerbird.systems.grounded.bases import trained_edge

PART = 8
"""Pictures a file of the cache: what a kill takes is at most these."""


def class_pictures(
    base: Any, config: DreamBoothConfig, seed: int, device: str, guidance: float | None = None
) -> Tensor:
    """uint8 `(n, 3, S, S)` of the class, from the cache of this machine where the same base made them before.
    `guidance`: the scale, None for that of the base's call."""
    texts = [getattr(base, name) for name in encoder_names(base)]
    networks = [weights_hash(each) for each in (base.unet, *texts, base.vae)]
    scheduler = repr(sorted(dict(base.scheduler.config).items(), key=str))
    key = cache.key(
        "class, unchecked", *networks, scheduler, config.class_prompt, str(config.class_steps), str(guidance), str(seed)
    )
    place = cache.directory("class-pictures")

    def pixels(start: int) -> dict[str, Tensor]:
        # always as many, so that a file serves any number of pictures
        return {"pixels": generate(base, config, [seed + i for i in range(start, start + PART)], device, guidance)}

    starts = range(0, config.class_pictures, PART)
    files = {start: place / f"{key[:32]}-{start}.safetensors" for start in starts}
    parts = [cache.memoize(files[start], key, partial(pixels, start))["pixels"] for start in starts]
    return torch.cat(parts)[: config.class_pictures]


def with_usual_steps(config: DreamBoothConfig, steps: Any) -> DreamBoothConfig:
    """`config` with the steps that its base usually takes, where it names none."""
    return config if config.class_steps is not None else config.model_copy(update={"class_steps": int(steps)})


def generate(
    base: Any, config: DreamBoothConfig, numbers: list[int], device: str, guidance: float | None = None
) -> Tensor:
    """uint8 `(n, 3, S, S)`: what `base` makes of the class from these seeds."""
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    pipe = ReferencePipeline(unchecked(base)).to(device)
    edge = trained_edge(base)
    made = pipe(
        [config.class_prompt] * len(numbers),
        generator=[seeds.picture_generator(number) for number in numbers],
        num_inference_steps=config.class_steps,
        guidance_scale=guidance,
        height=edge,
        width=edge,
        output_type="np",
    ).images
    pixels = torch.from_numpy(made).permute(0, 3, 1, 2).mul(255).round().to(torch.uint8)
    return pixels.contiguous()


def unchecked(base: Any) -> Any:
    """`base` without its safety checker, which makes pictures black that a training would learn from."""
    return base if getattr(base, "safety_checker", None) is None else rebuilt(base, safety_checker=None)


def rebuilt(base: Any, **parts: Any) -> Any:
    """Diffusers' pipeline `base` with some of its `parts` exchanged, and its own settings."""
    made = {**base.components, **parts}
    taken = inspect.signature(type(base).__init__).parameters
    settings = {name: base.config[name] for name in taken if name in base.config and name not in made}
    if "requires_safety_checker" in taken and made.get("safety_checker") is None:
        settings["requires_safety_checker"] = False
    return type(base)(**made, **settings)
