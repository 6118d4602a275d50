"""What every pipeline does the same way: one generator a picture, a scheduler's steps, a model's fingerprint, the form of the result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bowerbird import seeds, tensors
from bowerbird.errors import BowerbirdError

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


def generators_for(generator: torch.Generator | Sequence[torch.Generator] | None, seed: int, count: int) -> list[torch.Generator]:
    """One generator a picture: those given, the one given for all in turn, or seeds `seed`, `seed + 1`, …"""
    if generator is None:
        return seeds.picture_generators(seed, count)
    if isinstance(generator, torch.Generator):
        return [generator] * count
    if len(generator) != count:
        raise BowerbirdError(f"{len(generator)} generators for {count} pictures; give one, or one a picture")
    return list(generator)


def schedule(scheduler: Any, num_inference_steps: int, eta: float, generators: list[torch.Generator], device: Any) -> tuple[Tensor, dict[str, Any]]:
    """Set the scheduler's steps; the timesteps, and what its `step` takes beyond the usual."""
    if num_inference_steps < 1:
        raise BowerbirdError(f"num_inference_steps is 1 or more; got {num_inference_steps}")
    accepted = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {}
    if "eta" in accepted:
        extra["eta"] = eta
    elif eta:
        raise BowerbirdError(f"eta is an option of the ddim sampler; {type(scheduler).__name__} has none")
    if "generator" in accepted:
        extra["generator"] = generators
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps, extra


def fingerprint(modules: Sequence[torch.nn.Module]) -> str:
    """A hash of the modules' weights, the same wherever the model lies."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_output_type(output_type: str) -> None:
    """Raises: BowerbirdError for a form of result that is not known."""
    if output_type not in OUTPUT_TYPES:
        raise BowerbirdError(f"output_type {output_type!r} is not known; choose one of {', '.join(OUTPUT_TYPES)}")


def as_output(sample: Tensor, output_type: str) -> Any:
    """Pictures `(n, 3, H, W)` in [-1, 1] as PIL, as an array in [0, 1], or as they are."""
    if output_type == "pil":
        return tensors.to_pil(sample)
    if output_type == "np":
        return ((sample + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
    return sample
