"""Two prompts in one pass of a U-Net that share attention: what Prompt-to-Prompt (arXiv 2208.01626) does, so that their
pictures differ in what the prompts differ in.

Rows come in pairs, the first and its edit one after the other; with guidance, those without text stand before those
with it, as diffusers lays a batch out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from bowerbird.core.errors import BowerbirdError

SELF, CROSS, BOTH = "self", "cross", "both"
KINDS = (SELF, CROSS, BOTH)
"""Which attention is shared: that among places, as InstructPix2Pix's authors do it; that to the words, as
Prompt-to-Prompt does, where both prompts have the word; or both."""


@dataclass
class Sharing:
    """A switch: whether the second of each pair attends as the first does."""

    active: bool = False


@contextmanager
def shared_attention(unet: Any, kind: str, columns: Sequence[tuple[int, int]] = ()) -> Iterator[Sharing]:
    """A block in which the returned switch makes the rows of `unet` share attention; afterwards it is as it was.

    `columns`: for the attention to words, the tokens of the first prompt and those of the second that are the same
    words (`same_words`). Raises: BowerbirdError when the network has no attention of the kind.
    """
    from diffusers.models.attention_processor import Attention

    if kind not in KINDS:
        raise BowerbirdError(f"`attention` {kind!r} is not known; choose one of {', '.join(KINDS)}")
    layers = [each for each in unet.modules() if isinstance(each, Attention)]
    places = [each for each in layers if not each.is_cross_attention and kind in (SELF, BOTH)]
    words = [each for each in layers if each.is_cross_attention and kind in (CROSS, BOTH)]
    if not places and not words:
        raise BowerbirdError(f"this U-Net has no {kind}-attention, so nothing can be shared")
    switch = Sharing()

    def as_the_first(module: Any, args: Any, output: Tensor) -> Tensor | None:
        """The first row's queries and keys for both: its map, over each row's own values."""
        if not switch.active:
            return None
        shared = output.clone()
        shared[1::2] = shared[0::2]
        return shared

    hooks = [part.register_forward_hook(as_the_first) for layer in places for part in (layer.to_q, layer.to_k)]
    before = [(layer, layer.processor) for layer in words]
    for layer, processor in before:
        layer.set_processor(_SharedWords(switch, processor, columns))
    try:
        yield switch
    finally:
        for hook in hooks:
            hook.remove()
        for layer, processor in before:
            layer.set_processor(processor)


class _SharedWords:
    """An attention processor that gives the second row of a pair the first one's attention to the words that both
    prompts have. Source: Prompt-to-Prompt, section 3.2, "adding a new phrase"."""

    def __init__(self, switch: Sharing, plain: Any, columns: Sequence[tuple[int, int]]) -> None:
        self.switch, self.plain, self.columns = switch, plain, columns

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if not self.switch.active or encoder_hidden_states is None or not self.columns:
            made: Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
            return made
        text = encoder_hidden_states
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        query, key, value = (
            attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
        probabilities = attn.get_attention_scores(query, key, mask).unflatten(0, (len(text), -1)).clone()
        pair = probabilities[-2:]  # with guidance the rows without text stand before, and have no words to share
        first, second = (torch.tensor(each, device=pair.device) for each in zip(*self.columns, strict=True))
        pair[1][..., second] = pair[0][..., first]
        mixed = attn.batch_to_head_dim(torch.bmm(probabilities.flatten(0, 1), value))
        for part in attn.to_out:
            mixed = part(mixed)
        scaled: Tensor = mixed / attn.rescale_output_factor
        return scaled


def same_words(tokenizer: Any, original: str, edited: str) -> list[tuple[int, int]]:
    """The positions (in the first, in the second) of tokens that two prompts have in the same order, padding too."""
    first, second = (
        tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        for text in (original, edited)
    )
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
