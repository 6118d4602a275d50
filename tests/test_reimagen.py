"""Re-Imagen's network, data, cascade and errors, on small random networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bowerbird import Guidance, KnowledgeBase, ReImagenPipeline
from bowerbird.core import provenance, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.diffusion.conditions import FeatureMaps, Tokens
from bowerbird.evaluation import evaluate, features
from bowerbird.evaluation.settings import Settings as EvaluationSettings
from bowerbird.knowledge.neighbors import tables
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.models.text_tower import SmallTextTower, load_text_tower, text_tokens
from bowerbird.systems import generation, jobs, output, queries, records, regeneration
from bowerbird.systems.enlargement import Enlargement
from bowerbird.systems.loading import open_pipeline
from bowerbird.systems.reimagen.batches import back_projected, low_resolution, smoothed
from bowerbird.systems.reimagen.config import NeighborKind
from bowerbird.systems.reimagen.objective import ReImagenObjective
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight drawn, so that nothing is zero at the start and everything can matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def small_network(**options: object) -> NeighborUNet:
    sizes = {
        "sample_size": 16,
        "block_out_channels": (16, 16),
        "layers_per_block": (1, 2),
        "attention": (True, True),
        "itself": (False, True),
    }
    # type: ignore[arg-type, return-value]
    return randomized(NeighborUNet(**(sizes | {"head_channels": 8, "text_dim": 16, "time_dim": 16} | options)))


@pytest.fixture(scope="module")
def pipe(random_reimagen: Path) -> ReImagenPipeline:
    loaded = ReImagenPipeline.from_pretrained(random_reimagen)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(n: int, length: int = 3, seed: int = 5) -> Tokens:
    return Tokens(noise(n, length, 16, seed=seed), torch.ones(n, length))


# -- the network -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_neighbors_are_a_set_with_multiplicities_and_a_mask() -> None:
    network = small_network()
    x, t, text = noise(2, 3, 16, 16), torch.tensor([700, 20]), words(2)
    near, captions = noise(2, 3, 3, 16, 16, seed=1), words(6)
    features = network.encode_neighbors(near, captions, torch.ones(2, 3))
    base = network(x, t, text, features)
    order = [2, 0, 1]
    turned = FeatureMaps(tuple(m[:, order] for m in features.maps), features.weights)
    torch.testing.assert_close(network(x, t, text, turned), base, atol=1e-4, rtol=1e-4)
    twice = FeatureMaps(tuple(m[:, [0, 0, 1, 2]] for m in features.maps), torch.ones(2, 4))
    weighted = FeatureMaps(features.maps, torch.tensor([[2.0, 1, 1]] * 2))
    torch.testing.assert_close(network(x, t, text, weighted), network(x, t, text, twice), atol=1e-4, rtol=1e-4)
    masked = FeatureMaps(features.maps, torch.tensor([[1.0, 0, 1]] * 2))
    fewer = FeatureMaps(tuple(m[:, [0, 2]] for m in features.maps), torch.ones(2, 2))
    torch.testing.assert_close(network(x, t, text, masked), network(x, t, text, fewer), atol=1e-4, rtol=1e-4)
    assert (network(x, t, text, fewer) - base).abs().max() > 1e-3


@torch.no_grad()
def test_nothing_is_the_same_null_for_any_k() -> None:
    network = small_network()
    x, t = noise(2, 3, 16, 16), torch.tensor([700, 20])
    text, features = words(2), network.encode_neighbors(noise(2, 3, 3, 16, 16, seed=1), words(6), torch.ones(2, 3))
    torch.testing.assert_close(network(x, t, text, features.absent()), network(x, t, text, None), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        network(x, t, text.absent(), features), network(x, t, None, features), atol=1e-5, rtol=1e-4
    )
    found = [network(x, t, a, b) for a in (text, None) for b in (features, None)]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


@torch.no_grad()
def test_a_neighbors_caption_and_its_place_matter() -> None:
    network = small_network()
    x, t, text, near = noise(1, 3, 16, 16), torch.tensor([300]), words(1), noise(1, 1, 3, 16, 16, seed=1)
    base = network(x, t, text, network.encode_neighbors(near, words(1), torch.ones(1, 1)))
    other = network(x, t, text, network.encode_neighbors(near, words(1, seed=6), torch.ones(1, 1)))
    mirrored = network(x, t, text, network.encode_neighbors(near.flip(4), words(1), torch.ones(1, 1)))
    assert (other - base).abs().max() > 1e-4
    assert (mirrored - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "millions"), [("reimagen-paper-64", 2500), ("reimagen-paper-256", 750), ("reimagen-paper-1024", 400)]
)
def test_paper_sizes_have_the_published_parameter_counts_and_run(name: str, millions: int) -> None:
    unet = recipes.recipe(name).system.unet  # type: ignore[union-attr]
    with torch.device("meta"), torch.no_grad():
        network = NeighborUNet(**unet.model_dump())
        near, text = (
            torch.empty(1, 2, 3, unet.sample_size, unet.sample_size),
            Tokens(torch.empty(2, 5, 4096), torch.empty(2, 5)),
        )
        level = torch.empty(1) if unet.low_size else None
        features = network.encode_neighbors(near, text, torch.empty(1, 2), near if unet.low_size else None)
        own = Tokens(text.keys[:1], text.weights[:1])
        predicted = network(near[:, 0], torch.empty(1), own, features, near[:, 0] if unet.low_size else None, level)
    assert predicted.shape == (1, 3, unet.sample_size, unet.sample_size)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


@torch.no_grad()
def test_text_tower_knows_order_and_pads_without_trace() -> None:
    tower = randomized(SmallTextTower(buckets=64, dim=16, heads=2))
    alone = tower(["red fox"])
    together = tower(["red fox", "a fox that is red and far from home", ""])
    assert torch.equal(together.keys[:1], alone.keys)  # to the last bit
    assert together.weights.sum(1).tolist() == [3, 10, 0]
    assert (tower(["fox red"]).keys - alone.keys)[:, :3].abs().max() > 1e-3
    torch.testing.assert_close(
        tower.train()(["red fox"]).keys, alone.keys[:, :3], atol=1e-5, rtol=1e-4
    )  # training pads no further than it must


def test_transformers_towers_give_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "fox": 4}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    T5EncoderModel(T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    tokens = text_tokens(*load_text_tower(str(tmp_path)), ["red fox", "fox", ""])
    assert tokens.keys.shape == (3, 128, 8)
    assert tokens.weights.sum(1).tolist() == [2, 1, 0]
    with pytest.raises(BowerbirdError, match="no such directory"):
        load_text_tower(str(tmp_path / "none"))


# -- retrieval and data ------------------------------------------------------------------------------------------------


def test_tables_find_words_and_never_the_item_itself() -> None:
    captions = ["red fox", "red fox", "blue fish", "red fish", "red fox"]
    ids = np.array([1, 2, 3, 4, 1])
    table = tables.caption_graph(captions, [""] * 5, 3, ids=ids)
    assert table[0].tolist() == [1, 3, ABSENT]  # 4 is the same item once more
    other = tables.caption_graph(captions, [""] * 5, 3, ids=ids, exclude=captions)
    assert all(captions[p] != captions[i] for i, row in enumerate(other) for p in row if p != ABSENT)
    vectors = np.eye(5, dtype=np.float32)
    vectors[1] = vectors[0] * 0.999
    looks = tables.neighbor_table(
        "hybrid", captions, [""] * 5, 2, ids=np.arange(5), embeddings=vectors, max_similarity=0.9
    )
    assert 1 not in looks[0]  # the same picture in other form
    with pytest.raises(BowerbirdError, match="embeddings"):
        tables.neighbor_table("dense", captions, [""] * 5, 2, ids=ids)


def test_batch_never_shows_the_target_and_drops_each_condition_alone(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-reimagen-32", tiny=True)
    pictures = read_pictures(recipe.model_copy(update={"limit": None}), drawn_folder)
    objective = build_objective(recipe, pictures, tmp_path)
    texts = weights = 0.0
    for step in range(40):
        batch = objective.batch(step, 32)
        same = (batch["neighbors"] - batch["clean"][:, None]).abs().amax((2, 3, 4)) < 1e-6
        assert not (same & (batch["weights"] > 0)).any()
        texts += np.mean([not t for t in batch["texts"]]) / 40
        weights += float((batch["weights"].sum(1) == 0).float().mean()) / 40
    assert 0.07 < texts < 0.14
    assert weights < 0.2
    first, again = objective.batch(3, 8), objective.batch(3, 8)
    assert all(torch.equal(v, again[k]) if isinstance(v, torch.Tensor) else v == again[k] for k, v in first.items())


def test_a_second_stage_is_added_to_the_first(drawn_folder: Path, tmp_path: Path) -> None:
    from bowerbird.training.loop import train

    first = recipes.recipe("tiny-reimagen-32", tiny=True)
    list(
        train(
            build_objective(first, read_pictures(first, drawn_folder), tmp_path),
            first.train,
            tmp_path / "first",
            device="cpu",
        )
    )
    second = recipes.recipe("tiny-reimagen", tiny=True)
    second = second.model_copy(
        update={"system": second.system.model_copy(update={"base": str(tmp_path / "first" / "model")})}
    )
    list(
        train(
            build_objective(second, read_pictures(second, drawn_folder), tmp_path),
            second.train,
            tmp_path / "second",
            device="cpu",
        )
    )
    whole, base = (ReImagenPipeline.from_pretrained(tmp_path / name / "model") for name in ("first", "second"))
    assert (whole.sizes, base.sizes) == ([16], [16, 32])
    for a, b in zip(whole.unet.parameters(), base.unet.parameters(), strict=True):
        assert torch.equal(a, b)
    lost = second.model_copy(update={"system": second.system.model_copy(update={"base": str(tmp_path / "nowhere")})})
    with pytest.raises(BowerbirdError, match="tiny-reimagen"):
        build_objective(lost, read_pictures(lost, drawn_folder), tmp_path)


def test_low_resolution_is_the_mean_of_each_square() -> None:
    x = noise(2, 5, 3, 8, 8)
    assert low_resolution(x, 4).shape == x.shape
    torch.testing.assert_close(low_resolution(x, 1)[..., 0, 0], x.mean((3, 4)), atol=1e-5, rtol=1e-5)


# -- the pipeline ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


def generated(pipe: ReImagenPipeline, **options: object) -> torch.Tensor:
    images = pipe(**({"num_inference_steps": 3, "output_type": "pt"} | options)).images  # type: ignore[arg-type]
    assert isinstance(images, torch.Tensor)
    return images


def test_cascade_stops_begins_and_refuses_where_asked(pipe: ReImagenPipeline, kb: KnowledgeBase) -> None:
    whole = generated(pipe, prompt="red apple", knowledge_base=kb, seed=4)
    assert whole.shape == (1, 3, 32, 32)
    small = pipe(prompt="red apple", knowledge_base=kb, seed=4, height=16, width=16, num_inference_steps=3).images
    assert small[0].size == (16, 16)
    larger = generated(pipe, prompt="red apple", knowledge_base=kb, low_resolution=small, seed=4)
    assert larger.shape == (1, 3, 32, 32)
    for wrong, says in (
        ({"height": 64, "width": 64}, "16, 32 px"),
        ({"low_resolution": [Image.new("RGB", (24, 24))]}, "enlarges 16 px"),
        ({"low_resolution": small * 2}, "expected 1"),
        ({"low_resolution": small, "height": 16, "width": 16}, "no stage lies between"),
        ({"guidance": [Guidance()] * 3}, "2 stages"),
        ({"k": 100_000}, "100000"),
        ({"level": 5000}, "level"),
    ):
        with pytest.raises(BowerbirdError, match=says):
            pipe(prompt="red apple", knowledge_base=kb, **wrong)
    with pytest.raises(BowerbirdError, match="begin at stage 1"):
        ReImagenPipeline(pipe.text_encoder, pipe.super_resolution, pipe.scheduler)(prompt="x", k=0)


def test_picture_depends_on_its_seed_not_on_its_batch(pipe: ReImagenPipeline, kb: KnowledgeBase) -> None:
    hits = pipe.retrieve(queries.Request(prompts=("red apple", "blue fish", "yellow duck"), k=2), kb)
    together = generated(pipe, neighbors=hits, generator=seeds.picture_generators(5, 3))
    alone = [generated(pipe, neighbors=hits.rows([i]), generator=seeds.picture_generators(5 + i, 1)) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0.05


def test_references_by_hand_are_what_retrieval_would_bring(pipe: ReImagenPipeline, kb: KnowledgeBase) -> None:
    hits = pipe.retrieve(queries.Request(prompts=("red apple",), k=2), kb)
    own = Neighbors.from_images(["red apple"], [p for p in hits.images()[0] if p is not None], list(hits.captions[0]))
    torch.testing.assert_close(generated(pipe, neighbors=own), generated(pipe, neighbors=hits), atol=1e-4, rtol=1e-4)
    swapped = Neighbors.from_images(["red apple"], [Image.new("RGB", (40, 40), "blue")] * 2, ["", ""])
    assert (generated(pipe, neighbors=swapped) - generated(pipe, neighbors=hits)).abs().max() > 0.01
    nothing = generated(pipe, prompt="red apple", k=0)
    torch.testing.assert_close(generated(pipe, neighbors=Neighbors.from_images(["red apple"], [], [])), nothing)
    for balance in (
        None,
        Guidance("joint", 3.0),
        Guidance("weighted", 3.0, 2.0, 0.3),
    ):  # left out is the same as none, whatever the guidance
        left_out = generated(pipe, neighbors=own, weights=[0, 0], guidance=balance)
        torch.testing.assert_close(
            left_out, generated(pipe, prompt="red apple", k=0, guidance=balance), atol=1e-3, rtol=1e-3
        )
    with pytest.raises(BowerbirdError, match="pictures: 1, captions: 0"):
        Neighbors.from_images(["x"], [Image.new("RGB", (8, 8))], [])


def test_the_png_alone_reproduces_the_picture(pipe: ReImagenPipeline, kb: KnowledgeBase, tmp_path: Path) -> None:
    hits = pipe.retrieve(queries.Request(prompts=("red apple", "blue fish"), k=2), kb)
    settings = generation.Settings(steps=4, seed=9, guidance=Guidance("interleaved", 2.0, 3.0, 0.5))
    images = generation.generate(pipe, hits, settings)
    made = records.generation_records(pipe, "model", kb, hits, images, settings, {"prompt": "red apple"})
    paths = output.write(images, made, hits, tmp_path)
    record = provenance.read_png(paths[1])
    assert [len(stage) for stage in record["text_steps"]] == [4, 4]
    assert set("".join(record["text_steps"])) <= {"t", "n"}
    again, _ = regeneration.regenerate(pipe, record)
    assert np.array_equal(np.asarray(again), np.asarray(images[1]))
    assert "pictures" not in json.loads((tmp_path / "generation.jsonl").read_text().splitlines()[0])


def test_a_model_says_how_it_generates_and_a_record_keeps_it(
    pipe: ReImagenPipeline, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """Steps a stage, scale, interval and level come from the model's config, are written into the record, and a record
    from before the model had them is made again as it was."""
    parts = (pipe.text_encoder, pipe.unet, pipe.scheduler)
    how = {
        "num_inference_steps": [4, 2],
        "guidance_scale": 2.0,
        "guidance_interval": [0.5, 1.0],
        "level": 5,
        "back_projection": True,
        "smoothing": 20,
    }
    config = how | {"text_ratio": 0.0}
    ReImagenPipeline(*parts, super_resolution=pipe.super_resolution, **config).save_pretrained(tmp_path / "model")
    own = open_pipeline(str(tmp_path / "model"))
    hits = own.retrieve(queries.Request(prompts=("red apple",), k=1), kb)
    settings = generation.default_settings(own)
    assert (settings.steps, settings.guidance_scale, settings.guidance_interval) == ((4, 2), 2.0, (0.5, 1.0))
    assert settings.enlargement == Enlargement(5, back_projection=True, smoothing=20)
    drawn = {"neighbors": hits, "generator": seeds.picture_generators(0, 1), "output_type": "pt"}
    by_hand = own.balance(Guidance("interleaved", 1.25, 2.0, 0.0), 1.0)
    assert own.balance(None, 2.0) == by_hand
    assert jobs.settings_of(own, jobs.Job(prompt="red apple")).guidance == by_hand[0]
    asked = own(**(drawn | {"generator": seeds.picture_generators(0, 1)} | how)).images
    assert torch.equal(own(**drawn).images, asked)

    images = generation.generate(own, hits, settings)
    record = records.generation_records(own, "model", kb, hits, images, settings, {"prompt": "red apple"})[0]
    assert (record["steps"], record["guidance_interval"], record["enlargement"]["level"]) == ([4, 2], [0.5, 1.0], 5)
    again, _ = regeneration.regenerate(own, json.loads(json.dumps(record)))
    assert np.array_equal(np.asarray(again), np.asarray(images[0]))

    before = generation.Settings(steps=3)  # as a model without settings of its own
    old = generation.generate(pipe, hits, before)
    record = records.generation_records(pipe, "model", kb, hits, old, before, {"prompt": "red apple"})[0]
    assert not {"enlargement", "guidance_interval"} & set(record)
    again, _ = regeneration.regenerate(own, json.loads(json.dumps(record)))
    assert np.array_equal(np.asarray(again), np.asarray(old[0]))

    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    damaged = {"level": 5000}, {"smoothing": 300}, {"guidance_interval": [0.5, 7]}, {"num_inference_steps": [4, 0]}
    for wrong in damaged:
        (tmp_path / "model" / "model_index.json").write_text(json.dumps(index | wrong))
        with pytest.raises(BowerbirdError, match=next(iter(wrong))):
            open_pipeline(str(tmp_path / "model"))


def test_an_enlarged_picture_keeps_the_colors_of_the_smaller(pipe: ReImagenPipeline, kb: KnowledgeBase) -> None:
    low, larger = noise(2, 3, 8, 8).tanh() * 0.5, noise(2, 3, 32, 32, seed=1).tanh() * 0.1
    shifted = F.interpolate(low, size=32, mode="nearest") + larger + 0.2  # the same picture, lighter
    before, after = (
        (F.interpolate(x, size=8, mode="area") - low).abs().mean() for x in (shifted, back_projected(shifted, low))
    )
    assert before > 0.19
    assert after < 0.05
    # a first stage that predicts velocities is not followed, a stage of clean pictures is
    hits = pipe.retrieve(queries.Request(prompts=("red apple",), k=1), kb)
    plain = generated(pipe, neighbors=hits, seed=3)
    assert torch.equal(generated(pipe, neighbors=hits, seed=3, back_projection=True), plain)
    third = randomized(small_network(sample_size=64, low_size=32, prediction_type="sample"), 2)
    clean = randomized(small_network(sample_size=32, low_size=16, prediction_type="sample"), 1)
    parts = {"super_resolution": clean, "super_resolution_2": third}
    cascade = ReImagenPipeline(pipe.text_encoder, pipe.unet, pipe.scheduler, **parts)
    cascade.set_progress_bar_config(disable=True)
    below = generated(cascade, neighbors=hits, seed=3, height=32, width=32) * 2 - 1
    away = []
    for projected in (False, True):
        made = generated(cascade, neighbors=hits, seed=3, back_projection=projected) * 2 - 1
        away.append((F.interpolate(made, size=32, mode="area") - below).abs().mean())
    assert away[1] < away[0] * 0.7


def test_smoothing_takes_the_grain_of_flat_areas_and_leaves_edges(pipe: ReImagenPipeline, kb: KnowledgeBase) -> None:
    flat = torch.full((1, 3, 32, 32), -0.5)
    flat[..., 16:] = 0.5
    grained = flat + 6 / 127.5 * noise(1, 3, 32, 32)
    made = smoothed(grained, 20)
    assert (made - flat).square().mean() < 0.1 * (grained - flat).square().mean()
    torch.testing.assert_close(smoothed(flat, 20), flat, atol=1e-4, rtol=0)
    hits = pipe.retrieve(queries.Request(prompts=("red apple",), k=1), kb)
    plain = generated(pipe, neighbors=hits, seed=3)
    expected = (smoothed(plain * 2 - 1, 20) + 1) / 2
    torch.testing.assert_close(generated(pipe, neighbors=hits, seed=3, smoothing=20), expected, atol=1e-5, rtol=0)
    with pytest.raises(BowerbirdError, match="smoothing"):
        generated(pipe, neighbors=hits, smoothing=-1)


def test_an_interval_guides_a_part_of_the_steps_and_a_weight_below_one_all(
    pipe: ReImagenPipeline, kb: KnowledgeBase
) -> None:
    hits = pipe.retrieve(queries.Request(prompts=("red apple",), k=1), kb)

    def made(**options: object) -> torch.Tensor:
        return generated(pipe, neighbors=hits, height=16, width=16, seed=3, **options)

    everywhere = made(guidance_scale=3.0)
    assert torch.equal(made(guidance_scale=3.0, guidance_interval=(0.0, 1.0)), everywhere)
    assert not torch.equal(made(guidance_scale=3.0, guidance_interval=(0.5, 1.0)), everywhere)
    assert torch.equal(made(guidance_scale=3.0, guidance_interval=(0.0, 0.1)), made(guidance_scale=1.0))
    assert torch.equal(made(guidance_scale=0.0, guidance_interval=(0.5, 1.0)), made(guidance_scale=0.0))
    with pytest.raises(BowerbirdError, match="guidance_interval"):
        made(guidance_interval=(0.9, 0.5))


def test_an_evaluation_asks_in_words(pipe: ReImagenPipeline, small_kb_path: Path) -> None:
    kb = KnowledgeBase.open(small_kb_path)
    pictures = load_pictures("drawn").select(list(range(0, 216, 12)))
    settings = EvaluationSettings(n=4, k=2, metrics=("fid",), generate=generation.Settings(steps=2, seed=5))
    found = evaluate.evaluate(pipe, kb, pictures, features.load("gradients"), settings)
    assert set(found.hits.queries) <= set(pictures.captions)
    assert found.report["distribution"]["n generated"] == 4


def test_one_condition_models_refuse_a_balance(random_rdm: Path, kb: KnowledgeBase) -> None:
    from bowerbird import RDMPipeline

    rdm = RDMPipeline.from_pretrained(random_rdm)
    with pytest.raises(BowerbirdError, match="reads no text"):
        generation.generate(rdm, kb.search(text="apple", k=2), generation.Settings(steps=2, guidance=Guidance()))


def test_pictures_of_another_size_are_refused(drawn_folder: Path) -> None:
    pictures: Pictures = load_pictures(drawn_folder, size=24)
    recipe = recipes.recipe("tiny-reimagen-32", tiny=True)
    with pytest.raises(BowerbirdError, match="24 px"):
        ReImagenObjective(recipe.system, pictures, 0)  # type: ignore[arg-type]
    assert dataclasses.is_dataclass(pictures)


def test_a_varied_target_is_its_own_first_neighbor_and_has_no_other(drawn_folder: Path) -> None:
    recipe = recipes.recipe("reimagen-drawings-32", tiny=True)
    draws = (NeighborKind(kind="itself", share=1.0, style_named=0.0),)
    always = {"draws": draws, "varied": 1.0, "itself_exact": 1.0, "neighbors_null": 0.0, "text_null": 0.0}
    config = recipe.system.model_copy(update=always)
    pictures = load_pictures(drawn_folder, size=128, transparency=True)
    objective = ReImagenObjective(config, pictures, 0)  # type: ignore[arg-type]
    assert objective.pictures.size == 16
    for step in range(4):
        batch = objective.batch(step, 8)
        assert torch.equal(batch["neighbors"][:, 0], batch["clean"])
        assert batch["weights"][:, 0].tolist() == [1.0] * 8
        assert not batch["weights"][:, 1:].any()
    without = config.model_copy(update={"varied": 0.0})
    plain = ReImagenObjective(without, objective.pictures, 0).batch(0, 8)  # type: ignore[arg-type]
    assert not torch.equal(plain["clean"], objective.batch(0, 8)["clean"])
