"""StructureDiffusion (arXiv 2212.05032): each phrase of a prompt is encoded for itself, so that its attributes stay
with its noun, and cross-attention reads values in which the phrases stand at their places.

The mean of attention over several value sequences is attention over their mean, as values are a linear map of the text:
so the main form costs one attention, as before, and any batch, sampler and processor will do (IP-Adapter, xformers,
LoRA). Networks are changed by hooks alone, for the length of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.systems.phrases.grammar import tokens
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase
from bowerbird.systems.phrases.token_spans import token_offsets, token_spans
from bowerbird.systems.reference_settings import CONJUNCTION, FORMS, MEAN

if TYPE_CHECKING:
    from torch import Tensor

SAME = 0.02
"""Two encodings of a prompt are one where they differ by less than this share of their length: in other batches, and
in half precision, the last bits are others."""


@dataclass(frozen=True, eq=False)
class _Changes:
    """What the sequences of one prompt are beside its own encoding `prompt` `(L, d)`, as differences: `keys`, one
    `(L, d)` a phrase, none in the main form; `values` `(L, d)`."""

    prompt: Tensor
    keys: tuple[Tensor, ...]
    values: Tensor


@dataclass(frozen=True, eq=False)
class _Plan:
    """For a batch `text` `(N, L, d)`: the `values` in its place, and `keys` with their `weights` `(N,)`, those of the
    text itself being `own`."""

    text: Tensor
    values: Tensor
    own: Tensor
    keys: tuple[tuple[Tensor, Tensor], ...]


@contextmanager
def structured(
    base: Any, prompts: Sequence[ParsedPrompt], *, form: str = MEAN, clip_skip: int | None = None
) -> Iterator[None]:
    """A block in which `base`, a pipeline of the SD family or a `ReferencePipeline` around one, reads these prompts by
    their phrases, wherever they are in a batch; other texts, such as those of guidance, as before. Phrases of one word
    change nothing.

    `clip_skip`: as the pipeline is called with. Raises: BowerbirdError for a base whose attention is of another kind, a
    phrase that begins within a word, or a block in which none of the prompts was read.
    """
    if form not in FORMS:
        raise BowerbirdError(f"structure {form!r} is not known; choose one of {', '.join(FORMS)}")
    base = getattr(base, "base", base)  # of a `ReferencePipeline`
    attentions = cross_attentions(base)
    changes = [_changes(base, prompt, form, clip_skip) for prompt in prompts]
    there = [each for each in changes if each is not None]
    if not there:
        yield
        return
    reader = _Reader(there)
    handles = [handle for attention in attentions for handle in reader.enter(attention)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not reader.used:
        raise BowerbirdError(
            "the pipeline read none of the prompts whose phrases were given; call it with the same prompts, without"
            " brackets, and give the same clip_skip"
        )


def why_not(base: Any) -> str | None:
    """Why phrases cannot be read by `base`, None where they can."""
    from diffusers import UNet2DConditionModel

    name, unet = type(base).__name__, getattr(base, "unet", None)
    if unet is None and getattr(base, "transformer", None) is not None:
        return (
            f"{with_article(name)} attends to text and picture together, and has no values of the text alone that"
            " phrases could be put into; structure is for Stable Diffusion 1, 2 and XL"
        )
    if not isinstance(unet, UNet2DConditionModel) or not hasattr(base, "encode_prompt"):
        return f"{with_article(name)} is not of the SD family; structure is for Stable Diffusion 1, 2 and XL"
    if getattr(base, "tokenizer", None) is None and getattr(base, "tokenizer_2", None) is None:
        return f"this {name} has no text encoder, and a phrase has to be encoded; load it with its own"
    if unet.config.encoder_hid_dim_type not in (None, "ip_image_proj"):
        return f"this {name} maps the text before attention reads it; structure is for Stable Diffusion 1, 2 and XL"
    return None


def cross_attentions(base: Any) -> list[Any]:
    """The layers of `base` that read text. Raises: BowerbirdError where phrases cannot be put into them."""
    from diffusers.models.attention_processor import Attention

    if (reason := why_not(base)) is not None:
        raise BowerbirdError(reason)
    found = [m for m in base.unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    if not found or any(m.norm_cross or m.added_kv_proj_dim is not None for m in found):
        raise BowerbirdError(f"this {type(base).__name__} reads text in a way of its own; leave structure out")
    # `fused_projections` stays True when diffusers takes them apart again
    if any(type(m.processor).__name__.startswith("Fused") for m in found):
        raise BowerbirdError(
            f"keys and values of this {type(base).__name__} are fused; call unfuse_qkv_projections() first"
        )
    return found


def phrase_spans(tokenizer: Any, prompt: ParsedPrompt) -> list[tuple[Phrase, int, int]]:
    """The phrases of several words with their tokens `[first, last)`, without those beyond the longest text.

    Raises: BowerbirdError for a phrase that begins or ends within a word, so that its tokens are others.
    """
    several = [p for p in prompt.phrases if sum(bool(token.word) for token in tokens(p.text)) > 1]
    spans = token_spans(tokenizer, prompt.text, [(p.start, p.end) for p in several])
    whole = _ids(tokenizer, prompt.text)
    found: list[tuple[Phrase, int, int]] = []
    for phrase, (first, last) in zip(several, spans, strict=True):
        if last <= first:
            continue
        own, begin = _ids(tokenizer, phrase.text), _first(tokenizer, phrase.text)
        if own[begin : begin + last - first] != whole[first:last]:
            raise BowerbirdError(
                f"the phrase {phrase.text!r} begins or ends within a word of the prompt; mark whole words"
            )
        found.append((phrase, first, last))
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)["input_ids"])


def _first(tokenizer: Any, text: str) -> int:
    """The first token of a text that is no special one."""
    return next(at for at, place in enumerate(token_offsets(tokenizer, text)) if place != (0, 0))


def _changes(base: Any, prompt: ParsedPrompt, form: str, clip_skip: int | None) -> _Changes | None:
    """The sequences of a prompt: the paper's, each phrase's own encoding at the phrase's tokens (section 3.2)."""
    import torch

    tokenizer = base.tokenizer if getattr(base, "tokenizer", None) is not None else base.tokenizer_2
    spans = phrase_spans(tokenizer, prompt)
    if not spans:
        return None
    texts = [prompt.text, *(phrase.text for phrase, _, _ in spans)]
    if hasattr(base, "maybe_convert_prompt") and base.maybe_convert_prompt(texts, tokenizer) != texts:
        raise BowerbirdError(
            "a word of the prompt is a learned one of several tokens (textual inversion), which moves the others;"
            " leave it or structure out"
        )
    with torch.no_grad():
        own, *others = base.encode_prompt(
            texts,
            device=base._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip,
        )[0]
    aligned, pasted = [], own.clone()
    for (phrase, first, last), alone in zip(spans, others, strict=True):
        begin = _first(tokenizer, phrase.text)
        sequence = own.clone()
        for into in (sequence, pasted):
            into[first:last] = alone[begin : begin + last - first]
        aligned.append(sequence - own)
    if form == CONJUNCTION:
        return _Changes(own, tuple(aligned), pasted - own)
    return _Changes(own, (), torch.stack(aligned).sum(0) / (len(aligned) + 1))


@dataclass(eq=False)
class _Reader:
    """What the hooks share: the prompts' changes, and what they make of the text that came last."""

    changes: Sequence[_Changes]
    used: bool = False
    plan: _Plan | None = None
    read: Any = None
    values: Tensor | None = field(default=None, repr=False)

    def enter(self, attention: Any) -> list[Any]:
        """Put the hooks into a layer: before it the text is looked at, its values are put in the place of its text, and
        after it further keys are read."""
        return [
            attention.register_forward_pre_hook(self._before, with_kwargs=True),
            attention.to_v.register_forward_pre_hook(self._put_values),
            attention.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def plan_for(self, text: Tensor) -> _Plan | None:
        """What to do with a batch; every layer and step comes with the same tensor."""
        if self.read is not text:
            self.read, self.plan = text, self._make_plan(text)
        return self.plan

    def _make_plan(self, text: Tensor) -> _Plan | None:
        import torch

        rows = self._recognize(text)
        if all(each is None for each in rows):
            return None
        self.used = True
        most = max(len(each.keys) for each in rows if each is not None)
        values, keys = text.clone(), [text.clone() for _ in range(most)]
        weights = torch.zeros(1 + most, len(rows), dtype=text.dtype, device=text.device)
        for at, each in enumerate(rows):
            weights[0, at] = 1
            if each is None:
                continue
            values[at] += each.values.to(text)
            weights[: 1 + len(each.keys), at] = 1 / (1 + len(each.keys))
            for number, change in enumerate(each.keys):
                keys[number][at] += change.to(text)
        return _Plan(text, values, weights[0], tuple(zip(keys, weights[1:], strict=True)))

    def _recognize(self, text: Tensor) -> list[_Changes | None]:
        """Which prompt each row is, None where it is none of them."""
        import torch

        found: list[_Changes | None] = [None] * len(text)
        known = [each for each in self.changes if each.prompt.shape == text.shape[1:]]
        if not known:
            return found
        flat = text.detach().float().flatten(1)
        own = torch.stack([each.prompt for each in known]).to(flat).flatten(1)
        apart = torch.stack([(flat - one).norm(dim=1) / one.norm() for one in own], 1)
        for at, (distance, which) in enumerate(zip(*(side.tolist() for side in apart.min(1)), strict=True)):
            if distance < SAME:
                found[at] = known[which]
        return found

    def _before(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        text = _text_of(args, kwargs)
        plan = None if text is None else self.plan_for(text)
        self.values = None if plan is None else plan.values

    def _put_values(self, to_v: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self.values is None else (self.values, *args[1:])

    def _after(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        text = _text_of(args, kwargs)
        if output is None or self.values is None or text is None or (plan := self.plan_for(text)) is None:
            self.values = None
            return None
        shape = (-1, *(1,) * (output.dim() - 1))
        if plan.keys:
            output = output * plan.own.view(shape)
            for keys, weights in plan.keys:
                # `forward` itself, so that these hooks do not run again
                inputs, options = _with_text(args, kwargs, keys)
                output = output + weights.view(shape) * attention.forward(*inputs, **options)
        self.values = None
        return output


def _text_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The text that a layer was called with; with an IP-Adapter it is the first of two."""
    given = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
    return given[0] if isinstance(given, tuple | list) else given


def _with_text(args: tuple[Any, ...], kwargs: dict[str, Any], text: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer with other text."""
    given = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
    other = (text, *given[1:]) if isinstance(given, tuple | list) else text
    if "encoder_hidden_states" in kwargs:
        return args, {**kwargs, "encoder_hidden_states": other}
    return (args[0], other, *args[2:]), kwargs
