"""StructureDiffusion: phrases' own encodings as values of cross-attention, on tiny random models of the SD family."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import doubles
import numpy as np
import pytest
import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.grounded.structure import cross_attentions, phrase_spans, structured
from bowerbird.systems.phrases.parse import load_parser, parse_prompt
from bowerbird.systems.phrases.phrase import ParsedPrompt, Phrase
from bowerbird.systems.phrases.token_spans import align, token_offsets, token_spans

TEXT = "a red heart left of a blue square and the white sheep"


def clip_tokenizer(length: int = 24) -> Any:
    """CLIP's tokenizer with every byte and the pairs of `TEXT`, so that other words have many pieces."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    words = Counter(dict.fromkeys(TEXT.replace("sheep", "").split(), 1))
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in words for pair in pairwise(split[word]))
        if not pairs:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((first, second))
        for word, parts in split.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == (first, second):
                    joined[-1] += part
                else:
                    joined.append(part)
            split[word] = tuple(joined)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    every = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    every += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(dict.fromkeys(every))}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=length)


@pytest.fixture(scope="module")
def sd() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        for name, weight in text.named_parameters():
            if weight.dim() > 1:
                weight.data *= 15 if "embedding" not in name else 50  # words matter, as in a trained encoder
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        for name, weight in unet.named_parameters():
            if "attn2" in name and weight.dim() > 1:
                weight.data *= 4
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=16,
        )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parsed(prompt: str) -> ParsedPrompt:
    return parse_prompt(prompt, parser=load_parser("rules"))


def run(pipe: Any, prompts: list[str], **options: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(7) for _ in prompts]
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "negative_prompt": ["white"] * len(prompts)} | options
    found = pipe(prompts, height=16, width=16, output_type="latent", generator=generators, **options)
    return found.images.numpy()


def structured_run(pipe: Any, prompts: list[str], form: str = "mean", **options: Any) -> np.ndarray:
    read = [parsed(prompt) for prompt in prompts]
    with structured(pipe, read, form=form):
        return run(pipe, [each.text for each in read], **options)


class PaperProcessor:
    """The paper's attention written out: the outputs of every sequence, each softmax over its own keys, averaged."""

    def __init__(self, sequences: list[torch.Tensor], pasted: torch.Tensor, form: str) -> None:
        self.sequences, self.pasted, self.form = sequences, pasted, form

    def __call__(self, attn: Any, hidden: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        half = len(hidden) // 2
        plain = self.attend(attn, hidden[:half], encoder_hidden_states[:half], encoder_hidden_states[:half])
        text, outputs = encoder_hidden_states[half:], []
        for sequence in self.sequences:
            other = sequence.expand_as(text)
            key, value = (text, other) if self.form == "mean" else (other, self.pasted.expand_as(text))
            outputs.append(self.attend(attn, hidden[half:], key, value))
        return torch.cat([plain, torch.stack(outputs).mean(0)])

    def attend(self, attn: Any, hidden: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        q, k, v = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden), attn.to_k(key), attn.to_v(value)))
        weights = (q @ k.transpose(1, 2) * attn.scale).softmax(-1)
        return attn.to_out[0](attn.batch_to_head_dim(weights @ v))


def by_the_paper(pipe: Any, prompt: str, form: str) -> np.ndarray:
    """What the paper computes for one prompt, with the phrases' tokens counted by hand."""
    spans = {"a red heart": (1, 4), "a blue square": (6, 9)}
    encode = lambda text: pipe.encode_prompt(text, "cpu", 1, False)[0][0]  # noqa: E731
    whole = encode(prompt)
    sequences, pasted = [whole], whole.clone()
    for phrase, (first, last) in spans.items():
        for into in (pasted, other := whole.clone()):
            into[first:last] = encode(phrase)[1 : 1 + last - first]
        sequences.append(other)
    before = dict(pipe.unet.attn_processors)
    mine = PaperProcessor(sequences, pasted, form)
    try:
        pipe.unet.set_attn_processor({n: mine if "attn2" in n else p for n, p in before.items()})
        return run(pipe, [prompt])
    finally:
        pipe.unet.set_attn_processor(before)


PROMPT = "a red heart left of a blue square"


@pytest.mark.parametrize("form", ["mean", "conjunction"])
def test_it_is_what_the_paper_computes(sd: Any, form: str) -> None:
    expected, plain = by_the_paper(sd, PROMPT, form), run(sd, [PROMPT])
    assert np.abs(structured_run(sd, [PROMPT], form) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected - plain).max() > 1e-3  # the phrases matter


@pytest.mark.parametrize("form", ["mean", "conjunction"])
def test_no_phrases_is_the_plain_model_to_the_last_bit(sd: Any, form: str) -> None:
    for prompts in (["heart"], ["on red"]):
        assert (structured_run(sd, prompts, form) == run(sd, prompts)).all()
    both = structured_run(sd, ["heart", PROMPT], form)  # beside a prompt that has some
    assert (both[0] == run(sd, ["heart", PROMPT])[0]).all()
    assert (both[1] != run(sd, ["heart", PROMPT])[1]).any()


@pytest.mark.parametrize("form", ["mean", "conjunction"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_batch_is_its_prompts_one_by_one(sd: Any, form: str, guidance: float) -> None:
    prompts = [PROMPT, "the white sheep", "a blue heart and a red square and the white sheep"]
    batch = structured_run(sd, prompts, form, guidance_scale=guidance)
    for prompt, one in zip(prompts, batch, strict=True):
        alone = structured_run(sd, [prompt], form, guidance_scale=guidance)[0]
        np.testing.assert_allclose(one, alone, atol=1e-4 * np.abs(alone).max())


def test_several_pictures_of_a_prompt_and_another_sampler(sd: Any) -> None:
    from diffusers import EulerDiscreteScheduler

    before, sd.scheduler = sd.scheduler, EulerDiscreteScheduler()
    try:
        with structured(sd, [parsed(PROMPT)]):
            several = sd(
                [PROMPT],
                height=16,
                width=16,
                num_inference_steps=2,
                num_images_per_prompt=2,
                output_type="latent",
                generator=[torch.Generator().manual_seed(7) for _ in range(2)],
            ).images.numpy()
        one = structured_run(sd, [PROMPT], guidance_scale=7.5, negative_prompt=None)
        np.testing.assert_allclose(several, np.concatenate([one, one]), atol=1e-4 * np.abs(one).max())
    finally:
        sd.scheduler = before


@pytest.mark.parametrize("form", ["mean", "conjunction"])
def test_it_adds_to_an_ip_adapter(sd: Any, form: str) -> None:
    """The adapter's own processors stay, and what they add stays with them."""
    g = torch.Generator().manual_seed(1)
    widths = [sd.unet.get_submodule(n.removesuffix(".processor")).to_q.in_features for n in cross_names(sd.unet)]
    state: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
    state["image_proj"] = {"proj.weight": torch.randn(64, 20, generator=g), "proj.bias": torch.zeros(64)}
    state["image_proj"] |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    for at, width in enumerate(widths):
        for name in ("k", "v"):
            state["ip_adapter"][f"{2 * at + 1}.to_{name}_ip.weight"] = torch.randn(width, 16, generator=g)
    embeds = torch.randn(1, 1, 20, generator=g)
    call = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embeds), embeds])]}
    without = structured_run(sd, [PROMPT], form)
    sd.unet._load_ip_adapter_weights([state])
    try:
        both, adapter = structured_run(sd, [PROMPT], form, **call), run(sd, [PROMPT], **call)
        assert np.abs(both - adapter).max() > 1e-3
        assert np.abs(both - without).max() > 1e-3
        sd.set_ip_adapter_scale(0.0)
        assert np.abs(structured_run(sd, [PROMPT], form, **call) - without).max() < 1e-5 * np.abs(without).max()
    finally:
        sd.unload_ip_adapter()


def cross_names(unet: Any) -> list[str]:
    return [name for name in unet.attn_processors if "attn2" in name]


@pytest.mark.parametrize("form", ["mean", "conjunction"])
def test_both_text_encoders_of_sdxl(form: str) -> None:
    pipe = doubles.sdxl()
    plain, prompt = run(pipe, ["a fox on a red heart"]), parsed("a fox on a red heart")
    with structured(pipe, [prompt], form=form):
        changed = run(pipe, [prompt.text])
    assert np.abs(changed - plain).max() > 1e-4
    encoded = pipe.encode_prompt([prompt.text, "a red heart"], device="cpu", do_classifier_free_guidance=False)[0]
    assert (encoded[0, 4:7] != encoded[1, 1:4]).any()  # what is put there is another encoding, of both encoders
    assert (run(pipe, [prompt.text]) == plain).all()


def test_all_is_as_it_was_also_after_an_exception(sd: Any) -> None:
    plain, processors = run(sd, [PROMPT]), dict(sd.unet.attn_processors)

    def stop(*_: Any) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        structured_run(sd, [PROMPT], callback_on_step_end=stop)
    assert sd.unet.attn_processors == processors
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sd.unet.modules())
    assert (run(sd, [PROMPT]) == plain).all()


def test_a_pipeline_that_reads_other_prompts_is_an_error(sd: Any) -> None:
    with pytest.raises(BowerbirdError, match="read none of the prompts"), structured(sd, [parsed(PROMPT)]):
        run(sd, ["a blue square"])


def test_other_attention_is_refused_with_the_reason() -> None:
    joint = type("StableDiffusion3Pipeline", (), {"unet": None, "transformer": object()})()
    with pytest.raises(BowerbirdError, match="a StableDiffusion3Pipeline attends to text and picture together"):
        cross_attentions(joint)
    with pytest.raises(BowerbirdError, match="not of the SD family"):
        cross_attentions(SimpleNamespace(unet=torch.nn.Linear(1, 1)))


def test_a_fused_base_is_refused(sd: Any) -> None:
    own, sd.unet = sd.unet, copy.deepcopy(sd.unet)
    try:
        sd.unet.fuse_qkv_projections()
        with pytest.raises(BowerbirdError, match="unfuse_qkv_projections"):
            cross_attentions(sd)
        sd.unet.unfuse_qkv_projections()
        assert cross_attentions(sd)
    finally:
        sd.unet = own


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_spans_are_those_of_tokens_not_of_words() -> None:
    tokenizer = clip_tokenizer()
    prompt = "the sheep, the white sheep and the white sheep"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
    assert pieces[1:7] == ["the</w>", "s", "h", "e", "e", "p</w>"]
    places = [(n, n + len("the white sheep")) for n in (11, 31)]
    first, second = token_spans(tokenizer, prompt, places)
    assert pieces[slice(*first)] == pieces[slice(*second)] == ["the</w>", "white</w>", "s", "h", "e", "e", "p</w>"]
    assert first == (8, 15)
    assert second == (16, 23)


def test_a_phrase_beyond_the_longest_text_is_cut_or_left_out() -> None:
    tokenizer = clip_tokenizer(length=12)
    prompt = parsed("the white sheep and a red heart and a blue square")
    assert [(p.text, a, b) for p, a, b in phrase_spans(tokenizer, prompt)] == [
        ("the white sheep", 1, 8),
        ("a red heart", 9, 11),
    ]


def test_a_phrase_within_a_word_is_an_error() -> None:
    prompt = ParsedPrompt("a red hearty", (Phrase("a red heart", 0, 11),))
    with pytest.raises(BowerbirdError, match="begins or ends within a word"):
        phrase_spans(clip_tokenizer(), prompt)


@pytest.mark.parametrize(
    "prompt",
    ["a red heart,  left\tof a Blue square!", "a café and naïve ÉTÉ 🦊 heart", "don't 42nd", "the the, the-the", ""],
)
def test_alignment_without_offsets_finds_the_same_places(prompt: str) -> None:
    tokenizer = clip_tokenizer(64)
    ids = tokenizer(prompt)["input_ids"]
    special = set(tokenizer.all_special_ids)
    pieces = [None if i in special else p for i, p in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)]
    assert align(pieces, prompt) == token_offsets(tokenizer, prompt)


def test_a_tokenizer_without_offsets_is_aligned() -> None:
    fast = clip_tokenizer()

    class Slow:
        is_fast, model_max_length, all_special_ids = False, fast.model_max_length, fast.all_special_ids

        def __call__(self, text: str, **options: Any) -> Any:
            return fast(text, **options)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return list(fast.convert_ids_to_tokens(ids))

    prompt = "the white sheep and the white sheep"
    places = [(0, 15), (20, 35)]
    assert token_spans(Slow(), prompt, places) == token_spans(fast, prompt, places) == [(1, 8), (9, 16)]
    with pytest.raises(BowerbirdError, match="not in the prompt"):
        align(["x</w>"], "a red heart")
