"""What conditioners hand to networks: tokens with a mask, gathered by name, each part with its null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A set for cross-attention: `keys` `(B, L, D)` and `weights` `(B, L)`, 0 where there is no token, 1 for one that counts once."""

    keys: Tensor
    weights: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Tokens:
        """The same tokens elsewhere; the weights stay float32, as they pass through a logarithm."""
        return Tokens(self.keys.to(device, dtype), self.weights.to(device))


@dataclass(frozen=True)
class Conditioning:
    """Named conditions of a batch and what each one's absence looks like."""

    neighbors: Tokens
    neighbors_null: Tokens

    def without(self, *names: str) -> Conditioning:
        """The same conditioning with the named parts replaced by their nulls."""
        unknown = set(names) - {"neighbors"}
        if unknown:
            raise ValueError(f"no condition called {', '.join(sorted(unknown))}; there is: neighbors")
        return replace(self, neighbors=self.neighbors_null) if names else self

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Several conditionings as one batch."""

        def join(tokens: Sequence[Tokens]) -> Tokens:
            return Tokens(torch.cat([t.keys for t in tokens]), torch.cat([t.weights for t in tokens]))

        return Conditioning(join([p.neighbors for p in parts]), join([p.neighbors_null for p in parts]))
