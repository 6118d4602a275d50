"""The network of a learned reranker, as it is trained; `knowledge.rerank.learned.Scorer` runs the same without
torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RerankerModel(nn.Module):
    """Facts `(n, N, f)`, raw embeddings of candidates `(n, N, dim)` and of queries `(n, dim)` -> scores `(n, N)`.

    It begins as the order of the search, and learns what to change: facts times `start` are added to what the hidden
    layer says, which is nothing at first. `shared`: the leading dimensions that texts and pictures share; `rank` 0
    leaves embeddings out.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, start: Tensor, dim: int, shared: int, rank: int, hidden: int) -> None:
        super().__init__()
        facts = len(start)
        self.register_buffer("mean", torch.zeros(facts))
        self.register_buffer("scale", torch.ones(facts))
        self.look = nn.Parameter(0.1 * torch.randn(dim, rank))
        self.match = nn.Parameter(0.1 * torch.randn(shared, rank))
        self.direct = nn.Parameter(start.clone())
        self.first, self.last = nn.Linear(facts + 2 * rank, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, facts: Tensor, candidates: Tensor, queries: Tensor, dropout: float = 0.0) -> Tensor:
        parts = [(facts - self.mean) / self.scale]
        if self.look.numel():
            shared = len(self.match)
            unit = F.normalize(candidates, dim=-1)
            product = unit[..., :shared] * F.normalize(queries, dim=-1)[:, None, :shared]
            parts += [F.dropout(part, dropout, self.training) for part in (unit @ self.look, product @ self.match)]
        hidden: Tensor = self.last(F.silu(self.first(torch.cat(parts, -1))))[..., 0]
        return parts[0] @ self.direct + hidden
