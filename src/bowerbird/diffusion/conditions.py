"""What conditioners hand to networks: tokens or feature maps with weights, gathered by name, each part with its
null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def _rows(chosen: Tensor, given: Tensor, other: Tensor) -> Tensor:
    """`given` `(B, …)` with the boolean rows `chosen` `(B,)` taken from `other`."""
    return given if given is other else torch.where(chosen.view(-1, *[1] * (given.ndim - 1)), other, given)


@dataclass(frozen=True)
class Tokens:
    """A set for cross-attention: `keys` `(B, L, D)` and `weights` `(B, L)`, 0 where there is no token, 1 for one that
    counts once."""

    keys: Tensor
    weights: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Tokens:
        """The same tokens elsewhere; the weights stay float32, as they pass through a logarithm."""
        return Tokens(self.keys.to(device, dtype), self.weights.to(device))

    def absent(self) -> Tokens:
        """The same keys, none of which counts: the null of a network that has a token of its own for "nothing"."""
        return Tokens(self.keys, torch.zeros_like(self.weights))

    def where(self, rows: Tensor, other: Tokens) -> Tokens:
        """These tokens, with the boolean `rows` `(B,)` taken from `other`."""
        return Tokens(_rows(rows, self.keys, other.keys), _rows(rows, self.weights, other.weights))

    def cat(self, *others: Tokens) -> Tokens:
        """These and `others` as one batch."""
        every = (self, *others)
        return Tokens(torch.cat([t.keys for t in every]), torch.cat([t.weights for t in every]))


@dataclass(frozen=True)
class FeatureMaps:
    """Neighbors as features: maps `(B, K, …)`, of a network's own stages `(B, K, F F, C)` each, or of latents, and
    `weights` `(B, K)`, 0 for a neighbor that is not there."""

    maps: tuple[Tensor, ...]
    weights: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> FeatureMaps:
        """The same features elsewhere; the weights stay float32."""
        return FeatureMaps(tuple(m.to(device, dtype) for m in self.maps), self.weights.to(device))

    def absent(self) -> FeatureMaps:
        """The same features, none of which counts."""
        return FeatureMaps(self.maps, torch.zeros_like(self.weights))

    def where(self, rows: Tensor, other: FeatureMaps) -> FeatureMaps:
        """These features, with the boolean `rows` `(B,)` taken from `other`."""
        maps = tuple(_rows(rows, a, b) for a, b in zip(self.maps, other.maps, strict=True))
        return FeatureMaps(maps, _rows(rows, self.weights, other.weights))

    def cat(self, *others: FeatureMaps) -> FeatureMaps:
        """These and `others` as one batch."""
        every = (self, *others)
        maps = tuple(torch.cat(stage) for stage in zip(*(f.maps for f in every), strict=True))
        return FeatureMaps(maps, torch.cat([f.weights for f in every]))


@dataclass(frozen=True)
class Conditioning:
    """Named conditions of a batch and what each one's absence looks like; a null of None is the part itself with
    nothing that counts.

    `neighbors` and `text` may be dropped by guidance. `image` `(B, C, H, W)`, the low-resolution picture of a
    super-resolution stage or the latents of a picture to edit, and `level` `(B,)`, the timestep of the noise added to
    it, never are; neither is `pooled` `(B, P)`, a text as one vector, which whoever leaves out a text replaces too.
    """

    neighbors: Tokens | FeatureMaps
    neighbors_null: Tokens | FeatureMaps | None = None
    text: Tokens | None = None
    text_null: Tokens | None = None
    image: Tensor | None = None
    level: Tensor | None = None
    pooled: Tensor | None = None

    def without(self, *names: str, rows: Tensor | None = None) -> Conditioning:
        """The same conditioning with the named parts replaced by their nulls, in the boolean `rows` `(B,)` only where
        given.

        Raises: ValueError for a part it does not have.
        """
        there = ["neighbors", *(["text"] if self.text is not None else [])]
        unknown = set(names) - set(there)
        if unknown:
            raise ValueError(f"no condition called {', '.join(sorted(unknown))}; there is: {', '.join(there)}")
        changed = self
        for name in names:
            part, null = getattr(self, name), getattr(self, f"{name}_null")
            null = part.absent() if null is None else null
            changed = replace(changed, **{name: null if rows is None else part.where(rows, null)})
        return changed

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Several conditionings of the same parts as one batch."""
        first, rest = parts[0], parts[1:]

        def join(name: str) -> object:
            value = getattr(first, name)
            if value is None:
                return None
            others = [getattr(part, name) for part in rest]
            return torch.cat([value, *others]) if isinstance(value, Tensor) else value.cat(*others)

        names = ("neighbors", "neighbors_null", "text", "text_null", "image", "level", "pooled")
        return Conditioning(**{name: join(name) for name in names})  # type: ignore[arg-type]
