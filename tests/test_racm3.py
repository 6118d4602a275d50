"""RA-CM3's sequences, network, retrieval and pipeline, on small random networks."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bowerbird import KnowledgeBase, encoders
from bowerbird.core import provenance, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.data.pictures import load_pictures
from bowerbird.diffusion.guidance import Guidance
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.evaluation.likelihood import likelihood
from bowerbird.models.causal_attention import BLOCK, attend_causally
from bowerbird.models.clip_text import build_tokenizer, learn_pairs
from bowerbird.models.document_transformer import DocumentTransformer
from bowerbird.models.vq import to_tokens
from bowerbird.systems import generation, jobs, records, regeneration, reranking
from bowerbird.systems.queries import Request
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3 import retrieval
from bowerbird.systems.racm3.decoding import Decoder, Prompt, condition
from bowerbird.systems.racm3.documents import drop_words, one_variation, retrieve, varied
from bowerbird.systems.racm3.layout import Layout
from bowerbird.systems.racm3.objective import RACM3Config, RACM3Objective
from bowerbird.systems.racm3.pipeline import RACM3Pipeline, vocabulary_hash
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe
from tests.test_cli import bowerbird, refused

SMALL = Layout(text_tokens=10, image_tokens=6, text_length=3, side=2)
CODES, TEXT = np.array([3, 1, 0, 5]), np.array([4, 2])


def randomized(network: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Every weight drawn anew, so that everything can matter."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> DocumentTransformer:
    sizes = {"text_tokens": 10, "image_tokens": 6, "text_length": 3, "side": 2, "channels": 32, "head_channels": 16}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        made = DocumentTransformer(layers=2, documents=4, **sizes)
    return randomized(made)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def objective(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RACM3Objective:
    recipe = recipes.recipe("tiny-racm3", tiny=True)
    found = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path_factory.mktemp("racm3"))
    randomized(found.decoder, 0.05)  # type: ignore[operator, arg-type]
    return found.eval()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def pipe(objective: RACM3Objective, tmp_path_factory: pytest.TempPathFactory) -> RACM3Pipeline:
    path = tmp_path_factory.mktemp("model") / "model"
    objective.pipeline().save_pretrained(path)
    loaded = RACM3Pipeline.from_pretrained(path)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def kb(small_kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(small_kb_path)


def test_the_three_orders_of_a_document() -> None:
    """What is learned, where it is, and where what follows will be."""
    doc, end, image, mask, infill = 8, 9, 16, 17, 18
    marks = (SMALL.doc, SMALL.end, SMALL.image, SMALL.mask, SMALL.infill)
    assert marks == (doc, end, image, mask, infill)
    first = lay.retrieved(SMALL, CODES, TEXT, 3, weight=0.1)
    target = lay.picture_from_text(SMALL, CODES, TEXT, text_weight=4.0)
    row = {name: part[0].tolist() for name, part in lay.stack(SMALL, [lay.join([first, target])]).items()}
    symbols = [doc, 4, 2, image, 13, 11, 10, 15]
    assert [*row["tokens"], row["target"][-1]] == [*symbols, *symbols, end]
    assert row["places"] == [0, 1, 2, 4, 5, 6, 7, 8] * 2
    # after a word comes a word's place, so that nothing says that the caption is over
    assert row["following"] == [1, 2, 3, 5, 6, 7, 8, 0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert row["documents"] == [3] * 8 + [0] * 8
    assert row["weights"] == pytest.approx([0.1] * 7 + [0.0, 4, 4, 4, 1, 1, 1, 1, 0])
    asked = lay.text_from_picture(SMALL, CODES, TEXT, text_weight=4.0)
    assert asked.tokens.tolist() == [doc, mask, image, 13, 11, 10, 15, infill, 4, 2, end]
    assert asked.places.tolist() == [0, 1, 4, 5, 6, 7, 8, 9, 1, 2, 10]
    assert asked.learned.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 4, 4, 4]
    hole = np.array([False, True, True, False])
    filled = lay.hole_from_rest(SMALL, CODES, TEXT, hole)
    assert filled.tokens.tolist() == [doc, 4, 2, image, 13, 15, mask, infill, 11, 10, end]
    assert filled.places.tolist() == [0, 1, 2, 4, 5, 8, 6, 9, 6, 7, 10]
    large = lay.cells(lay.Layout(32_000, 2048, 3, 2), np.full(4, 2047, np.int16), np.arange(4))
    assert large.tokens.tolist() == [34_047] * 4, "codes are kept in 16 bits, symbols are not"
    long = lay.retrieved(SMALL, CODES, np.arange(7), 1)
    assert long.tokens.tolist() == [doc, 0, 1, 2, image, 13, 11, 10, 15]


def test_documents_have_numbers_spread_over_those_that_training_has() -> None:
    assert lay.document_numbers(2, 8) == [3, 6]
    for most in range(1, 65):
        for count in range(most + 1):
            numbers = lay.document_numbers(count, most)
            assert numbers == sorted(set(numbers))
            assert all(1 <= number <= most for number in numbers)


def logits_of(network: DocumentTransformer, passage: lay.Passage) -> torch.Tensor:
    """Of the codes after every position, without any cache."""
    batch = lay.stack(SMALL, [passage])
    features = network(batch["tokens"], batch["places"], batch["following"], batch["documents"])
    logits: torch.Tensor = network.logits(features)[0, :, 10:16]
    return logits


@torch.no_grad()
def test_a_prefix_that_is_read_once_gives_what_reading_all_each_time_gives(network: DocumentTransformer) -> None:
    documents = tuple(lay.retrieved(SMALL, CODES[::step], TEXT, number) for number, step in ((1, 1), (2, -1)))
    hole = np.array([False, True, True, False])
    rows = [Prompt(documents, TEXT), Prompt((), TEXT), Prompt(documents, TEXT)]
    holes = [Prompt(documents, TEXT, CODES, hole), Prompt(documents[:1], TEXT[:1], CODES, hole)]
    for prompts, count in ((rows, 4), (holes, 2)):
        codes = torch.tensor([[5, 0, 2, 1], [1, 1, 4, 0], [0, 3, 3, 2]])[: len(prompts), :count]
        given = condition(prompts)
        for dropped, parts in (((), (True, True)), (("neighbors",), (False, True)), (("text",), (True, False))):
            decoder = Decoder(network, SMALL, prompts)
            found = torch.stack([decoder(codes[:, :t], t, given.without(*dropped)) for t in range(count)], 1)
            for row, prompt in enumerate(prompts):
                start = prompt.passage(SMALL, parts)
                cells = np.flatnonzero(hole) if prompt.hole is not None else np.arange(4)
                picture = np.zeros(4, np.int64)
                picture[cells] = codes[row].numpy()
                whole = lay.join([start, lay.cells(SMALL, picture, cells)])
                expected = logits_of(network, whole)[len(start) - 1 :]
                torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_rows_of_many_prompts_are_read_in_one_pass_and_keep_every_bit(
    network: DocumentTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass for every prompt had made a batch of four prompts take longer than each alone."""
    documents = tuple(lay.retrieved(SMALL, CODES[::step], TEXT, number) for number, step in ((1, 1), (2, -1)))
    first = Prompt(documents, TEXT)
    mixed = [first, Prompt((), TEXT), Prompt(documents[:1], TEXT[:1]), first]
    codes = torch.tensor([[5, 0, 2, 1], [1, 1, 4, 0], [0, 3, 3, 2], [2, 2, 0, 5]])
    passes: list[int] = []
    forward = DocumentTransformer.forward

    def counted(self: DocumentTransformer, tokens: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        passes.append(len(tokens))
        return forward(self, tokens, *rest)

    monkeypatch.setattr(DocumentTransformer, "forward", counted)
    decoder, given = Decoder(network, SMALL, mixed), condition(mixed)
    found = [decoder(codes[:, :t], t, given) for t in range(4)]
    assert passes == [1, 1, 1, 4, 4, 4]  # three prompts, then three codes of all rows
    alike = Decoder(network, SMALL, [first] * 4)
    for t in range(4):
        assert torch.equal(alike(codes[:, :t], t, condition([first] * 4))[[0, 3]], found[t][[0, 3]])


@torch.no_grad()
def test_documents_have_an_order_and_none_is_the_text_alone(network: DocumentTransformer) -> None:
    a, b = (lay.retrieved(SMALL, codes, TEXT, 1) for codes in (CODES, CODES[::-1].copy()))
    later = [dataclasses.replace(each, documents=each.documents + 1) for each in (a, b)]
    prompts = [Prompt((a, later[1]), TEXT), Prompt((b, later[0]), TEXT), Prompt((), TEXT)]
    nothing = torch.zeros(3, 0, dtype=torch.long)
    given = condition(prompts)
    found = Decoder(network, SMALL, prompts)(nothing, 0, given)
    assert not torch.allclose(found[0], found[1])
    without = Decoder(network, SMALL, prompts)(nothing, 0, given.without("neighbors"))
    torch.testing.assert_close(without, found[2:].expand(3, -1))


def test_things_go_by_invented_names_that_their_documents_say(objective: RACM3Objective) -> None:
    """The target's name is new in every sample, and the document that shows the thing itself has the same."""
    always = {"itself": 1.0, "invented": 1.0, "same_view": 1.0, "to_text": 0.0, "infilled": 0.0, "k": 1}
    config = objective.config.model_copy(update=always)
    tokenizer, encoder, words = objective.frozen
    changed = RACM3Objective(config, objective.pictures, objective.cache, words, tokenizer, encoder, seed=0)
    known = {tuple(text.tolist()) for text in objective.plain}
    names, layout = set(), objective.layout
    for step in range(16):
        batch = changed.batch(step, 8)
        for tokens, numbers in zip(batch["tokens"].numpy(), batch["documents"].numpy(), strict=True):
            starts = np.flatnonzero(tokens == layout.doc)
            if len(starts) != 2:
                continue
            texts = [tuple(tokens[s + 1 : s + list(tokens[s:]).index(layout.image)].tolist()) for s in starts]
            assert texts[0] == texts[1] not in known
            codes = [tokens[s : s + 300][tokens[s : s + 300] >= layout.text_tokens][1:250] for s in starts]
            assert (codes[0] == codes[1]).all()
            assert 1 <= numbers[0] <= config.documents
            names.add(texts[0])
    assert len(names) > 20


def test_batches_depend_on_the_step_alone_and_weigh_the_target(objective: RACM3Objective) -> None:
    batches = [objective.batch(step, 16) for step in range(6)]
    again = objective.batch(3, 16)
    assert all(torch.equal(batches[3][name], again[name]) for name in again)  # type: ignore[literal-required]
    lengths = {int(batch["documents"].max() > 0) for batch in batches}
    assert lengths == {0, 1}
    batch = next(b for b in batches if b["documents"].max() > 0)
    codes = (batch["target"] >= objective.layout.text_tokens) & (batch["target"] < objective.layout.image)
    assert batch["weights"][codes & (batch["documents"] > 0)].unique().tolist() == [pytest.approx(0.1)]
    # by hand: the weighted sum of all over the number of what counts of the target
    with torch.no_grad():
        features = objective.decoder(batch["tokens"], batch["places"], batch["following"], batch["documents"])
        said = objective.decoder.logits(features).log_softmax(-1).gather(2, batch["target"][..., None])[..., 0]
    counted = int(((batch["weights"] > 0) & (batch["documents"] == 0)).sum())
    with pytest.MonkeyPatch.context() as patch:  # in several parts too
        patch.setattr("bowerbird.models.symbol_losses.AT_ONCE", 100)
        assert float(objective(batch).detach()) == pytest.approx(float((-said * batch["weights"]).sum()) / counted)


def test_attention_in_training_is_torchs_with_its_gradients() -> None:
    """Over several blocks, so that a block's queries meet all keys before them and none behind."""
    drawn = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 2 * BLOCK + 5, 8, generator=drawn, requires_grad=True) for _ in range(3)]
    out = attend_causally(*inputs)
    expected = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert out.grad_fn is not None
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, generator=drawn)
    found, wanted = (torch.autograd.grad((made * weight).sum(), inputs) for made in (out, expected))
    torch.testing.assert_close(found, wanted)


def test_no_document_says_the_target_or_the_same_twice() -> None:
    """Of ten unit vectors in a plane the walk skips the query's own, what is too like it, and what is too like one
    taken."""
    angles = torch.tensor([0.0, 0.05, 0.6, 0.65, 1.2, 2.0, 3.0])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    options = {"guard": vectors, "ids": np.arange(7), "max_similarity": math.cos(0.1)}
    found = retrieve(vectors, vectors, 4, **options)  # type: ignore[arg-type]
    assert found[0].tolist() == [2, 4, 5, 6]  # not 0 itself, not 1 (like it), not 3 (like 2)
    assert found[5].tolist() == [4, 6, 3, 1]
    within = retrieve(vectors, vectors, 4, within=list("aabbabb"), **options)  # type: ignore[arg-type]
    assert within[0].tolist() == [4, ABSENT, ABSENT, ABSENT]
    twins = retrieve(vectors[:2], vectors[:2], 2, guard=vectors[:2], ids=np.array([7, 7]), max_similarity=None)
    assert (twins == ABSENT).all()
    rng = np.random.default_rng(0)
    assert {len(drop_words("a red fox runs home", 0.5, rng).split()) for _ in range(50)} >= {1, 2, 3, 4}


def test_retrieval_by_the_mean_of_picture_and_caption(kb: KnowledgeBase) -> None:
    """The best by the mixed vectors of all items, as computed by hand; pictures ask too, and what is alike is skipped
    once."""
    encoder, everything = kb.encoder, kb.get(kb.ids().tolist())
    shared = encoder.shared_dim

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    mixed = unit(
        unit(everything.embeddings[0, :, :shared]) + unit(encoder.embed_text(list(everything.captions[0]))[:, :shared])
    )
    caption = everything.captions[0][5]
    query = unit(encoder.embed_text([caption])[:, :shared])[0]
    found = kb.search(text=caption, k=3, mode="mixed")
    assert found.ids[0].tolist() == everything.ids[0][np.argsort(-(mixed @ query), kind="stable")[:3]].tolist()
    assert found.scores[0] == pytest.approx(np.sort(mixed @ query)[::-1][:3], abs=1e-5)
    own = everything.embeddings[:, 5]
    looked = kb.search(embeddings=own, k=3, mode="mixed")
    assert looked.scores[0] == pytest.approx(np.sort(mixed @ unit(own[:, :shared])[0])[::-1][:3], abs=1e-5)
    near = kb.search(text=caption, k=12, mode="mixed")
    kept = retrieval.unlike(near, 4, 0.9, own)
    vectors = unit(np.concatenate([own, kept.embeddings[0][kept.mask[0]]]))
    assert (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].max() <= 0.9
    assert kept.k == 4


def test_a_picture_is_made_again_from_its_record_whatever_its_company(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    job = jobs.Job(prompt="red circle", n=3, k=2, seed=5, guidance_scale=1.5)
    prepared = jobs.prepare(pipe, kb, job)
    assert prepared.request["search_mode"] == "mixed"
    images = generation.generate(pipe, prepared.hits, prepared.settings)
    assert images[0].size == (64, 64)
    made = records.generation_records(
        pipe, "m", kb, prepared.hits, images, prepared.settings, prepared.request, picture_seeds=[5, 6, 7]
    )
    again, hits = regeneration.regenerate(pipe, made[1])
    assert again.tobytes() == images[1].tobytes() != images[0].tobytes()
    assert hits.captions == (tuple(n["caption"] for n in made[1]["neighbors"]),)
    # beside another prompt with other documents: the same bits
    both = Neighbors.stack([pipe.retrieve(Request(prompts=("blue square",)), kb), prepared.hits.rows([1])])
    assert generation.generate(pipe, both, prepared.settings, picture_seeds=[1, 6])[1].tobytes() == again.tobytes()


def test_without_documents_only_the_text_counts(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    alone = pipe("red circle", k=0, seed=3).images[0]
    zero = pipe("red circle", knowledge_base=kb, k=2, weights=[0, 0], seed=3).images[0]
    assert alone.tobytes() == zero.tobytes()
    docs = pipe("red circle", knowledge_base=kb, k=2, seed=3, guidance=Guidance("joint", 1.0)).images[0]
    assert docs.tobytes() != alone.tobytes()
    codes = pipe("red circle", k=0, output_type="latent", token_sampling=TokenSampling(temperature=0)).images
    assert codes.shape == (1, 256)


def test_an_evaluation_gives_the_caption_and_never_the_picture_itself(
    pipe: RACM3Pipeline, kb: KnowledgeBase, drawn_folder: Path
) -> None:
    shown = load_pictures(drawn_folder, size=64, limit=3)
    given: list[Neighbors] = []

    class Told:
        capabilities, retrieve_like = pipe.capabilities, pipe.retrieve_like

        def bits_per_token(self, x: torch.Tensor, hits: Neighbors, *, null: bool = False) -> torch.Tensor:
            given.append(hits)
            return torch.zeros(len(x))

    likelihood(Told(), kb, shown, np.arange(3), 2)  # type: ignore[arg-type]
    assert [hits.queries for hits in given] == [shown.captions] * 3
    own = kb.encoder.embed_images(tensors.to_pil(shown.pixels))
    for vector, found in zip(own, given[0].embeddings, strict=True):
        cosines = found @ vector / (np.linalg.norm(found, axis=1).clip(1e-9) * np.linalg.norm(vector))
        assert (cosines <= 0.9).all()


def test_the_likelihood_is_that_of_the_chain(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    hits = pipe.retrieve(Request(prompts=("red circle",), k=1), kb)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = to_tokens(pipe.vae, x)
    given = pipe.condition(hits)
    decoder = Decoder(pipe.decoder, pipe.layout, given.prompts)
    chain = [decoder(codes[:, :t], t, given).log_softmax(-1)[0, codes[0, t]] for t in range(256)]
    again = pipe.predict(codes[:, :9], torch.tensor(9), given).log_softmax(-1)[0, codes[0, 9]]
    assert float(again) == pytest.approx(float(chain[9]), abs=1e-4)
    bits = -torch.stack(chain).mean() / math.log(2)
    assert float(pipe.bits_per_token(x, hits)) == pytest.approx(float(bits), abs=1e-4)
    assert float(pipe.bits_per_token(x, hits, null=True)) != pytest.approx(float(bits), abs=1e-4)
    long = replace(hits, queries=("red circle " * 40,))
    assert pipe.bits_per_token(x, long).isfinite().all(), "another's caption is cut, not refused"
    with pytest.raises(BowerbirdError, match="shorten it"):
        pipe.condition(long)


def test_a_hole_is_filled_and_the_rest_stays(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (10, 20, 30, 41))  # cells 2..7 by 5..10
    made = pipe.infill(picture, mask, "red circle", knowledge_base=kb, seed=2).images[0]
    pixels, inside = np.asarray(made), np.zeros((64, 64), bool)
    inside[20:44, 8:32] = True
    assert (pixels[~inside] == (200, 30, 90)).all()
    assert (pixels[inside] != (200, 30, 90)).any()
    with pytest.raises(BowerbirdError, match="nothing of the `mask`"):
        pipe.infill(picture, Image.new("L", (64, 64)), "red circle", k=0)


def test_a_wide_picture_is_filled_in_as_a_whole(pipe: RACM3Pipeline, kb_path: Path, tmp_path: Path) -> None:
    """A hole at the far left of a picture of 2:1 lies outside its middle square."""
    model = tmp_path / "model"
    pipe.save_pretrained(model)
    Image.new("RGB", (200, 100), (200, 30, 90)).save(tmp_path / "a.png")
    mask = Image.new("L", (200, 100))
    mask.paste(255, (0, 25, 40, 75))  # 0..13 by 8..24 of 64 x 32
    mask.save(tmp_path / "mask.png")
    how = [model, "--kb", kb_path, "--mask", tmp_path / "mask.png", "--prompt", "red circle", "-n", 1]
    bowerbird("edit", *how, "--image", tmp_path / "a.png", "--out", tmp_path / "wide", cwd=tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "wide" / "000.png"))
    inside = np.zeros((32, 64), bool)
    inside[8:24, 0:16] = True
    assert (pixels[~inside] == (200, 30, 90)).all()
    assert (pixels[inside] != (200, 30, 90)).any()
    bowerbird("generate", model, "--from", tmp_path / "wide" / "000.png", "--out", tmp_path / "again", cwd=tmp_path)
    assert (np.asarray(Image.open(tmp_path / "again" / "000.png")) == pixels).all()


@pytest.mark.parametrize("way", [["--prompt", "red circle"], []])
def test_a_mask_is_filled_in_and_the_png_gives_it_again(
    pipe: RACM3Pipeline, kb_path: Path, tmp_path: Path, way: list[str]
) -> None:
    """`edit --mask`: white is filled in, gray and what is transparent stay; of two pictures at once, as of one."""
    model = tmp_path / "model"
    pipe.save_pretrained(model)
    for name, color in (("a", (200, 30, 90)), ("b", (20, 160, 60))):
        Image.new("RGB", (128, 128), color).save(tmp_path / f"{name}.png")
    mask = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (20, 40, 60, 82))
    mask.paste((90, 90, 90, 255), (100, 100, 120, 120))
    mask.save(tmp_path / "mask.png")
    how = [model, "--kb", kb_path, "--mask", tmp_path / "mask.png", *way, "-n", 1, "--seed", 4]
    bowerbird(
        "edit",
        *how,
        "--image",
        tmp_path / "a.png",
        "--image",
        tmp_path / "b.png",
        "--out",
        tmp_path / "two",
        cwd=tmp_path,
    )
    pixels = np.asarray(Image.open(tmp_path / "two" / "000.png"))
    inside = np.zeros((64, 64), bool)
    inside[20:44, 8:32] = True
    assert (pixels[~inside] == (200, 30, 90)).all()
    assert (pixels[inside] != (200, 30, 90)).any()
    bowerbird("generate", model, "--from", tmp_path / "two" / "001.png", "--out", tmp_path / "again", cwd=tmp_path)
    again = np.asarray(Image.open(tmp_path / "again" / "000.png"))
    assert (again == np.asarray(Image.open(tmp_path / "two" / "001.png"))).all()


def test_what_a_mask_cannot_be_is_one_line(pipe: RACM3Pipeline, kb_path: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    pipe.save_pretrained(model)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("L", (64, 32), 255).save(tmp_path / "wide.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "all.png")
    (tmp_path / "text.png").write_text("no picture")
    how = ["--kb", kb_path, "--image", tmp_path / "a.png", "--prompt", "red circle", "--out", tmp_path / "no"]
    for name, says in (("wide.png", "64 x 32 pixels and the picture 64 x 64"), ("text.png", "text.png")):
        refused("edit", model, *how, "--mask", tmp_path / name, says=says, cwd=tmp_path)
    whole = ["--mask", tmp_path / "all.png"]
    refused("edit", model, *how, *whole, "--strength", 0.5, says="leave out --strength", cwd=tmp_path)
    refused("edit", "tiny-knn", *how, *whole, says="does not fill in", cwd=tmp_path)
    refused("edit", model, *how, says="give --mask F.png", cwd=tmp_path)


def test_a_caption_is_the_likeliest_of_those_drawn(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    picture = kb.get(kb.ids()[:1].tolist()).images()[0][0]
    assert picture is not None
    plain = pipe.caption(picture, knowledge_base=kb, k=1)
    assert plain == pipe.caption(picture, knowledge_base=kb, k=1)
    assert plain.neighbors.ids[0, 0] != kb.ids()[0]  # the picture itself would say all of it
    best = pipe.caption(picture, knowledge_base=kb, k=1, best_of=4, seed=1)
    draws = [
        pipe.caption(picture, knowledge_base=kb, k=1, seed=1 + i, token_sampling=TokenSampling()) for i in range(4)
    ]
    assert best.log_likelihood == pytest.approx(max(draw.log_likelihood for draw in draws), abs=1e-4)
    alone = pipe.caption(picture, k=0)
    assert alone.neighbors.k == 0
    with pytest.raises(BowerbirdError, match=r"k is from 0 to \d for this model, .* got 99"):
        pipe.caption(picture, knowledge_base=kb, k=99)


def test_what_is_wrong_is_said_in_one_line(pipe: RACM3Pipeline, kb: KnowledgeBase) -> None:
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(BowerbirdError, match=r"the prompt has \d+ tokens .* shorten it"):
        pipe("long " * 40, k=0)
    with pytest.raises(BowerbirdError, match=r"caption 1 has"):
        pipe(neighbors=pipe.own_references("x", [picture], ["long " * 40]))
    with pytest.raises(BowerbirdError, match="give `kb`"):
        pipe("red circle")
    with pytest.raises(BowerbirdError, match="k is from 0 to 8"):
        pipe("red circle", knowledge_base=kb, k=9)
    words = build_tokenizer(learn_pairs(["another model"], 520), 34)
    with pytest.raises(BowerbirdError, match="of another model"):
        RACM3Pipeline(pipe.decoder, pipe.vae, words)
    with pytest.raises(BowerbirdError, match="mean something else than the decoder was trained on"):
        RACM3Pipeline(pipe.decoder, pipe.vae, pipe.tokenizer, vocabulary=vocabulary_hash(words))
    assert vocabulary_hash(pipe.tokenizer) == pipe.config.vocabulary


def test_settings_that_contradict_each_other_are_refused(objective: RACM3Objective) -> None:
    recipe = recipes.recipe("tiny-racm3", tiny=True)
    with pytest.raises(BowerbirdError, match="9 and the decoder knows 8"):
        with_settings(recipe, ["system.k=9"])
    with pytest.raises(BowerbirdError, match="to_text and infilled are shares"):
        with_settings(recipe, ["system.to_text=0.7", "system.infilled=0.7"])
    assert isinstance(recipe.system, RACM3Config)
    assert encoders.load("small").shared_dim == objective.cache.vectors.shape[1]


def test_the_pictures_of_a_varied_view_share_its_ground() -> None:
    drawings = load_pictures("drawn", size=64).select(list(range(6)))
    alpha = torch.zeros(6, 64, 64, dtype=torch.uint8)
    alpha[:, 16:48, 16:48] = 255
    drawings, grounds = dataclasses.replace(drawings, alpha=alpha), []
    for number in range(24):
        made = torch.cat(list(varied(drawings, one_variation(seeds.torch_generator(number, "test")), 16, "cpu")))
        assert made.shape == (6, 3, 16, 16)
        corners = made[:, :, 0, 0]
        assert torch.allclose(corners, corners[:1].expand_as(corners), atol=1e-3)
        grounds.append(corners[0])
    assert (torch.stack(grounds) < 0.95).any(1).sum() > 12  # most are not white


def test_processes_have_as_many_documents_in_a_step(objective: RACM3Objective) -> None:
    lengths = [[int(objective.batch(step, 4, rank)["documents"].max()) for rank in (0, 1)] for step in range(12)]
    assert any(one for one, _ in lengths)
    assert all(bool(one) == bool(other) for one, other in lengths)


def test_pictures_without_captions_are_no_documents(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-racm3", tiny=True)
    pictures = read_pictures(recipe, drawn_folder)
    without = dataclasses.replace(pictures, captions=(" ",) * len(pictures))
    with pytest.raises(BowerbirdError, match=r"none of the \d+ pictures has a caption.*caption_column"):
        list(train_recipe(recipe, without, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_best_of_several_is_the_nearest_to_the_prompt_and_is_made_again(pipe: RACM3Pipeline) -> None:
    encoder = encoders.load("small")
    hits = pipe.own_references("red circle", [], ()).repeat(2)
    settings = generation.Settings(steps=256, seed=4, guidance=Guidance("joint", 1.0))
    best = reranking.generate_best(pipe, hits, settings, encoder, 3)
    every = generation.generate(pipe, hits.repeat(3), settings)
    shared = encoder.shared_dim
    text, made = encoder.embed_text(["red circle"])[0, :shared], encoder.embed_images(every)[:, :shared]
    cosines = made @ text / np.linalg.norm(made, axis=1) / np.linalg.norm(text)
    chosen = [int(cosines[:3].argmax()), 3 + int(cosines[3:].argmax())]
    assert best.seeds == [4 + i for i in chosen]
    assert best.scores == pytest.approx(cosines[chosen].tolist(), abs=1e-5)
    again = generation.generate(pipe, hits, settings, picture_seeds=best.seeds)
    assert [image.tobytes() for image in again] == [image.tobytes() for image in best.images]
    with pytest.raises(BowerbirdError, match="give a `prompt`"):
        reranking.generate_best(pipe, dataclasses.replace(hits, queries=()), settings, encoder, 3)


def test_the_command_line_generates_the_best_and_captions(
    pipe: RACM3Pipeline, objective: RACM3Objective, small_kb_path: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    objective.pipeline().save_pretrained(tmp_path / "model")
    options = ("--kb", small_kb_path, "--prompt", "red circle", "-n", "1", "--best-of", "2", "--seed", "3")
    bowerbird("generate", tmp_path / "model", *options, "--out", tmp_path / "o", cwd=tmp_path)
    record = provenance.read_png(tmp_path / "o" / "000.png")
    assert record["request"]["best_of"] == 2
    assert record["seed"] in (3, 4)
    assert record["tokens"] == {"temperature": 1.0, "top_k": 0, "top_p": 0.95, "min_p": 0.1}
    picture = next(drawn_folder.rglob("*.png"))
    said = bowerbird("caption", tmp_path / "model", picture, "--kb", small_kb_path, "--json", cwd=tmp_path)
    [found] = json.loads(said.stdout)["captions"]
    assert found["file"] == str(picture)
    assert len(found["neighbors"]) == 2
    for arguments, message in (
        (("caption", tmp_path / "model", picture), "-k 0"),
        (("caption", "tiny-rdm", picture, "-k", "0"), "writes no captions"),
        (("generate", "x", "--kb", small_kb_path, "--image", picture, "--best-of", "2", "--out", "p"), "--best-of"),
    ):
        refused(*arguments, says=message, cwd=tmp_path)
