"""DDIM at the times that latent diffusion's code takes (CompVis, arXiv 2112.10752), on which RDM's scripts sample.

With T training steps and n asked for, c = T // n, it visits 1, 1 + c, 1 + 2c, ... below T: T / c of them, rounded up,
which is more than n where n does not divide T (150 of 1000 are 167 steps, from 997). diffusers' "leading" spacing
takes the first n of them and so starts at less noise.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler

from bowerbird.core.errors import BowerbirdError


class CompVisDDIMScheduler(DDIMScheduler):
    """diffusers' DDIM with the times above. Differs from the code: a time equal to T, where theirs fails, is left
    out."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the times for `num_inference_steps`, 1 to T. Raises: BowerbirdError for other numbers."""
        total = int(self.config.num_train_timesteps)
        if not 1 <= num_inference_steps <= total:
            raise BowerbirdError(f"{num_inference_steps} steps; this schedule has 1 to {total}")
        times = torch.arange(1, total, total // num_inference_steps)
        self.num_inference_steps = num_inference_steps  # from which a step knows the distance to the next time
        self.timesteps = times.flip(0).to(device)
