"""RARM: its network and decoding, its five ways of asking, its likelihood, and its record."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bowerbird import KnowledgeBase, RARMPipeline
from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Neighbors
from bowerbird.data.pictures import load_pictures
from bowerbird.diffusion import guidance
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.evaluation import evaluate as evaluation
from bowerbird.evaluation.likelihood import likelihood, without_itself
from bowerbird.evaluation.settings import default_settings
from bowerbird.models import packed_weights, rarm_transformer
from bowerbird.models.rarm_transformer import RARMTransformer
from bowerbird.models.vq import to_tokens
from bowerbird.systems import generation, records, regeneration
from bowerbird.systems.jobs import Job, prepare
from bowerbird.systems.loading import load_pipeline
from bowerbird.systems.rarm.decoding import Decoder

WEIGHTS = torch.tensor([[1, 1, 1, 0], [1, 2, 0.5, 1], [1, 1, 1, 1]])


@pytest.fixture(scope="module")
def network() -> RARMTransformer:
    torch.manual_seed(0)
    return RARMTransformer(symbols=20, positions=16, channels=32, layers=2, head_channels=16, embed_dim=5).eval()


@pytest.fixture(scope="module")
def condition() -> Conditioning:
    keys = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    return Conditioning(Tokens(keys, WEIGHTS), Tokens(torch.zeros_like(keys), torch.ones(3, 4)))


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


@pytest.fixture(scope="module")
def pipe(tiny_rarm: Path) -> RARMPipeline:
    loaded = RARMPipeline.from_pretrained(tiny_rarm)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def tokens(pipe: RARMPipeline, **asked: Any) -> torch.Tensor:
    return pipe(output_type="latent", **asked).images


# -- the network -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_released_network() -> None:
    with torch.device("meta"):
        state = RARMTransformer().state_dict()
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (364, 230_874_112)
    assert state["proj_in.weight"].shape == (16386, 768)
    assert state["positional_encoding"].shape == (768, 256)
    assert state["transformer_blocks.17.attn2.to_k.weight"].shape == (768, 512)
    assert state["transformer_blocks.0.ff.net.0.proj.weight"].shape == (6144, 768)
    assert (state["proj_out.weight"].shape, state["proj_out.bias"].shape) == ((16384, 768, 1), (16384,))


def test_kept_keys_and_values_change_nothing(network: RARMTransformer, condition: Conditioning) -> None:
    """Token by token, or several at once after some: the logits of one pass over all."""
    drawn = torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(2))
    read = network.shifted(drawn)
    assert read[:, 0].tolist() == [21] * 3
    with torch.no_grad():
        whole = network(read, condition.neighbors)
        state = network.begin(condition.neighbors)
        for start, end in [(0, 1), (1, 2), (2, 7), *((i, i + 1) for i in range(7, 16))]:
            torch.testing.assert_close(network.extend(read[:, start:end], state), whole[:, end - 1])
        decoder = Decoder(network)
        for length in (0, 1, 9):  # from nothing, on, and with tokens that somebody else put there
            torch.testing.assert_close(decoder(drawn[:, :length], torch.tensor(0), condition), whole[:, length])


def test_one_position_is_computed_as_several_are_to_the_last_bit(
    network: RARMTransformer, condition: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generating calls functions where training calls modules; also where a module is not of the usual numbers."""
    read = network.shifted(torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(4)))

    def logits() -> torch.Tensor:
        state = network.begin(condition.neighbors)  # type: ignore[arg-type]
        with torch.no_grad():
            return torch.stack([network.extend(read[:, i : i + 1], state) for i in range(16)])

    fast = logits()
    monkeypatch.setattr(
        rarm_transformer,
        "_run_position",
        lambda block, h, neighbors, bias, past, length: rarm_transformer._run_block(
            block, h[:, None], neighbors, bias, (past, length)
        )[:, 0],
    )
    assert torch.equal(fast, logits())


def test_training_computes_what_the_blocks_of_diffusers_do_with_their_gradients(
    network: RARMTransformer, condition: Conditioning
) -> None:
    """Training has its own forms of attention, projections and feed-forward."""
    read = network.shifted(torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(5)))
    given = condition.neighbors
    assert isinstance(given, Tokens)
    wanted = torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(6))

    def gradients(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((logits * wanted).sum(), list(network.parameters()))

    h = network.proj_in(read) + network.positional_encoding.T
    causal = torch.ones(16, 16).tril()[None]
    for block in network.transformer_blocks:
        h = block(
            h,
            attention_mask=(1 - causal).expand(3, -1, -1) * -1e9,
            encoder_hidden_states=given.keys,
            encoder_attention_mask=rarm_transformer.log_weights(given.weights)[:, None],
        )
    plain = network.logits(h)
    own = network(read, given)
    torch.testing.assert_close(own, plain)
    for mine, theirs in zip(gradients(own), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_weights_of_8_bits_say_nearly_the_same(condition: Conditioning) -> None:
    torch.manual_seed(0)
    network = RARMTransformer(symbols=20, positions=16, channels=64, layers=2, head_channels=16, embed_dim=5).eval()
    asked = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(2))

    def logits(asked: torch.Tensor, condition: Conditioning) -> torch.Tensor:
        decoder = Decoder(network)  # token by token, as pictures are generated
        with torch.no_grad():
            return torch.stack([decoder(asked[:, :i], torch.tensor(i), condition) for i in range(8)], 1)

    plain, saved = logits(asked, condition), set(network.state_dict())
    network.pack()
    packed = logits(asked, condition)
    assert set(network.state_dict()) == saved
    assert 0 < float((packed - plain).norm() / plain.norm()) < 0.02
    others = asked.clone()
    others[0], others[2] = asked[2], asked[0]
    assert torch.equal(logits(others, condition)[1], packed[1])  # whatever it is computed beside


def test_a_token_depends_on_those_before_it_alone(network: RARMTransformer, condition: Conditioning) -> None:
    drawn = torch.zeros(3, 16, dtype=torch.long)
    other = drawn.clone()
    other[:, 9] = 7
    with torch.no_grad():
        a, b = (network(network.shifted(x), condition.neighbors) for x in (drawn, other))
    assert torch.equal(a[:, :10], b[:, :10])
    assert (a[:, 10:] != b[:, 10:]).any(2).all()


def test_neighbors_are_a_set_with_weights(network: RARMTransformer, condition: Conditioning) -> None:
    """Their order is nothing, weight 0 is absent, weight 2 is there twice, and the null is another condition."""
    read = network.shifted(torch.zeros(1, 16, dtype=torch.long))
    keys = condition.neighbors.keys[:1]  # type: ignore[union-attr]

    def said(*columns: int, weights: tuple[float, ...] = ()) -> torch.Tensor:
        given = Tokens(keys[:, list(columns)], torch.tensor([weights or (1.0,) * len(columns)]))
        with torch.no_grad():
            return network(read, given)

    torch.testing.assert_close(said(0, 1, 2), said(2, 0, 1))
    torch.testing.assert_close(said(0, 1, 3, weights=(1, 1, 0)), said(0, 1))
    torch.testing.assert_close(said(0, 1, weights=(2, 1)), said(0, 0, 1))
    with torch.no_grad():
        none = network(read, Tokens(torch.zeros(1, 3, 5), torch.ones(1, 3)))
    assert (none - said(0, 1, 2)).abs().mean() > 0.01


def test_guidance_is_of_logits_at_every_token(network: RARMTransformer, condition: Conditioning) -> None:
    """l_0 + s (l_c - l_0), with both halves kept in one batch; 1 and 0 are the plain predictions."""
    drawn = torch.randint(20, (3, 16), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        given = network(network.shifted(drawn), condition.neighbors)
        none = network(network.shifted(drawn), condition.neighbors_null)
        for scale in (0.0, 1.0, 2.5):
            guided = guidance.classifier_free(Decoder(network), condition, scale)
            for i in range(5):
                found = guided(drawn[:, :i], torch.tensor(i), i)
                torch.testing.assert_close(found, none[:, i] + scale * (given[:, i] - none[:, i]))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 1e-300, "top_p": 0.5}, [1, 0, 0, 0]),
        ({"temperature": 1e-3, "top_k": 3, "min_p": 1.0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 0.45}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 0.5, "min_p": 0.45}, [16 / 25, 9 / 25, 0, 0]),
    ],
)
def test_which_tokens_are_drawn_from(how: dict[str, Any], expected: list[float]) -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log() + 3
    order = torch.tensor([2, 0, 3, 1])
    found = TokenSampling(**how).distribution(logits[order][None])[0].exp()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32)[order])


@pytest.mark.parametrize(
    "how", [{"top_p": 0.0}, {"top_k": -1}, {"top_k": 1.5}, {"temperature": -1.0}, {"min_p": math.nan}]
)
def test_impossible_sampling_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(BowerbirdError, match=next(iter(how))):
        TokenSampling(**how)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.5}])
def test_a_network_that_says_nothing_finite_makes_no_picture(how: dict[str, Any]) -> None:
    with pytest.raises(BowerbirdError, match="not finite"):
        TokenSampling(**how).distribution(torch.tensor([[0.0, float("nan"), 1.0]]))


# -- the pipeline ------------------------------------------------------------------------------------------------------


def test_five_ways_of_asking(pipe: RARMPipeline, kb: KnowledgeBase) -> None:
    picture = kb.search(text="red apple", k=1).images()[0][0]
    counts = {int(i): 1 for i in kb.ids()}
    asked: list[dict[str, Any]] = [
        {"prompt": "a red apple"},
        {"prompt": "a red apple", "text_mode": "text+neighbors"},
        {"image": picture},
        {"class_name": "apple"},
        {"unconditional": True, "proposal": counts},
    ]
    for each in asked:
        out = pipe(knowledge_base=kb, k=2, **each)
        assert out.images[0].size == (64, 64)
        assert out.neighbors.mask.any()
    by_hand = pipe(neighbors=kb.search(text="a red apple", k=2), output_type="latent").images
    assert torch.equal(by_hand, pipe(prompt="a red apple", knowledge_base=kb, k=2, output_type="latent").images)


def test_a_picture_is_the_same_alone_and_in_a_batch(pipe: RARMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text=["red apple", "blue square", "a tree"], k=3)
    together = tokens(pipe, neighbors=hits, seed=5)
    assert together.shape == (3, 256)
    alone = [tokens(pipe, neighbors=hits.rows([i]), seed=5 + i) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, tokens(pipe, neighbors=hits, seed=6))


def test_null_is_not_neighbors_and_weight_one_is_plain(pipe: RARMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=3)
    likeliest = TokenSampling(temperature=0.0)
    drawn = tokens(pipe, neighbors=hits, guidance_scale=1.0, token_sampling=likeliest)
    with torch.no_grad():
        said = pipe.predict(drawn, torch.tensor(0), pipe.condition(hits))
        none = pipe.predict(drawn, torch.tensor(0), pipe.condition(hits).without("neighbors"))
    assert torch.equal(said.argmax(-1), drawn)
    assert (said - none).abs().max() > 1e-3


def test_what_a_model_of_tokens_does_not_have_is_refused(pipe: RARMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=2)
    for wrong, says in (
        ({"height": 128}, "height and width 64, got 128"),
        ({"num_inference_steps": 20}, "num_inference_steps 256, got 20"),
        ({"eta": 1.0}, "no eta"),
    ):
        with pytest.raises(BowerbirdError, match=f"256 tokens, one a step: {says}; leave that out"):
            pipe(neighbors=hits, **wrong)
    assert pipe.capabilities.far_size(128, 128) is None  # it is refused
    for wrong, says in (
        ({"guidance_scale": math.nan}, "guidance_scale is nan; give a number"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 1 or more; got 0"),
    ):
        with pytest.raises(BowerbirdError, match=says):
            pipe(neighbors=hits, **wrong)


def test_a_tokenizer_of_another_size_is_refused(pipe: RARMPipeline, network: RARMTransformer) -> None:
    with pytest.raises(MismatchError, match="predicts 20 symbols and the tokenizer has 32"):
        RARMPipeline(transformer=network, vae=pipe.vae)


def test_a_tokenizer_of_another_model_is_refused_where_it_has_as_many_symbols(
    pipe: RARMPipeline, tiny_rarm: Path, tmp_path: Path
) -> None:
    """A model of somebody's with another tokenizer put in, which had generated noise; the same one in half is taken."""
    codes = pipe.vae.quantize.embedding.weight
    before = codes.detach().clone()
    kept = pipe.config.codebook
    assert len(kept) == 16
    try:
        codes.data = before.half().float()
        RARMPipeline(transformer=pipe.transformer, vae=pipe.vae, codebook=kept)
        codes.data = before.flip(0)
        with pytest.raises(MismatchError, match="32 symbols as the transformer, and they mean something else"):
            RARMPipeline(transformer=pipe.transformer, vae=pipe.vae, codebook=kept)
        RARMPipeline(transformer=pipe.transformer, vae=pipe.vae)  # of an older model nothing is known
        pipe.vae.save_pretrained(tmp_path / "model" / "vae")
    finally:
        codes.data = before
    for part in tiny_rarm.iterdir():
        if part.name != "vae":
            (shutil.copytree if part.is_dir() else shutil.copy)(part, tmp_path / "model" / part.name)
    with pytest.raises(BowerbirdError, match="they mean something else") as error:
        RARMPipeline.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_record_says_how_tokens_were_drawn_and_gives_the_picture_again(
    pipe: RARMPipeline, kb: KnowledgeBase, tiny_rarm: Path
) -> None:
    prepared = prepare(pipe, kb, Job(prompt="a red apple", k=2, n=2, temperature=1.3, top_k=5, seed=9))
    assert prepared.settings.tokens == TokenSampling(1.3, 5, 0.95, 0.0)
    images = generation.generate(pipe, prepared.hits, prepared.settings)
    written = records.generation_records(
        pipe, str(tiny_rarm), kb, prepared.hits, images, prepared.settings, prepared.request
    )
    assert written[1]["tokens"] == {"temperature": 1.3, "top_k": 5, "top_p": 0.95, "min_p": 0.0}
    assert (written[1]["steps"], written[1]["sampler"]) == (256, "raster")
    again, _ = regeneration.regenerate(pipe, written[1])
    assert np.array_equal(np.asarray(again), np.asarray(images[1]))
    with pytest.raises(BowerbirdError, match=r"tokens\.top_p"):
        regeneration.regenerate(pipe, {**written[1], "tokens": {**written[1]["tokens"], "top_p": 0.0}})


def test_a_picture_by_weights_of_8_bits_says_so_and_is_made_again(
    pipe: RARMPipeline, kb: KnowledgeBase, tiny_rarm: Path
) -> None:
    packed = load_pipeline(tiny_rarm, dtype="int8")
    packed.set_progress_bar_config(disable=True)
    assert packed.fingerprint() == pipe.fingerprint()
    prepared = prepare(packed, kb, Job(prompt="a red apple", k=2, n=1, seed=9))
    images = generation.generate(packed, prepared.hits, prepared.settings)
    [record] = records.generation_records(
        packed, str(tiny_rarm), kb, prepared.hits, images, prepared.settings, prepared.request
    )
    assert record["dtype"] == "int8"
    again, _ = regeneration.regenerate(packed, record)
    assert np.array_equal(np.asarray(again), np.asarray(images[0]))
    with pytest.raises(MismatchError, match="generated in int8, this model computes in float32"):
        regeneration.regenerate(pipe, record)
    with pytest.raises(BowerbirdError, match="dtype int8 is for models that draw tokens"):
        load_pipeline("tiny-rdm", dtype="int8")


# -- likelihood --------------------------------------------------------------------------------------------------------


def test_bits_are_those_of_the_product_over_tokens(pipe: RARMPipeline, kb: KnowledgeBase, drawn_folder: Path) -> None:
    pictures = load_pictures(drawn_folder, size=64, limit=3)
    x = tensors.to_float(pictures.pixels)
    hits = kb.search(images=tensors.to_pil(pictures.pixels), k=2)
    found = pipe.bits_per_token(x, hits)
    seen, decoder, condition = to_tokens(pipe.vae, x), Decoder(pipe.transformer), pipe.condition(hits)
    with torch.no_grad():
        one_by_one = sum(
            -decoder(seen[:, :i], torch.tensor(i), condition).log_softmax(1).gather(1, seen[:, i : i + 1])[:, 0]
            for i in range(256)
        )
    torch.testing.assert_close(found, one_by_one / 256 / math.log(2), rtol=1e-4, atol=1e-4)  # type: ignore[operator]
    assert not torch.allclose(found, pipe.bits_per_token(x, hits, null=True), atol=1e-5)


def test_evaluation_reports_bits_with_own_other_and_no_neighbors(
    pipe: RARMPipeline, kb: KnowledgeBase, drawn_folder: Path
) -> None:
    pictures = load_pictures(drawn_folder, size=64, limit=6)
    settings = default_settings(pipe, n=4, metrics=("likelihood",), k=2)
    report = evaluation.evaluate(pipe, kb, pictures, None, settings).report
    rows = np.arange(6)
    direct = likelihood(pipe, kb, pictures, rows, 2)
    own, none = (direct[f"bits a token, {name}"]["mean"] for name in ("own neighbors", "no neighbors"))
    assert direct["bits a token that its own neighbors save"]["mean"] == pytest.approx(none - own)
    assert set(report["likelihood"]) == set(direct)
    assert report["likelihood"]["pictures"] == 4
    alone = likelihood(pipe, kb, pictures, rows[:1], 2)  # its own neighbors had been reported as another's
    assert set(direct) - set(alone) == {"bits a token, another's neighbors"}


def test_a_picture_is_no_neighbor_of_itself(kb: KnowledgeBase, drawn_folder: Path) -> None:
    hits = Neighbors(
        ids=np.array([[7, 5, 3], [2, 9, -1]]),
        scores=np.zeros((2, 3), np.float32),
        embeddings=np.zeros((2, 3, 1), np.float32),
        captions=(("a", "b", "c"), ("d", "e", "")),
        metadata=(({},) * 3,) * 2,
    )
    assert without_itself(hits, [5, 2], 2).ids.tolist() == [[7, 3], [9, -1]]
    first = kb.search(images=[tensors.to_pil(load_pictures(drawn_folder, size=64, limit=1).pixels)[0]], k=2)
    assert without_itself(first, [-5], 1).ids.tolist() == [[first.ids[0, 1]]]  # there, under another id


def test_only_widths_that_the_kernel_of_8_bits_can_read_are_packed() -> None:
    """Others damage the heap, which ends a process much later."""
    layers = [nn.Linear(width, 8) for width in (20, 24, 32, 64)]
    packed_weights.pack(layers)
    assert ["packed" in layer.__dict__ for layer in layers] == [False, False, True, True]
