"""The loss on pictures that are held out: the weights of the moment, and batches that are the same every time.

Which pictures are held out says `data.hold_out`. Noise, timesteps, views and neighbors come from the run's seed, so
that two figures of a run differ by its weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bowerbird.core import seeds
from bowerbird.systems.objective import Objective

LEAST, MOST = 4, 16
"""Batches that a figure is the mean of: as many as the held-out pictures fill, within these bounds."""


@dataclass(frozen=True)
class Validation:
    """`objective`: what is trained, over the `pictures` held out; its weights are taken from elsewhere."""

    objective: Objective[Any]
    pictures: int
    seed: int

    def fits(self, trained: nn.Module) -> bool:
        """Whether its tensors are those of `trained`: a network sized by its pictures' labels is another."""
        return _shapes(self.objective) == _shapes(trained)

    def loss(self, trained: Objective[Any], size: int, loss_of: Callable[[Objective[Any], Any], Any]) -> float:
        """The mean of the loss with the weights of `trained` over batches of `size`; draws from no generator of the
        training."""
        _share_tensors(self.objective, trained)
        self.objective.eval()
        count = min(MOST, max(LEAST, -(-self.pictures // size)))
        device = next(trained.parameters()).device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seeds.derive(self.seed, "forward"))
            found = [float(loss_of(self.objective, self.objective.batch(i, size))) for i in range(count)]
        return sum(found) / count


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _tensors(module).items()}


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _share_tensors(module: nn.Module, trained: nn.Module) -> None:
    """Let the tensors of `module` be those of `trained`, without a copy."""
    theirs = _tensors(trained)
    for name, tensor in _tensors(module).items():
        tensor.data = theirs[name].data
