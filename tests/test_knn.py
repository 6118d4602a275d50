"""KNN-Diffusion: its condition, its pipelines and its edits, on small networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import KNNDiffusionPipeline, KNNDiscretePipeline, KnowledgeBase, RDMPipeline, encoders
from bowerbird.core import contact_sheet, provenance, seeds
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import ABSENT, Neighbors
from bowerbird.data.pictures import load_pictures
from bowerbird.diffusion import conditioning, guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models.unet import widen
from bowerbird.systems import generation, output, records, regeneration, relevance
from bowerbird.systems.knn import ecc, edit_source
from bowerbird.systems.knn.batches import add_noise
from bowerbird.systems.knn.edit_data import EditSettings, region, replace_part
from bowerbird.systems.queries import Request
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


@pytest.fixture(scope="module")
def pipe(tiny_knn: Path) -> KNNDiffusionPipeline:
    loaded = KNNDiffusionPipeline.from_pretrained(tiny_knn)
    loaded.set_progress_bar_config(disable=True)
    with torch.no_grad():  # two steps of training leave what reads the edit and marks the query near zero
        for name, parameter in loaded.unet.named_parameters():
            if name in ("conv_in.weight", "encoder_hid_proj.weight"):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return loaded


@pytest.fixture(scope="module")
def discrete_pipe(tiny_tokens: Path) -> KNNDiscretePipeline:
    loaded = KNNDiscretePipeline.from_pretrained(tiny_tokens)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generated(pipe: Any, **asked: Any) -> torch.Tensor:
    return pipe(num_inference_steps=3, output_type="latent", **asked).images


# -- the condition -----------------------------------------------------------------------------------------------------


def test_of_a_query_only_the_shared_numbers_count_and_it_is_marked() -> None:
    embeddings = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    queries = torch.tensor([[True, False, False]]).expand(2, 3)
    weights = torch.tensor([[1.0, 1, 1], [0, 1, 1]])
    keys = conditioning.query_tokens(embeddings, weights, queries, 5).neighbors.keys  # type: ignore[union-attr]
    text = embeddings.clone()
    text[:, 0, 5:] = 0  # a text has no more than the shared numbers
    # type: ignore[union-attr]
    torch.testing.assert_close(conditioning.query_tokens(text, weights, queries, 5).neighbors.keys, keys)
    assert keys.shape == (2, 3, 9)
    assert keys[0, :, -1].bool().tolist() == [True, False, False]
    assert not keys[1, 0].any()  # a dropped query says nothing, not even that it was one
    plain = conditioning.neighbor_tokens(embeddings, weights, normalize=True).neighbors.keys  # type: ignore[union-attr]
    torch.testing.assert_close(keys[:, 1:, :-1], plain[:, 1:])


def test_nothing_asked_is_the_null() -> None:
    condition = conditioning.query_tokens(torch.randn(1, 2, 4), torch.zeros(1, 2), torch.tensor([[True, False]]), 2)
    for part in ("keys", "weights"):
        assert torch.equal(getattr(condition.neighbors, part), getattr(condition.neighbors_null, part))


def test_noise_on_queries_leaves_the_cosine_it_should() -> None:
    queries = torch.nn.functional.normalize(torch.randn(4000, 144, generator=torch.Generator().manual_seed(0)), dim=1)
    queries = torch.cat([queries, torch.ones(4000, 3)], 1)
    found = add_noise(queries, torch.full((4000,), 1.3), 144, torch.Generator().manual_seed(1))
    cosine = torch.nn.functional.cosine_similarity(found[:, :144], queries[:, :144])
    assert abs(float(cosine.mean()) - 1 / np.sqrt(1 + 1.3**2)) < 0.01
    assert torch.equal(found[:, 144:], queries[:, 144:])
    torch.testing.assert_close(add_noise(queries, torch.zeros(4000), 144, torch.Generator())[:, :144], queries[:, :144])


def test_a_widened_network_says_the_same_until_it_is_trained(random_rdm: Path) -> None:
    unet = RDMPipeline.from_pretrained(random_rdm).unet
    dim = int(unet.config.encoder_hid_dim)
    wider = widen(unet, 8, dim + 1)
    x, keys = torch.randn(2, 4, 16, 16), torch.randn(2, 3, dim)
    with torch.no_grad():
        said = unet(x, torch.tensor([5, 900]), encoder_hidden_states=keys).sample
        more = torch.cat([x, torch.randn(2, 4, 16, 16)], 1)
        found = wider(
            more, torch.tensor([5, 900]), encoder_hidden_states=torch.cat([keys, torch.ones(2, 3, 1)], -1)
        ).sample
    torch.testing.assert_close(found, said, atol=1e-5, rtol=1e-5)


def test_training_sees_no_text_drops_each_part_alone_and_never_shows_the_target_as_neighbor(
    drawn_folder: Path, tmp_path: Path
) -> None:
    recipe = recipes.recipe("tiny-knn", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    shares = np.zeros(4)
    for step in range(60):
        batch = objective.batch(step, 16)
        query, near = batch["weights"][:, 0] > 0, (batch["weights"][:, 1:] > 0).any(1)
        shares += [
            float(x.float().mean()) / 60
            for x in (query & near, query & ~near, ~query & near, batch["image"].flatten(1).any(1))
        ]
    assert 0.5 < shares[0] < 0.72
    assert shares[1] > 0.06
    assert shares[2] > 0.09
    assert 0.3 < shares[3] < 0.5  # edits
    cache = objective.cache
    for table in cache.tables:
        assert not (table == torch.arange(len(table))[:, None]).any()
    first, again = objective.batch(3, 8), objective.batch(3, 8)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    renamed = dataclasses.replace(read_pictures(recipe, drawn_folder), captions=("",) * len(objective.cache.ids))
    silent = build_objective(recipe, renamed, tmp_path / "silent").batch(3, 8)
    assert all(torch.equal(value, silent[key]) for key, value in first.items())


# -- edits in training -------------------------------------------------------------------------------------------------


def test_a_moved_picture_is_laid_back_and_a_blank_one_is_not() -> None:
    yy, xx = np.mgrid[:64, :64]
    fixed = np.full((64, 64, 3), 255, np.uint8)
    fixed[(xx - 30) ** 2 / 300 + (yy - 34) ** 2 / 150 < 1] = (200, 60, 20)
    fixed[(xx - 26) ** 2 + (yy - 30) ** 2 < 12] = 0
    moved = np.roll(fixed, (3, -4), (0, 1))
    found = ecc.align(moved, fixed)
    assert found is not None
    before, after = (np.abs(side.astype(int) - fixed).mean() for side in (moved, found))
    assert after < before / 4
    assert ecc.align(np.full_like(fixed, 255), fixed) is None


def test_regions_lie_on_the_drawing() -> None:
    drawn = np.zeros((64, 64), bool)
    drawn[20:30, 40:50] = True
    masks = [region(np.random.default_rng(i), drawn, EditSettings()) for i in range(100)]
    assert all((mask * drawn).max() > 0.3 for mask in masks)
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks)


def test_a_whole_edit_takes_the_neighbor_most_like_the_picture_and_some_change_nothing() -> None:
    target = np.full((64, 64, 3), 255, np.uint8)
    target[20:40, 20:40] = (200, 40, 40)
    like, unlike = target.copy(), np.full_like(target, 90)
    like[30:36, 24:30] = (20, 200, 40)
    made = [
        replace_part(np.random.default_rng(i), target, np.stack([unlike, like]), EditSettings(whole=0.6, same=0.3))
        for i in range(60)
    ]
    same = [np.array_equal(picture, target) for picture, _ in made]
    whole = [(picture, mask) for (picture, mask), s in zip(made, same, strict=True) if not s and mask.min() == 1]
    assert 0.15 < np.mean(same) < 0.45
    assert 0.4 < len(whole) / 60 < 0.75
    assert all(np.abs(picture.astype(int) - target).mean() < 10 for picture, _ in whole)


def test_edits_differ_from_the_picture_in_a_region_only(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-knn", tiny=True)
    whole = recipe.model_copy(
        update={
            "system": recipe.system.model_copy(
                update={"edits": EditSettings(each=2, whole=0.0, same=0.0, sides=(0.2, 0.3))}
            )
        }
    )
    objective = build_objective(whole, read_pictures(whole, drawn_folder), tmp_path)
    edits, cache = objective.edits, objective.cache
    clean = cache.latents[edits.view, torch.arange(len(edits.view))[:, None]].float()
    apart = (edits.latents.float() - clean).abs().amax(2)
    changed = (apart > 0.25).float().mean((2, 3))
    assert changed.mean() < 0.35  # a region of 20 to 30% of each side, seen through the encoder's field
    assert changed.max() > 0.02


# -- the pipelines -----------------------------------------------------------------------------------------------------


def test_the_query_comes_first_and_then_k_neighbors(pipe: KNNDiffusionPipeline, kb: KnowledgeBase) -> None:
    hits = pipe.retrieve(Request(prompts=("star", "moon"), k=3), kb)
    assert hits.ids.shape == (2, 4)
    assert (hits.ids[:, 0] < ABSENT).all()
    assert (hits.ids[:, 1:] >= 0).all()
    np.testing.assert_array_equal(hits.ids[:, 1:], kb.search(text=["star", "moon"], k=3, mode="hybrid").ids)
    np.testing.assert_allclose(hits.embeddings[:, 0], kb.encoder.embed_text(["star", "moon"]))
    picture = kb.get(kb.ids()[:1].tolist()).images()[0][0]
    assert picture is not None
    assert pipe.retrieve(Request(images=(picture, picture), k=3), kb).k == 5
    out = pipe(prompt="star", knowledge_base=kb, k=0, num_inference_steps=1)
    assert out.neighbors.k == 1


def test_query_and_neighbors_both_matter_and_k_is_free(pipe: KNNDiffusionPipeline, kb: KnowledgeBase) -> None:
    hits = pipe.retrieve(Request(prompts=("star",), k=3), kb)
    other = pipe.retrieve(Request(prompts=("moon",), k=3), kb)
    base = generated(pipe, neighbors=hits)
    swapped = dataclasses.replace(hits, embeddings=np.concatenate([other.embeddings[:, :1], hits.embeddings[:, 1:]], 1))
    assert (generated(pipe, neighbors=swapped) - base).abs().max() > 1e-3
    assert (generated(pipe, neighbors=hits.select([0])) - base).abs().max() > 1e-3
    assert (generated(pipe, neighbors=hits.select([1, 2, 3])) - base).abs().max() > 1e-3
    turned = hits.select([3, 0, 2, 1])  # a set: the query is known by its mark, not by its place
    torch.testing.assert_close(generated(pipe, neighbors=turned), base, atol=1e-4, rtol=1e-3)
    for k in (1, 9):
        assert generated(pipe, prompt="star", knowledge_base=kb, k=k).shape == base.shape


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_picture_depends_on_its_seed_alone(
    kind: str, pipe: KNNDiffusionPipeline, discrete_pipe: KNNDiscretePipeline, kb: KnowledgeBase
) -> None:
    chosen = pipe if kind == "continuous" else discrete_pipe
    both = generated(chosen, prompt=["star", "moon"], knowledge_base=kb, seed=7)
    alone = generated(chosen, prompt="moon", knowledge_base=kb, seed=8)
    torch.testing.assert_close(both[1:].float(), alone.float(), atol=1e-4, rtol=1e-3)


def test_searching_again_follows_the_picture_and_needs_a_database(
    pipe: KNNDiffusionPipeline, discrete_pipe: KNNDiscretePipeline, kb: KnowledgeBase
) -> None:
    for chosen in (pipe, discrete_pipe):
        once, again, last = (
            chosen(prompt="star", knowledge_base=kb, k=3, num_inference_steps=4, retrieval_interval=every)
            for every in (0, 2, 4)
        )
        assert (once.neighbors.ids == last.neighbors.ids).all()  # after the last step nothing is generated any more
        styled = chosen(
            prompt="star", knowledge_base=kb, k=3, num_inference_steps=4, retrieval_interval=1, where="style = 'ink'"
        )
        assert all(row["style"] == "ink" for row in styled.neighbors.metadata[0][1:])
        with pytest.raises(BowerbirdError, match="number of steps"):
            chosen(prompt="star", knowledge_base=kb, num_inference_steps=1, retrieval_interval=-1)
        assert (once.neighbors.ids[:, 0] == again.neighbors.ids[:, 0]).all()
        assert (once.neighbors.ids != again.neighbors.ids).any()  # an untrained network generates no star
        assert again.neighbors.ids.shape == once.neighbors.ids.shape
        with pytest.raises(BowerbirdError, match="knowledge_base"):
            chosen(neighbors=once.neighbors, num_inference_steps=2, retrieval_interval=1)


def test_relevance_is_a_quantile_of_the_database_s_own_similarities(
    pipe: KNNDiffusionPipeline, kb: KnowledgeBase
) -> None:
    dim = encoders.load("small").shared_dim
    ids = kb.ids().tolist()
    items = kb.get(ids)
    pictures, texts = items.embeddings[0][:, :dim], kb.encoder.embed_text(items.captions[0])[:, :dim]
    cosines = (pictures * texts).sum(1) / np.linalg.norm(pictures, axis=1) / np.linalg.norm(texts, axis=1)
    assert abs(relevance.threshold(kb, 0.3, dim, text=True) - np.quantile(cosines, 0.3)) < 1e-5
    hits = pipe.retrieve(Request(prompts=("star",), k=8), kb)
    kept = {q: relevance.keep(kb, hits, q, dim) for q in (0.0, 0.5, 1.0)}
    counts = [int(found.mask.sum()) for found in kept.values()]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= 2 < counts[0]
    for found in kept.values():
        assert found.ids[0, 0] < ABSENT
        assert not (np.diff(found.mask[0].astype(int)) > 0).any()  # what is absent stands last
    with pytest.raises(BowerbirdError, match="quantile"):
        relevance.keep(kb, hits, 1.5, dim)
    assert pipe(prompt="star", knowledge_base=kb, min_relevance=1.0, num_inference_steps=1).neighbors.mask.sum() <= 2


def test_edit_guidance_at_its_corners() -> None:
    def predict(x: torch.Tensor, t: torch.Tensor, c: Conditioning) -> torch.Tensor:
        return x + c.neighbors.keys.sum((1, 2))[:, None]  # type: ignore[union-attr]

    asked, own = (Conditioning(Tokens(torch.full((1, 1, 3), value), torch.ones(1, 1))) for value in (4.0, 1.0))
    x, t = torch.zeros(1, 2), torch.tensor(1)
    for scale, preservation, expected in (
        (1, 0, 12.0),
        (0, 0, 3.0),
        (3, 0, 30.0),
        (1, 1, 12.0 + 100 - 3),
        (3, 0.5, 30 + 0.5 * (100 - 3)),
    ):
        found = guidance.edit_guidance(predict, asked, own, scale, preservation, lambda x, t: x + 100)(x, t, 0)
        assert float(found[0, 0]) == pytest.approx(expected)


def test_a_network_s_faults_cancel_at_full_fidelity(pipe: KNNDiffusionPipeline, kb: KnowledgeBase) -> None:
    """Asked for what the picture is already, an edit returns it, however badly the network generates."""
    source = kb.get(kb.ids()[:1].tolist()).images()[0][0]
    assert source is not None
    started = edit_source.encode_source(pipe.vae, source, 1, 64, pipe.device)
    hits = edit_source.own_query(encoders.load("small"), [source], 1)
    made = pipe(
        neighbors=hits,
        source=source,
        guidance_scale=1.0,
        preservation=1.0,
        num_inference_steps=20,
        output_type="latent",
    ).images
    loose = pipe(
        neighbors=hits,
        source=source,
        guidance_scale=1.0,
        preservation=0.0,
        num_inference_steps=20,
        output_type="latent",
    ).images
    assert (made - started.latents).abs().max() < 0.05
    assert (loose - started.latents).abs().max() > 0.5


def test_an_edit_is_of_the_whole_picture_in_its_shape(pipe: KNNDiffusionPipeline, kb: KnowledgeBase) -> None:
    source = Image.new("RGB", (120, 70), "navy")
    source.paste("orange", (4, 20, 34, 50))  # outside the middle square
    hits = kb.search(text=["star"], k=1)
    made = pipe(neighbors=hits, source=source, num_inference_steps=1, preservation=1.0, change_threshold=9.0).images[0]
    assert made.size == (64, 37)
    red = np.asarray(made)[:, :, 0].astype(int)
    assert red[18, 10] > 150 > 100 > red[18, 40], "what lies at the side is kept in its place"


def test_strength_takes_so_many_steps_and_keeps_the_source_at_little(
    pipe: KNNDiffusionPipeline, kb: KnowledgeBase
) -> None:
    source = kb.get(kb.ids()[:1].tolist()).images()[0][0]
    assert source is not None
    known = edit_source.encode_source(pipe.vae, source, 1, 64, pipe.device).latents
    seen: list[int] = []

    def count(_: Any, i: int, t: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(t)
        return kwargs

    distances = []
    for sampler in schedulers.SAMPLERS:
        pipe.set_sampler(sampler)
        for strength, steps in ((0.1, 1), (0.5, 5), (1.0, 10)):
            seen.clear()
            made = pipe(
                prompt="star",
                source=source,
                knowledge_base=kb,
                strength=strength,
                num_inference_steps=10,
                guidance_scale=1.0,
                preservation=0.0,
                output_type="latent",
                callback_on_step_end=count,
            ).images
            assert len(seen) == steps
            distances.append(float((made - known).abs().mean()))
        assert distances[-3] < 0.5 * distances[-1]
    pipe.set_sampler("dpmsolver++")
    for strength in (0.0, 1.1):
        with pytest.raises(BowerbirdError, match="strength"):
            pipe(prompt="star", source=source, knowledge_base=kb, strength=strength)


def test_the_source_of_an_edit_matters_and_several_go_to_their_prompts(
    pipe: KNNDiffusionPipeline, kb: KnowledgeBase
) -> None:
    sources = [picture for picture in kb.get(kb.ids()[:2].tolist()).images()[0] if picture is not None]
    hits = pipe.retrieve(Request(prompts=("star", "star"), k=2), kb)
    generators = seeds.picture_generators(0, 1) * 2
    first, second = generated(
        pipe, neighbors=hits, source=sources, generator=[generators[0], seeds.picture_generators(0, 1)[0]]
    )
    assert (first - second).abs().max() > 1e-3
    alone = generated(pipe, neighbors=hits.rows([1]), source=sources[1], seed=0)
    torch.testing.assert_close(alone[0], second, atol=1e-4, rtol=1e-3)
    for wrong in (sources, []):
        with pytest.raises(BowerbirdError, match="pictures to edit"):
            pipe(neighbors=hits.repeat(2).rows([0, 1, 2]), source=wrong)
    gray = pipe(neighbors=hits.rows([0]), source=sources[0].convert("LA"), num_inference_steps=1)
    assert gray.images[0].mode == "RGB"
    with pytest.raises(BowerbirdError, match="strength 1"):
        pipe(neighbors=hits.rows([0]), source=sources[0], show_source=False)


def test_weights_are_one_a_neighbor_or_one_more_for_the_query(pipe: KNNDiffusionPipeline, kb: KnowledgeBase) -> None:
    base = generated(pipe, prompt="star", knowledge_base=kb, k=2)
    one, two = (generated(pipe, prompt="star", knowledge_base=kb, k=2, weights=w) for w in ([2, 0], [1, 2, 0]))
    torch.testing.assert_close(one, two)
    assert (one - base).abs().max() > 1e-4
    with pytest.raises(BowerbirdError, match="weights"):
        generated(pipe, prompt="star", knowledge_base=kb, k=2, weights=[1])
    half = KNNDiffusionPipeline(
        pipe.unet.to(torch.bfloat16), pipe.vae, pipe.scheduler, shared_dim=pipe.config.shared_dim
    )
    try:
        with pytest.raises(BowerbirdError, match="float32"):
            generated(half, prompt="star", knowledge_base=kb, k=2, weights=[2, 1])
    finally:
        pipe.unet.to(torch.float32)


def test_where_little_changed_the_source_s_own_pixels_stay() -> None:
    latents = torch.zeros(1, 4, 16, 16)
    source = edit_source.Source([], [], torch.full((1, 3, 64, 64), -0.5), latents)
    generated = torch.full((1, 3, 64, 64), 0.9)
    faint, plain = latents + 0.15, latents.clone()
    plain[:, :, 4, 4] = 2.0
    assert torch.equal(edit_source.paste_unchanged(generated, source, faint, 0.4), source.pixels)
    assert torch.equal(edit_source.paste_unchanged(generated, source, faint, 0.0), generated)
    edited = generated.clone()
    edited[:, :, 16:20, 16:20] = torch.tensor([-0.9, 0.2, -0.9])[:, None, None]
    found = edit_source.paste_unchanged(edited, source, plain, 0.4)
    assert torch.allclose(found[0, :, 18, 18], torch.tensor([-0.9, 0.2, -0.9]))
    assert torch.equal(found[..., 40:, 40:], source.pixels[..., 40:, 40:])
    assert torch.equal(edit_source.paste_unchanged(generated, source, latents + 1.0, 0.4), generated)


def test_a_ground_that_comes_back_in_a_color_a_little_off_leaves_no_halo() -> None:
    cream, white = (torch.tensor(color)[:, None, None] for color in ([0.96, 0.88, 0.68], [0.88, 0.92, 0.9]))
    red, blue = (torch.tensor(color)[:, None, None] for color in ([0.6, -0.7, -0.7], [-0.8, 0.0, 0.9]))
    pixels, edited = cream.repeat(1, 64, 64)[None], white.repeat(1, 64, 64)[None]
    pixels[:, :, 20:44, 20:44], edited[:, :, 24:44, 24:44] = red, blue  # smaller: some ground comes to light
    latents, changed = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)
    changed[:, :, 5:11, 5:11] = 2.0
    found = edit_source.paste_unchanged(edited, edit_source.Source([], [], pixels, latents), changed, 0.4)
    wanted = cream.repeat(1, 64, 64)[None]
    wanted[:, :, 24:44, 24:44] = blue
    assert (found - wanted).abs().max() < 0.02
    # where all of the picture changed there is nothing to compare with: a little lighter is what was asked for
    everywhere = torch.full((1, 4, 16, 16), 2.0)
    lighter = (pixels + 0.1).clamp(-1, 1)
    found = edit_source.paste_unchanged(lighter, edit_source.Source([], [], pixels, latents), everywhere, 0.4)
    assert torch.allclose(found, lighter)


def test_an_edit_is_generated_again_from_its_png(
    pipe: KNNDiffusionPipeline, kb: KnowledgeBase, random_rdm: Path, tmp_path: Path
) -> None:
    source = load_pictures("drawn", size=50).pixels[3].permute(1, 2, 0).numpy()
    sources = [Image.fromarray(source)] * 2
    hits = pipe.retrieve(Request(prompts=("moon",), k=2), kb, 2)
    settings = generation.Settings(steps=3, strength=0.7, preservation=0.4)
    images = generation.generate(pipe, hits, settings, sources=sources)
    made = records.generation_records(pipe, "tiny-knn", kb, hits, images, settings, {"prompt": "moon"}, sources=sources)
    paths = output.write(images, made, hits, tmp_path, sources=sources)
    record = provenance.read_png(paths[1])
    again, _ = regeneration.regenerate(pipe, record)
    assert np.array_equal(np.asarray(again), np.asarray(images[1]))
    assert '"source"' not in (tmp_path / "generation.jsonl").read_text()
    record["edit"]["strength"] = 0.2
    assert not np.array_equal(np.asarray(regeneration.regenerate(pipe, record)[0]), np.asarray(images[1]))
    for damage in ({"source": "no picture"}, {"strength": None}, {"show_source": []}, None):
        hostile = {**record, "edit": None if damage is None else {**record["edit"], **damage}}
        if damage == {"show_source": []}:
            hostile["edit"]["strength"] = 1.0  # image-to-image from noise alone
        with pytest.raises(BowerbirdError):
            regeneration.regenerate(pipe, hostile)
    del record["edit"]["strength"]
    with pytest.raises(BowerbirdError, match="damaged"):
        regeneration.regenerate(pipe, record)
    rdm = RDMPipeline.from_pretrained(random_rdm)
    with pytest.raises(BowerbirdError, match="does not edit"):
        generation.generate(rdm, hits, settings, sources=sources)


def test_difference_is_white_where_pictures_agree() -> None:
    before, after = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "red")
    after.putpixel((2, 3), (0, 0, 255))
    found = contact_sheet.difference(before, after)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((2, 3)) == (0, 0, 0)


def test_what_does_not_belong_is_refused(
    pipe: KNNDiffusionPipeline, discrete_pipe: KNNDiscretePipeline, kb: KnowledgeBase, random_rdm: Path
) -> None:
    narrow = Neighbors(
        ids=np.zeros((1, 1), np.int64),
        scores=np.ones((1, 1), np.float32),
        embeddings=np.ones((1, 1, 7), np.float32),
        captions=(("",),),
    )
    for chosen in (pipe, discrete_pipe):
        with pytest.raises(MismatchError, match="7 dimensions"):
            chosen(neighbors=narrow)
        with pytest.raises(BowerbirdError, match="knowledge base"):
            chosen(prompt="star")
        with pytest.raises(BowerbirdError, match="k is the number"):
            chosen(prompt="star", knowledge_base=kb, k=-1)
        with pytest.raises(BowerbirdError, match="p_D"):
            chosen.retrieve(Request(unconditional=True), kb)
    for wrong in ({"height": 32, "width": 32}, {"eta": 0.5}, {"truncation": 0.0}, {"num_inference_steps": 0}):
        with pytest.raises(BowerbirdError, match="tokens"):
            discrete_pipe(prompt="star", knowledge_base=kb, **wrong)
    with pytest.raises(BowerbirdError, match="posterior"):
        discrete_pipe.set_sampler("ddim")
    plain = widen(RDMPipeline.from_pretrained(random_rdm).unet, 4, encoders.load("small").dim + 1)
    reader = KNNDiffusionPipeline(plain, pipe.vae, pipe.scheduler, shared_dim=144)
    with pytest.raises(BowerbirdError, match="without editing"):
        reader(prompt="star", source=Image.new("RGB", (9, 9)), knowledge_base=kb)


def test_only_what_differs_from_its_base_is_bundled(tmp_path: Path) -> None:
    base = RDMPipeline.from_pretrained("tiny-rdm")
    unet = widen(base.unet, 8, encoders.load("small").dim + 1)
    with torch.no_grad():
        unet.conv_out.bias.add_(1.0)
    unet.half().float()
    pipe = KNNDiffusionPipeline(unet, base.vae, base.scheduler, shared_dim=144)
    pipe.save_over(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 400_000
    base.unet.conv_out.bias.data.add_(1.0)
    again = KNNDiffusionPipeline.from_pretrained(tmp_path)
    assert again.fingerprint() == pipe.fingerprint()
    again.save_pretrained(tmp_path / "whole")
    assert KNNDiffusionPipeline.from_pretrained(tmp_path / "whole").fingerprint() == pipe.fingerprint()
