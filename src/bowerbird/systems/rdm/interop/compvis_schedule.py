"""The noise schedule of the released checkpoints, from their `betas`, as arguments of diffusers' `DDIMScheduler`, and
the steps their sampler takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored

BUFFERS = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)
PUBLISHED = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
KL_BETA_END = 0.015
"""Where the schedule of the 768 px model ends."""
SAMPLER = {
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""How the released code takes DDIM steps: times 1, 1 + c, 1 + 2c, … and the first alpha at the end."""


def schedule(tensors: Mapping[str, Stored], *, kl: bool) -> dict[str, Any]:
    """The arguments of `DDIMScheduler`; where the file has no `betas`, the published schedule of models with a VQ
    (`kl`: a KL) first stage. Raises: BowerbirdError when they are none."""
    if "betas" not in tensors:
        return {**PUBLISHED, **SAMPLER, **({"beta_end": KL_BETA_END} if kl else {})}
    betas = tensors["betas"].read().double().numpy()
    if betas.ndim != 1 or len(betas) < 2 or not np.isfinite(betas).all() or betas.min() <= 0 or betas.max() >= 1:
        raise BowerbirdError(
            "its betas are not a noise schedule (numbers between 0 and 1, one a step); the file is damaged"
        )
    first, last, steps = float(f"{betas[0]:.6g}"), float(f"{betas[-1]:.6g}"), len(betas)
    for name, made in (
        ("scaled_linear", np.linspace(first**0.5, last**0.5, steps) ** 2),
        ("linear", np.linspace(first, last, steps)),
    ):
        if np.allclose(made, betas, rtol=1e-5, atol=0):
            return {
                "num_train_timesteps": steps,
                "beta_start": first,
                "beta_end": last,
                "beta_schedule": name,
                **SAMPLER,
            }
    return {"num_train_timesteps": steps, "trained_betas": betas.tolist(), **SAMPLER}
