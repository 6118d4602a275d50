"""The network as guidance calls it: what comes next in each row, given its documents or not, its text or not.

Every prompt is read once, whatever number of samples follow it, and a row's own codes are read once too, all rows'
together, whatever their prompts are. A row is always computed beside as many others, whichever those are, so that its
bits never depend on its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models.document_transformer import DocumentTransformer, KeyValues, Prefix
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.layout import Layout, Passage

Parts = tuple[bool, bool]
"""Whether a prompt has its documents, and its text."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a picture is generated after: `documents`, and the tokens of a `text` (none: it is masked). With a `hole`
    boolean `(N,)`, the codes outside of it are those of `codes` `(N,)`, and only its cells are generated."""

    documents: tuple[Passage, ...]
    text: np.ndarray
    codes: np.ndarray | None = None
    hole: np.ndarray | None = None

    def passage(self, layout: Layout, parts: Parts = (True, True)) -> Passage:
        """The sequence, with those of its parts."""
        text = self.text if parts[1] and len(self.text) else None
        if self.hole is None or self.codes is None:
            last = lay.opening(layout, text)
        else:
            last = lay.before_hole(layout, self.codes, text, self.hole)
        return lay.join([*(self.documents if parts[0] else ()), last])

    def places(self, layout: Layout) -> list[int]:
        """The places that are generated, in order."""
        cells = np.arange(layout.cells) if self.hole is None else np.flatnonzero(self.hole)
        return [layout.grid + int(cell) for cell in cells]

    def same_as(self, other: Prompt) -> bool:
        """Whether both are the same sequence."""
        mine, theirs = ([*each.documents] for each in (self, other))
        pairs = [(self.text, other.text), (self.codes, other.codes), (self.hole, other.hole)]
        return len(mine) == len(theirs) and all(
            a is b or (a is not None and b is not None and np.array_equal(a, b))
            for a, b in [*pairs, *((x.tokens, y.tokens) for x, y in zip(mine, theirs, strict=True))]
        )


@dataclass(frozen=True)
class PromptConditioning(Conditioning):
    """The `prompts` of n rows, and by weights alone which of them have documents and a text: what guidance drops."""

    prompts: tuple[Prompt, ...] = ()


def condition(prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> PromptConditioning:
    """What a picture is generated under after each prompt; weights are 0 where there are no documents or no text."""
    keys = torch.zeros(len(prompts), 1, 1, device=device)
    documents = torch.tensor([[float(bool(prompt.documents))] for prompt in prompts], device=device)
    texts = torch.tensor([[float(len(prompt.text) > 0)] for prompt in prompts], device=device)
    return PromptConditioning(Tokens(keys, documents), text=Tokens(keys, texts), prompts=tuple(prompts))


@dataclass
class _State:
    """What was read in the rows, how many codes of it, and what comes next `(B, codes)`."""

    seen: KeyValues
    logits: Tensor
    read: int = 0


@dataclass
class Decoder:
    """The logits of the next code in each row, `(n, codes)`, from the codes so far `(n, t)`; a `guidance.Predict`. From
    call to call codes are added, none is changed."""

    network: DocumentTransformer
    layout: Layout
    prompts: Sequence[Prompt]
    states: dict[tuple[Parts, ...], _State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = self.prompts[0].places(self.layout)
        self.groups: dict[int, list[int]] = {}  # the rows that have a prompt in common, by the first of them
        for row, prompt in enumerate(self.prompts):
            first = next((i for i in self.groups if self.prompts[i].same_as(prompt)), row)
            self.groups.setdefault(first, []).append(row)
        self._read: dict[tuple[int, Parts], tuple[KeyValues, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep: Tensor | int, conditioning: Conditioning) -> Tensor:
        """One pass. `sample` may hold the rows several times over, as guidance asks for them."""
        assert isinstance(conditioning.neighbors, Tokens)
        assert conditioning.text is not None
        count = len(self.prompts)
        weights = torch.cat([conditioning.neighbors.weights, conditioning.text.weights], 1).cpu() > 0
        made: list[Tensor] = []
        for row, (documents, text) in enumerate(weights.tolist()):
            prompt = self.prompts[row % count]  # what it does not have is as good as kept: then rows share a pass
            parts = (documents or not prompt.documents, text or not len(prompt.text))
            state = self._state(parts, sample[:count])
            made.append(state.logits[row % count])
        return torch.stack(made)

    def _state(self, parts: Parts, sample: Tensor) -> _State:
        """The state of all rows with these `parts` of their prompts, once all codes of `sample` are read."""
        own: dict[int, Parts] = {}
        for first in self.groups:
            prompt = self.prompts[first]
            own[first] = (parts[0] and bool(prompt.documents), parts[1] and len(prompt.text) > 0)
        key = tuple(own.values())
        if key not in self.states:
            self.states[key] = self._begin(own)
        state = self.states[key]
        while state.read < sample.shape[1]:  # one at a time: a catch-up in one pass would round otherwise
            at = state.read
            codes = sample[:, at, None]
            ahead = self.places[at + 1]
            inputs = [codes + self.layout.text_tokens]
            inputs += [torch.full_like(codes, value) for value in (self.places[at], ahead, 0)]
            state.logits = self._codes(self.network.logits(self.network(*inputs, state.seen)[:, -1]))
            state.read += 1
        return state

    def _begin(self, own: dict[int, Parts]) -> _State:
        """The state before the first code, with the parts that each group's prompt has."""
        count = len(self.prompts)
        prefixes: list[Prefix] = []
        said = torch.empty(count, self.layout.image_tokens, device=self.network.device)
        for (first, parts), rows in zip(own.items(), self.groups.values(), strict=True):
            if (first, parts) not in self._read:
                passage = self.prompts[first].passage(self.layout, parts)
                self._read[first, parts] = read(self.network, self.layout, passage, self.places[0])
            seen, logits = self._read[first, parts]
            prefixes.append(seen.prefix(rows, count))
            said[rows] = self._codes(logits)
        return _State(self.network.empty(count, len(self.places), tuple(prefixes)), said)

    def _codes(self, logits: Tensor) -> Tensor:
        """Of all symbols those that a picture is made of."""
        first = self.layout.text_tokens
        return logits[:, first : first + self.layout.image_tokens].float()


@torch.no_grad()
def read(network: DocumentTransformer, layout: Layout, passage: Passage, next_place: int) -> tuple[KeyValues, Tensor]:
    """Read a prompt: its keys and values, and the logits `(1, S)` of the symbol after it, which will be at
    `next_place`."""
    tokens, places = np.append(passage.tokens, layout.end), np.append(passage.places, next_place)
    arrays = (passage.tokens, passage.places, lay.following(layout, tokens, places)[:-1], passage.documents)
    inputs = [torch.from_numpy(np.ascontiguousarray(part))[None].to(network.device) for part in arrays]
    state = network.empty(1, len(passage))
    features = network(*inputs, state)
    return state, network.logits(features[:, -1])
