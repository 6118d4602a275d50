"""A method of a network as a network of its own, which can be exported or held in another precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Tower(nn.Module):
    """`pick(network.method(x))`."""

    def __init__(self, network: nn.Module, method: str, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network, self.method, self.pick = network, method, pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(getattr(self.network, self.method)(x))
