"""Which tokens a model that predicts them one by one draws from: temperature, top-k, top-p and min-p.

Guidance acts on the logits before, as in the released RARM (arXiv 2204.11824): top-k of each part would leave guidance
tokens that the other rules out.
Source: top-p, arXiv 1904.09751; min-p, arXiv 2407.01082.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.diffusion import discrete

MOST_TEMPERATURE = 100.0
GREEDY = 1e-6
"""Below this temperature only the likeliest is ever drawn, and logits divided by it would overflow."""
MOST_SYMBOLS = 1_000_000


@dataclass(frozen=True)
class TokenSampling:
    """How a token is drawn: logits divided by `temperature` (0: the likeliest), then of the `top_k` likeliest (0: all),
    of the likeliest that together have probability `top_p`, of those at least `min_p` times as likely as the likeliest.

    Raises: BowerbirdError for values outside their range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (f"from 0 to {MOST_TEMPERATURE:g}", 0 <= self.temperature <= MOST_TEMPERATURE),
            "top_k": (
                f"a whole number from 0 (all symbols) to {MOST_SYMBOLS}",
                0 <= self.top_k <= MOST_SYMBOLS and self.top_k == int(self.top_k),
            ),
            "top_p": ("above 0 and at most 1", 0 < self.top_p <= 1),
            "min_p": ("from 0 to 1", 0 <= self.min_p <= 1),
        }
        for name, (span, fits) in ranges.items():
            if not fits:
                raise BowerbirdError(f"`{name}` is {span}; got {getattr(self, name):g}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest is taken, whatever else is set."""
        return self.temperature < GREEDY

    def distribution(self, logits: Tensor) -> Tensor:
        """Logits `(…, S)` -> log-probabilities that are drawn from, -inf for what never is. Raises: BowerbirdError for
        logits that are no numbers, of which a picture would still be made."""
        logits = logits.float()
        if logits.isnan().any():
            raise BowerbirdError(tensors.NOT_FINITE)
        if self.greedy:
            never = torch.full_like(logits, -torch.inf)
            return never.scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        said = (logits / self.temperature).log_softmax(-1)
        if 0 < self.top_k < said.shape[-1]:
            ordered, index = said.topk(self.top_k, dim=-1)
            said = torch.full_like(said, -torch.inf).scatter(-1, index, ordered).log_softmax(-1)
        said = discrete.truncated(said, self.top_p)
        if self.min_p:
            least = said.amax(-1, keepdim=True) + torch.tensor(self.min_p).log()
            said = said.masked_fill(said < least, -torch.inf).log_softmax(-1)
        return said
