"""One method of a network as a network of its own, which can be exported, or held in another precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Tower(nn.Module):
    """`network.method(x)`, or `pick` of what that returns."""

    def __init__(self, network: nn.Module, method: str, pick: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.method, self.pick = network, method, pick

    def forward(self, x: Tensor) -> Tensor:
        found = getattr(self.network, self.method)(x)
        return found if self.pick is None else self.pick(found)
