"""Gaussian diffusion: the schedules we sample with and the training target. All of it is diffusers'; this file names
our choices.

Source: betas linear in sqrt, 0.0015 to 0.0195 over 1000 steps, as RDM's released configuration.
Differs from the paper: the network predicts the velocity v (arXiv 2202.00512, appendix D), which at small scale learns
faster than the noise and is well behaved at the noisiest steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000
BETAS = {"num_train_timesteps": TIMESTEPS, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
SAMPLERS = ("dpmsolver++", "ddim", "unipc")


def scheduler(name: str = "ddim", *, prediction_type: str = "v_prediction", config: Any = None) -> Any:
    """The diffusers scheduler called `name`: over our schedule, or over the `config` of another scheduler when given.

    Raises: BowerbirdError for an unknown name.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    classes: dict[str, Any] = {
        "ddim": DDIMScheduler,
        "dpmsolver++": DPMSolverMultistepScheduler,
        "unipc": UniPCMultistepScheduler,
    }
    if name not in classes:
        raise BowerbirdError(f"sampler {name!r} is not known; choose one of {', '.join(SAMPLERS)}")
    extra: dict[str, Any] = {"ddim": {"clip_sample": False, "set_alpha_to_one": True}}.get(name, {})
    extra["timestep_spacing"] = "trailing"
    base = dict(config) if config is not None else {**BETAS, "prediction_type": prediction_type}
    return classes[name].from_config(base, **extra)


def from_clean(noise_scheduler: Any, clean: Tensor, sample: Tensor, timestep: Any) -> Tensor:
    """A prediction of the clean picture, in the form that the scheduler's `prediction_type` asks for: velocity or
    noise.

    `sample`: the noisy picture at `timestep` (one for all). Linear in `clean`, so guidance may combine before or
    after.
    """
    a = noise_scheduler.alphas_cumprod[int(timestep)].to(sample)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return (a.sqrt() * sample - clean) / (1 - a).sqrt()
    return (sample - a.sqrt() * clean) / (1 - a).sqrt()


def to_clean(noise_scheduler: Any, predicted: Tensor, sample: Tensor, timestep: Any) -> Tensor:
    """The clean picture that a prediction of velocity or noise speaks of: the inverse of `from_clean`."""
    a = noise_scheduler.alphas_cumprod[int(timestep)].to(sample)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return a.sqrt() * sample - (1 - a).sqrt() * predicted
    return (sample - (1 - a).sqrt() * predicted) / a.sqrt()


def training_target(noise_scheduler: Any, clean: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    """What the network should predict: the velocity, or the noise, as the scheduler's `prediction_type` says."""
    if noise_scheduler.config.prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(clean, eps, timestep)
    return eps
