"""Symbols after a prompt, one at a time: the prompt is read once for all samples, and what each sample adds is kept
beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bowerbird.diffusion import discrete
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models.document_transformer import DocumentTransformer, KeyValues
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.layout import Layout, Passage

Branch = tuple[Passage, float]
"""A prompt and its weight in the guided log-probabilities; the weights of all sum to 1."""


def guided(pairs: Sequence[Passage], scales: Sequence[float]) -> list[Branch]:
    """Classifier-free guidance as weights: from the last prompt, which says least, `scales[i]` times the way to the one
    before it, and so on. Weight 0 costs nothing: such a prompt is left out."""
    weights = [0.0] * len(pairs)
    for i, scale in enumerate(scales):  # scales[0] is of the step from prompt 1 to prompt 0
        weights[i] += scale
        weights[i + 1] -= scale
    weights[-1] += 1.0
    return [(passage, weight) for passage, weight in zip(pairs, weights, strict=True) if weight]


def choose(logits: Tensor, generators: Sequence[torch.Generator], how: TokenSampling) -> Tensor:
    """One symbol a row `(n,)` of `(n, S)`; row i is drawn from generator i."""
    return discrete.sample(how.distribution(logits)[:, None], generators)[:, 0]


@torch.no_grad()
def read(
    decoder: DocumentTransformer, layout: Layout, passage: Passage, next_place: int, seen: KeyValues | None = None
) -> tuple[KeyValues, Tensor]:
    """Read a prompt after what was `seen`: its keys and values, and the logits `(1, S)` of the symbol after it, which
    will be at `next_place`."""
    tokens, places = (np.append(part, last) for part, last in ((passage.tokens, layout.end), (passage.places, 0)))
    places[-1] = next_place
    arrays = (passage.tokens, passage.places, lay.following(layout, tokens, places)[:-1], passage.documents)
    inputs = [torch.from_numpy(np.ascontiguousarray(part))[None].to(decoder.device) for part in arrays]
    state = decoder.empty(1, len(passage), seen)
    features = decoder(*inputs, state)
    return state, decoder.logits(features[:, -1])


@torch.no_grad()
def fill(
    decoder: DocumentTransformer,
    layout: Layout,
    branches: Sequence[Branch],
    places: Sequence[int],
    generators: Sequence[torch.Generator],
    how: TokenSampling,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """The codes in the cells at these `places`, in this order, after the prompts: `(n, len(places))`, a row a
    generator."""
    rows, first = len(generators), layout.text_tokens
    states = []
    logits = []
    for passage, _ in branches:
        seen, said = read(decoder, layout, passage, places[0])
        states.append(decoder.empty(rows, len(places), seen))
        logits.append(said.expand(rows, -1))
    found = []
    for number, place in enumerate(places):
        only = [each[:, first : first + layout.image_tokens].float().log_softmax(-1) for each in logits]
        total = torch.stack([weight * each for (_, weight), each in zip(branches, only, strict=True)]).sum(0)
        codes = choose(total, generators, how)
        found.append(codes)
        if on_step is not None:
            on_step(number)
        if number + 1 == len(places):
            break
        inputs = [codes[:, None] + first]
        inputs += [torch.full_like(inputs[0], value) for value in (place, places[number + 1], 0)]
        logits = [decoder.logits(decoder(*inputs, state)[:, -1]) for state in states]
    return torch.stack(found, 1)


@torch.no_grad()
def write(
    decoder: DocumentTransformer,
    layout: Layout,
    prompt: Passage,
    generators: Sequence[torch.Generator],
    how: TokenSampling,
) -> tuple[list[list[int]], list[float]]:
    """A caption a generator after a prompt that ends with `infill`, as tokens, each with its log-likelihood in nats a
    token."""
    rows, ended = len(generators), torch.zeros(len(generators), dtype=torch.bool, device=decoder.device)
    seen, said = read(decoder, layout, prompt, 1)
    state, logits = decoder.empty(rows, layout.text_length + 1, seen), said.expand(rows, -1)
    likelihood, count = torch.zeros(rows, device=decoder.device), torch.zeros(rows, device=decoder.device)
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
        logits = decoder.logits(decoder(*inputs, state)[:, -1])
    tokens = torch.stack(found, 1).tolist()
    return [[t for t in row if t != layout.end] for row in tokens], (likelihood / count).tolist()
