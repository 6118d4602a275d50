"""Conditioning, guidance and sampling, checked exactly: on a closed-form denoiser and on a small random network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird import KnowledgeBase, RDMPipeline
from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import conditioning, guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.systems.base import SystemOutput


@pytest.fixture(scope="module")
def pipe(random_rdm: Path) -> RDMPipeline:
    loaded = RDMPipeline.from_pretrained(random_rdm)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def kb(kb_path: Path) -> KnowledgeBase:
    return KnowledgeBase.open(kb_path)


def latents(pipe: RDMPipeline, hits: Neighbors, **options: object) -> torch.Tensor:
    out = pipe(neighbors=hits, num_inference_steps=3, output_type="latent", **options)
    assert isinstance(out, SystemOutput)
    return out.images


@pytest.mark.parametrize("sampler", schedulers.SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_samplers_reach_the_data_with_the_ideal_denoiser(sampler: str, prediction_type: str) -> None:
    """The best denoiser of a finite set is known in closed form (a softmax over it); sampling with it must end on the
    set."""
    data = torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.3, -1.2]])
    scheduler = schedulers.scheduler(
        sampler, config=schedulers.scheduler("ddim", prediction_type=prediction_type).config
    )
    scheduler.set_timesteps(50)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[int(t)]
        squared = ((x[:, None] - a.sqrt() * data[None]) ** 2).sum(-1)
        clean = torch.softmax(-squared / (2 * (1 - a)), dim=1) @ data
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        x = scheduler.step(
            a.sqrt() * eps - (1 - a).sqrt() * clean if prediction_type == "v_prediction" else eps, t, x
        ).prev_sample
    distance = torch.cdist(x, data)
    # the published DDIM stops at the first alpha, and so keeps the noise of the first beta: sqrt(0.0015) = 0.04
    assert distance.min(1).values.max() < (0.2 if sampler == "ddim-compvis" else 0.05)
    assert len(distance.argmin(1).unique()) == 3


def test_training_target_inverts_to_the_clean_latents() -> None:
    scheduler = schedulers.scheduler("ddim")
    generator = torch.Generator().manual_seed(0)
    clean, eps = torch.randn(2, 5, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    t = torch.tensor([10, 900])
    v = schedulers.training_target(scheduler, clean, eps, t)
    a = scheduler.alphas_cumprod[t][:, None, None]
    torch.testing.assert_close(
        a.sqrt() * scheduler.add_noise(clean, eps, t) - (1 - a).sqrt() * v, clean, atol=1e-5, rtol=1e-5
    )


def test_guidance_weights_zero_and_one_are_the_two_predictions() -> None:
    condition = conditioning.neighbor_tokens(
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3), normalize=True
    )
    calls = []

    def predict(x: torch.Tensor, t: torch.Tensor, c: Conditioning) -> torch.Tensor:
        calls.append(len(x))
        return x + c.neighbors.keys.sum((1, 2))[:, None]

    x, t = torch.zeros(2, 5), torch.tensor(3)
    full, null = predict(x, t, condition), predict(x, t, condition.without("neighbors"))
    calls.clear()
    torch.testing.assert_close(guidance.classifier_free(predict, condition, 1.0)(x, t, 0), full)
    torch.testing.assert_close(guidance.classifier_free(predict, condition, 0.0)(x, t, 0), null)
    torch.testing.assert_close(guidance.classifier_free(predict, condition, 3.0)(x, t, 0), null + 3 * (full - null))
    assert calls == [2, 2, 4]  # one pass where one is enough, both in one batch otherwise


def test_guidance_acts_in_its_interval_and_costs_one_pass_outside(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    hits, rows = kb.search(text="red", k=2), []
    hook = pipe.unet.register_forward_hook(lambda *rest: rows.append(len(rest[2].sample)))
    try:
        everywhere = latents(pipe, hits, guidance_scale=3.0, guidance_interval=(0.0, 1.0))
        assert torch.equal(everywhere, latents(pipe, hits, guidance_scale=3.0))
        rows.clear()
        part = latents(pipe, hits, guidance_scale=3.0, guidance_interval=(0.5, 0.9))  # of the times 999, 666 and 333
    finally:
        hook.remove()
    assert rows == [1, 2, 1]
    assert not torch.allclose(part, everywhere)
    assert not torch.allclose(part, latents(pipe, hits, guidance_scale=1.0))
    with pytest.raises(BowerbirdError, match=r"the lower first; got 0\.9 and 0\.5"):
        latents(pipe, hits, guidance_interval=(0.9, 0.5))


def test_neighbors_are_a_set_and_weights_are_multiplicities(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=3)
    base = latents(pipe, hits)
    torch.testing.assert_close(latents(pipe, hits.select([2, 0, 1])), base, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        latents(pipe, hits.weighted([2, 1, 1])), latents(pipe, hits.select([0, 0, 1, 2])), atol=2e-5, rtol=1e-3
    )
    torch.testing.assert_close(
        latents(pipe, hits.weighted([1, 0, 1])), latents(pipe, hits.select([0, 2])), atol=1e-5, rtol=1e-4
    )
    assert (latents(pipe, hits.select([0])) - base).abs().max() > 1e-4  # and they do matter


def test_no_neighbor_is_the_null(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=3)
    nothing = hits.weighted([0, 0, 0])
    torch.testing.assert_close(
        latents(pipe, nothing, guidance_scale=1.0), latents(pipe, hits, guidance_scale=0.0), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        latents(pipe, nothing, guidance_scale=5.0), latents(pipe, nothing, guidance_scale=1.0), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("sampler", schedulers.SAMPLERS)
def test_picture_depends_on_its_seed_not_on_its_batch(pipe: RDMPipeline, kb: KnowledgeBase, sampler: str) -> None:
    hits = kb.search(text=["red apple", "blue fish", "yellow duck"], k=2)
    pipe.set_sampler(sampler)
    options = {"eta": 1.0} if sampler == "ddim" else {}
    together = latents(pipe, hits, generator=seeds.picture_generators(5, 3), **options)
    alone = [latents(pipe, hits.rows([i]), generator=seeds.picture_generators(5 + i, 1), **options) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_every_way_of_asking(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    picture = kb.search(text="red apple", k=1).images()[0][0]
    asked = [
        {"prompt": ["red apple", "fish"], "num_images_per_prompt": 2},
        {"prompt": "red apple", "text_mode": "text"},
        {"prompt": "red apple", "text_mode": "text+neighbors", "k": 3},
        {"image": picture},
        {"image": [picture, picture.rotate(90)], "weights": [2, 1, 1, 0]},
        {"image": picture, "image_mode": "neighbors"},
        {"class_name": "apple"},
        {"class_name": "red", "class_key": "color", "num_images_per_prompt": 2},
        {"unconditional": True, "proposal": kb.proposal(4), "top_m": 0.1, "num_images_per_prompt": 2},
    ]
    expected = [(4, 4), (1, 1), (1, 3), (1, 4), (1, 4), (1, 4), (1, 4), (2, 4), (2, 4)]
    for options, shape in zip(asked, expected, strict=True):
        out = pipe(knowledge_base=kb, num_inference_steps=2, **options)
        assert out.neighbors.ids.shape == shape, options
        assert [image.size for image in out.images] == [(64, 64)] * shape[0]
    pool = pipe(class_name="red", class_key="color", knowledge_base=kb, num_inference_steps=1).neighbors
    assert {m["color"] for m in pool.metadata[0]} == {"red"}


def test_output_types_and_callback(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=2)
    seen: list[int] = []

    def watch(pipeline: object, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(step)
        return tensors

    assert pipe(neighbors=hits, num_inference_steps=2, output_type="np", callback_on_step_end=watch).images.shape == (
        1,
        64,
        64,
        3,
    )
    assert seen == [0, 1]
    sample = pipe(neighbors=hits, num_inference_steps=2, output_type="pt").images
    picture = pipe(neighbors=hits, num_inference_steps=2).images[0]
    assert (
        np.abs(np.asarray(picture) / 255 - sample[0].permute(1, 2, 0).numpy()).max() < 1 / 254
    )  # [0, 1], as diffusers
    other = pipe(neighbors=hits, num_inference_steps=1, height=32, width=64, output_type="np").images
    assert other.shape == (1, 32, 64, 3)
    assert 0 <= other.min() <= other.max() <= 1
    assert pipe(neighbors=hits, num_inference_steps=1, height=32, width=32).images[0].size == (32, 32)


def test_requests_that_cannot_be_met_are_refused(pipe: RDMPipeline, kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=2)
    cases = [
        ({"prompt": "a", "unconditional": True, "knowledge_base": kb}, "one of prompt"),
        (
            {"prompt": "a", "image": Image.new("RGB", (8, 8)), "knowledge_base": kb},
            "neighbors=kb.search.text=…, images",
        ),
        ({"knowledge_base": kb}, "none of them"),
        ({"prompt": "a"}, "knowledge base"),
        ({"prompt": " ", "knowledge_base": kb}, "empty"),
        ({"prompt": "a", "k": 10_000, "knowledge_base": kb}, "choose k from 1"),
        ({"prompt": "a", "k": 0, "knowledge_base": kb}, "1 or more"),
        ({"unconditional": True, "knowledge_base": kb}, "p_D"),
        ({"class_name": "zebra", "class_key": "thing", "knowledge_base": kb}, "0 items"),
        ({"class_name": "zebra", "class_key": "kind", "knowledge_base": kb}, "`class_key` 'kind': .*it has .*thing"),
        ({"neighbors": hits, "weights": [1.0]}, "expected 2 numbers"),
        ({"neighbors": hits, "weights": [1.0, -1.0]}, "0 or more"),
        ({"neighbors": hits, "num_inference_steps": 0}, "num_inference_steps"),
        ({"neighbors": hits, "output_type": "jpeg"}, "output_type"),
        ({"neighbors": hits, "height": 50, "width": 50}, "multiple of 16"),
        ({"neighbors": hits, "height": 100_000}, "up to 4096"),
        ({"neighbors": hits, "generator": [torch.Generator()] * 3}, "3 generators for 1"),
        ({"prompt": "a", "text_mode": "no", "knowledge_base": kb}, "text_mode"),
        ({"image": "red apple.png", "knowledge_base": kb}, "`image`: takes PIL images, and got str"),
        ({"image": [np.zeros((8, 8, 3))], "knowledge_base": kb}, "got ndarray"),
    ]
    for options, message in cases:
        with pytest.raises(BowerbirdError, match=message):
            pipe(**options)
    with pytest.raises(BowerbirdError, match="`images`: takes PIL images, and got str"):
        kb.search(images=["red apple.png"])
    with pytest.raises(BowerbirdError, match="a text with a picture is a query_mix"):
        kb.search(text="apple", images=[Image.new("RGB", (8, 8))])
    with pytest.raises(BowerbirdError, match=r"'tiny-knn' is a KNNDiffusionPipeline, .*KNNDiffusionPipeline\.from_pre"):
        RDMPipeline.from_pretrained("tiny-knn")
    narrow = dataclasses.replace(hits, embeddings=hits.embeddings[:, :, :7])
    with pytest.raises(MismatchError, match="7 dimensions"):
        pipe(neighbors=narrow)


def test_save_and_load_round_trip(pipe: RDMPipeline, kb: KnowledgeBase, tmp_path: Path) -> None:
    hits = kb.search(text="red apple", k=2)
    pipe.set_sampler("dpmsolver++")
    pipe.save_pretrained(tmp_path / "m")
    again = RDMPipeline.from_pretrained(tmp_path / "m")
    again.set_progress_bar_config(disable=True)
    assert again.proposal_counts == {1: 3, 2: 1}
    assert again.fingerprint() == pipe.fingerprint()
    torch.testing.assert_close(latents(again, hits), latents(pipe, hits))


def test_half_precision_model_refuses_weights_it_cannot_hold(random_rdm: Path, kb: KnowledgeBase) -> None:
    half = RDMPipeline.from_pretrained(random_rdm, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    hits = kb.search(text="red apple", k=2)
    assert half(neighbors=hits, num_inference_steps=1).images[0].size == (64, 64)
    with pytest.raises(BowerbirdError, match="float32"):
        half(neighbors=hits, weights=[2, 1], num_inference_steps=1)


def test_pictures_of_neighbors_come_back(kb: KnowledgeBase) -> None:
    hits = kb.search(text="red apple", k=2)
    assert all(isinstance(image, Image.Image) for image in hits.images()[0])
    alone = dataclasses.replace(hits, load_images=None)
    with pytest.raises(BowerbirdError, match="without a database"):
        alone.images()
