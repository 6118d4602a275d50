"""Gaussian diffusion: the schedules we sample with and the training target. All of it is diffusers'; this file names
our choices.

Source: betas linear in sqrt, 0.0015 to 0.0195 over 1000 steps, as RDM's released configuration.
Differs from the paper: the network predicts the velocity v (arXiv 2202.00512, appendix D), which at small scale learns
faster than the noise and is well behaved at the noisiest steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000
BETAS = {"num_train_timesteps": TIMESTEPS, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
REGISTRY: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "ddim-compvis": (
        "bowerbird.diffusion.compvis_ddim:CompVisDDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"},
    ),
}
"""Samplers by name: the class (of diffusers, or `module:Class`), and what it is made with beside the schedule. A line
here is a sampler."""
SAMPLERS = tuple(REGISTRY)
ENTRY_POINTS = "bowerbird.samplers"


def scheduler(name: str = "ddim", *, prediction_type: str = "v_prediction", config: Any = None) -> Any:
    """The diffusers scheduler called `name`: over our schedule, or over the `config` of another scheduler when given.

    `name`: one of `SAMPLERS`, an entry point in the group `bowerbird.samplers`, or `module:Class`, a class with
    diffusers' scheduler interface. Raises: BowerbirdError for an unknown name.
    """
    base = dict(config) if config is not None else {**BETAS, "prediction_type": prediction_type}
    extra: dict[str, Any] = {}
    if name in REGISTRY:
        known, extra = REGISTRY[name]
        made = plugins.load_object(known if plugins.is_path(known) else f"diffusers:{known}")
    else:
        made = plugins.load_object(name) if plugins.is_path(name) else plugins.entry_point(ENTRY_POINTS, name)
        if made is None:
            others = (*SAMPLERS, *plugins.entry_point_names(ENTRY_POINTS))
            raise BowerbirdError(f"sampler {name!r} is not known; choose one of {', '.join(others)}, or module:Class")
    return made.from_config(base, **{"timestep_spacing": "trailing", **extra})


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
