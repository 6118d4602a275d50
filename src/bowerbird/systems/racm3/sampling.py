"""Symbols that are drawn one by one: codes of a picture, and words of a caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bowerbird.diffusion import discrete
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.document_transformer import DocumentTransformer
from bowerbird.systems.racm3.decoding import Decoder, Prompt, condition, read
from bowerbird.systems.racm3.layout import Layout, Passage


def choose(logits: Tensor, generators: Sequence[torch.Generator], how: TokenSampling) -> Tensor:
    """One symbol a row `(n,)` of `(n, S)`; row i is drawn from generator i."""
    return discrete.sample(how.distribution(logits)[:, None], generators)[:, 0]


@torch.no_grad()
def fill(
    network: DocumentTransformer,
    layout: Layout,
    prompts: Sequence[Prompt],
    generators: Sequence[torch.Generator],
    how: TokenSampling,
) -> Tensor:
    """The codes that follow each of n prompts, which generate the same places, without guidance, `(n, places)`."""
    decoder, given = Decoder(network, layout, prompts), condition(prompts, network.device)
    codes = torch.empty(len(prompts), 0, dtype=torch.long, device=network.device)
    for step in range(len(decoder.places)):
        codes = torch.cat([codes, choose(decoder(codes, step, given), generators, how)[:, None]], 1)
    return codes


@torch.no_grad()
def write(
    network: DocumentTransformer,
    layout: Layout,
    prompt: Passage,
    generators: Sequence[torch.Generator],
    how: TokenSampling,
) -> tuple[list[list[int]], list[float]]:
    """A caption a generator after a prompt that ends with `infill`, as tokens, each with its log-likelihood in nats a
    token."""
    rows, ended = len(generators), torch.zeros(len(generators), dtype=torch.bool, device=network.device)
    seen, said = read(network, layout, prompt, 1)
    state, logits = (
        network.empty(rows, layout.text_length + 1, (seen.prefix(range(rows), rows),)),
        said.expand(rows, -1),
    )
    likelihood, count = torch.zeros(rows, device=network.device), torch.zeros(rows, device=network.device)
    found = []
    for place in range(1, layout.text_length + 1):
        chances = logits[:, : layout.text_tokens].float().clone()
        chances[:, layout.doc] = -torch.inf
        chances = chances.log_softmax(-1)
        chosen = torch.where(ended, layout.end, choose(chances, generators, how))
        likelihood += torch.where(ended, 0.0, chances.gather(1, chosen[:, None])[:, 0])
        count += (~ended).float()
        ended = ended | (chosen == layout.end)
        found.append(chosen)
        if bool(ended.all()):
            break
        inputs = [chosen[:, None]]
        inputs += [torch.full_like(inputs[0], value) for value in (place, place + 1, 0)]
        logits = network.logits(network(*inputs, state)[:, -1])
    tokens = torch.stack(found, 1).tolist()
    return [[t for t in row if t != layout.end] for row in tokens], (likelihood / count).tolist()
