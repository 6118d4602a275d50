"""FLUX.1 Redux: each picture as tokens behind those of the prompt.

diffusers' own pipeline adds the tokens of several pictures up, and scales text and picture alike (diffusers#11642).
Here they stand one after the other, each picture's times its weight, and squares of them can be averaged: 729 tokens
drown a prompt of 512.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems.grounded.adapter_file import LAST, AdapterFacts, EncoderNeed
from bowerbird.systems.grounded.bases import FLUX, BaseFacts
from bowerbird.systems.grounded.injectors.ip_adapter import batch_embeddings
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, InjectorCapabilities, Task


class Redux(Injector):
    """The two linear layers of FLUX.1-Redux-dev, and what is done with their tokens."""

    kind: ClassVar[str] = "redux"

    def __init__(self, base: Any, facts: AdapterFacts | None = None) -> None:
        super().__init__(base, facts)
        assert facts is not None
        from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

        with torch.random.fork_rng(devices=[]):  # modules draw their first weights from torch's own generator
            network = ReduxImageEncoder(facts.encoder.dim, facts.base.context_dim)
        network.load_state_dict(facts.read(""))
        self.network = network.eval().requires_grad_(False)

    @staticmethod
    def recognize(tensors: Mapping[str, Stored]) -> AdapterFacts | None:
        """The layers `redux_up` and `redux_down`."""
        up, down = tensors.get("redux_up.weight"), tensors.get("redux_down.weight")
        if up is None or down is None:
            return None
        base, need = BaseFacts("", FLUX, down.shape[0], ()), EncoderNeed(LAST, up.shape[1])
        return AdapterFacts(up.file, Redux.kind, "FLUX.1 Redux", base, 729, need, tensors)

    @property
    def capabilities(self) -> InjectorCapabilities:
        """Any number of references, each with its weight, in every step."""
        return InjectorCapabilities(takes="tokens", pool=True, mixed_batches=True)

    @contextmanager
    def inject(self, task: Task) -> Iterator[Injection]:
        """A block with the prompt's tokens, and the references' behind them. The base stays as it is."""
        base = self.base
        device = base._execution_device
        with torch.no_grad():
            text, pooled, _ = base.encode_prompt(prompt=list(task.prompts), prompt_2=None, device=device)
            network = torch.nn.Module.to(self.network, device, text.dtype)  # diffusers warns at its own
            made = network(batch_embeddings(task.references).to(device, text.dtype)).image_embeds
        tokens = pool_tokens(made, task.settings.pool)
        weights = torch.tensor([[each.weight for each in row] for row in task.references]).to(tokens)
        own = (tokens * (weights * task.settings.scale)[..., None, None]).flatten(1, 2)
        yield Injection({"prompt": None, "prompt_embeds": torch.cat([text, own], 1), "pooled_prompt_embeds": pooled})


def pool_tokens(tokens: Tensor, edge: int) -> Tensor:
    """Tokens of a square grid `(B, K, n * n, dim)`, the mean of every `edge` x `edge` of them. Raises: BowerbirdError
    when the grid does not divide."""
    side = round(tokens.shape[2] ** 0.5)
    if edge == 1:
        return tokens
    if side * side != tokens.shape[2] or side % edge:
        raise BowerbirdError(f"`pool={edge}` does not divide the {side} x {side} tokens of a picture; choose 1, 3 or 9")
    batch, count, _, dim = tokens.shape
    grid = tokens.reshape(batch * count, side, side, dim).movedim(-1, 1)
    pooled: Tensor = functional.avg_pool2d(grid, edge).flatten(2).movedim(1, 2)
    return pooled.reshape(batch, count, -1, dim)
