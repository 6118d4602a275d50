"""Discrete diffusion by mask and replace: symbols are masked, a few are replaced by others, and a network says what
they were.

Pure functions over one schedule. Symbols are 0..K-1, the mask is K. A symbol stays itself with probability `keep`,
becomes any of the K alike (itself too) with probability `replace` in all, or the mask, which never changes again; at
the last time everything is masked. Times run from 0 (clean) to T. Any time s < t can follow t, which is how sampling
skips steps.

Source: VQ-Diffusion, arXiv 2111.14822, equations 5 to 9; D3PM, arXiv 2107.03006, section 3.
Differs from the paper: its chain ends with 90% masks and 10% random symbols; ours ends with masks alone, from which
sampling starts; and the network need not say what Bayes' rule does (`informed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-30


@dataclass(frozen=True)
class MaskAndReplace:
    """K symbols, T times, and the share of the unmasked symbols that are replaced at T; the masked share grows evenly
    from 0 to 1."""

    symbols: int
    times: int = 100
    replaced: float = 0.1

    def rates(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(keep, replace, mask) of q(x_t | x_s) for times s <= t, each of their shape; they sum to 1."""
        (kept_s, shown_s), (kept_t, shown_t) = self._cumulative(s), self._cumulative(t)
        shown = torch.where(shown_s > 0, shown_t / shown_s.clamp(min=TINY), torch.zeros_like(shown_t))
        keep = torch.where(kept_s > 0, kept_t / kept_s.clamp(min=TINY), torch.zeros_like(kept_t))
        return keep, (shown - keep).clamp(min=0), 1 - shown

    def _cumulative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities at time t that a symbol was never touched, and that it is not masked."""
        at = t.cpu().double() / self.times  # not every device has float64
        return (1 - at) * (1 - self.replaced * at), 1 - at

    def matrix(self, s: int, t: int) -> Tensor:
        """q(x_t | x_s) as a matrix, rows x_s, columns x_t, `(K + 1, K + 1)`; every row sums to 1."""
        keep, replace, mask = (float(r) for r in self.rates(torch.tensor(s), torch.tensor(t)))
        k = self.symbols
        made = torch.zeros(k + 1, k + 1, dtype=torch.float64)
        made[:k, :k] = replace / k
        made[:k, :k] += keep * torch.eye(k, dtype=torch.float64)
        made[:k, k], made[k, k] = mask, 1.0
        return made


def _per_row(value: Tensor, like: Tensor) -> Tensor:
    """`value` `(B,)` in the form in which it meets `like` `(B, …)`."""
    return value.float().to(like.device).view(-1, *[1] * (like.ndim - 1))


def corrupt(schedule: MaskAndReplace, tokens: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """x_t ~ q(x_t | x_0) for symbols x_0 `(B, N)` and times `(B,)`."""
    keep, replace, _ = (_per_row(r, tokens) for r in schedule.rates(torch.zeros_like(t), t))
    luck = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    other = torch.randint(schedule.symbols, tokens.shape, generator=generator).to(tokens.device)
    return torch.where(
        luck < keep, tokens, torch.where(luck < keep + replace, other, torch.full_like(tokens, schedule.symbols))
    )


def likelihood(schedule: MaskAndReplace, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """q(x_t | x_s = j) for the K symbols and the mask j, `(B, N, K + 1)`, at the observed x_t `(B, N)`."""
    keep, replace, mask = (_per_row(r, x_t) for r in schedule.rates(s, t))
    masked = (x_t == schedule.symbols)[..., None]
    same = F.one_hot(x_t, schedule.symbols + 1).float()
    symbols = torch.where(masked, mask[..., None], keep[..., None] * same + replace[..., None] / schedule.symbols)
    last = masked.float()  # a mask stays a mask, and nothing else came from one
    return torch.cat([symbols[..., :-1], last], -1)


def informed(schedule: MaskAndReplace, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """log p(x_0 | x_t) `(B, N, K)`: the network's logits, which speak from all the other places, times how likely each
    x_0 is seen as x_t is.

    Bayes' rule knows what a network would have to learn: that a symbol in sight is itself, and more surely so the
    earlier it is.
    Source: ours; D3PM, arXiv 2107.03006, has a skip connection from x_t to the same end.
    """
    seen = likelihood(schedule, x_t, torch.zeros_like(t), t)[..., :-1]
    return (logits.float() + seen.clamp(min=TINY).log()).log_softmax(-1)


def posterior(schedule: MaskAndReplace, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """log p(x_s | x_t) = log sum_i q(x_s | x_t, x_0 = i) p(x_0 = i), exactly, `(B, N, K + 1)`.

    `x_0`: log-probabilities `(B, N, K)`; `x_t` `(B, N)`; times s < t `(B,)`. With all of x_0 on one symbol it is the
    true posterior.
    """
    zero = torch.zeros_like(s)
    seen = likelihood(schedule, x_t, zero, t)[..., :-1]
    weight = torch.where(seen > 0, x_0.float().exp() / seen.clamp(min=TINY), torch.zeros_like(seen))
    keep, replace, mask = (_per_row(r, x_t) for r in schedule.rates(zero, s))
    total = weight.sum(-1, keepdim=True)
    before = torch.cat(
        [keep[..., None] * weight + replace[..., None] / schedule.symbols * total, mask[..., None] * total], -1
    )
    found = likelihood(schedule, x_t, s, t) * before
    # a network that rules out every way to x_t (after truncation, say) leaves it as it is
    found = torch.where(found.sum(-1, keepdim=True) > 0, found, F.one_hot(x_t, schedule.symbols + 1).float())
    return (found / found.sum(-1, keepdim=True)).clamp(min=TINY).log()


def divergence(schedule: MaskAndReplace, x_0: Tensor, tokens: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """A term of the variational bound at each place, in nats `(B, N)`: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t));
    at t = 1 it is -log p(x_0 | x_1).

    `x_0`: the network's log-probabilities `(B, N, K)`; `tokens`: the truth `(B, N)`. Source: arXiv 2111.14822,
    equation 7.
    """
    truth = F.one_hot(tokens, schedule.symbols).float().clamp(min=TINY).log()
    right, said = (posterior(schedule, each, x_t, t - 1, t) for each in (truth, x_0))
    return (right.exp() * (right - said)).sum(-1)


def normalized(log_probabilities: Tensor) -> Tensor:
    """Combined log-probabilities `(…, S)` as those of a distribution again: what guidance in log space leaves. Source:
    arXiv 2204.02849, section 3.2."""
    return log_probabilities.log_softmax(-1)


def truncated(log_probabilities: Tensor, share: float) -> Tensor:
    """Only the likeliest symbols that together have probability `share`, renormalized; 1 = all. Source: arXiv
    2111.14822, section 4.2."""
    if share >= 1:
        return log_probabilities
    ordered, index = log_probabilities.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = ordered.masked_fill(before >= share, -torch.inf)
    return torch.empty_like(kept).scatter_(-1, index, kept).log_softmax(-1)


def sample(log_probabilities: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One symbol a place `(B, N)` from `(B, N, S)`; row i is drawn from generator i."""
    luck = (
        torch.stack([torch.rand(log_probabilities.shape[1:], generator=g) for g in generators])
        .clamp(min=TINY)
        .to(log_probabilities.device)
    )
    return (log_probabilities - (-luck.log()).log()).argmax(-1)


def times(schedule: MaskAndReplace, steps: int) -> list[tuple[int, int]]:
    """The pairs (t, s) that `steps` steps walk from T to 0, evenly; at most T of them."""
    steps = min(steps, schedule.times)
    marks = [round(schedule.times * (steps - i) / steps) for i in range(steps + 1)]
    return [(marks[i], marks[i + 1]) for i in range(steps)]
