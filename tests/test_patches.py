"""Embeddings that describe a picture part by part: as a vector for search, as tokens for RDM, and their autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bowerbird import RDMPipeline, encoders
from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import load_tensors
from bowerbird.core.types import Neighbors, TokenLayout
from bowerbird.data.pictures import load_pictures
from bowerbird.diffusion import conditioning
from bowerbird.diffusion.conditions import Tokens
from bowerbird.models.latent_scale import unit_channels
from bowerbird.models.neighbor_unet import NeighborUNet
from bowerbird.models.unet import build_unet
from bowerbird.models.weights import bundled
from bowerbird.systems import loading
from bowerbird.systems.components import load_autoencoder
from bowerbird.systems.latent_cache import LatentCache
from bowerbird.systems.neighbor_sampling import sample_neighbors
from bowerbird.training import recipes
from bowerbird.training.loop import train
from bowerbird.training.recipe import build_objective, read_pictures, with_settings

LAYOUT = TokenLayout(semantic=3, tokens=4, token_dim=2, style=2, token_length=0.5)


def test_an_embedding_becomes_a_token_for_the_whole_and_one_a_place() -> None:
    embeddings = torch.zeros(1, 3, LAYOUT.dim)
    embeddings[0, 0] = torch.arange(1.0, LAYOUT.dim + 1)
    embeddings[0, 1, 0] = 1.0  # a text: nothing beyond the semantic part
    made = conditioning.patch_tokens(embeddings, torch.tensor([[2.0, 1.0, 0.0]]), LAYOUT)
    tokens = made.neighbors
    assert isinstance(tokens, Tokens)
    assert tokens.keys.shape == (1, 15, conditioning.token_width(LAYOUT))
    assert tokens.weights[0].tolist() == [2] * 5 + [1, 0, 0, 0, 0] + [0] * 5
    whole, second = tokens.keys[0, 0], tokens.keys[0, 2]
    assert torch.allclose(whole[:3].square().mean(), torch.tensor(1.0))
    assert torch.allclose(whole[3:5].square().mean(), torch.tensor(1.0))
    assert whole[5:7].tolist() == [0, 0]
    assert torch.allclose(second[5:7], embeddings[0, 0, 5:7] * 8**0.5 / 0.5)
    assert (whole[7:] != 0).tolist() == [True, False, False, False, False]
    assert (second[7:] != 0).tolist() == [False, False, True, False, False]
    assert not tokens.keys[0, 6:].any()
    null = conditioning.patch_tokens(embeddings, torch.zeros(1, 3), LAYOUT)
    assert isinstance(null.neighbors, Tokens)
    assert isinstance(null.neighbors_null, Tokens)
    assert torch.equal(null.neighbors.keys, null.neighbors_null.keys)
    assert torch.equal(null.neighbors.weights, torch.ones(1, 15))


def test_rdm_trains_on_patches_and_generates_from_pictures_texts_and_both(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("small-patches", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    objective.export(tmp_path / "encoder")
    rdm = with_settings(recipes.recipe("rdm-drawings", tiny=True), [f"system.encoder={tmp_path / 'encoder'}"])
    trained = build_objective(rdm, read_pictures(rdm, drawn_folder), tmp_path)
    assert torch.isfinite(trained(trained.batch(0, 4)))
    trained.export(tmp_path / "model")
    pipe = RDMPipeline.from_pretrained(tmp_path / "model")
    encoder = encoders.load(tmp_path / "encoder")
    pictures = tensors.to_pil(load_pictures(drawn_folder, size=64).pixels[:2])
    vectors = encoder.embed_images(pictures)
    text = encoder.embed_text(["a thing"])
    first = Neighbors.from_embeddings(vectors[None], [["a", "b"]])
    swapped = Neighbors.from_embeddings(vectors[None, ::-1].copy(), [["b", "a"]])
    both = Neighbors.from_embeddings(
        torch.cat([torch.from_numpy(vectors[:1]), torch.from_numpy(text)]).numpy()[None], [["a", "t"]]
    )
    made = [pipe(neighbors=n, num_inference_steps=2, output_type="pt", seed=1).images for n in (first, swapped, both)]
    assert torch.allclose(made[0], made[1], atol=1e-4)  # a set
    assert not torch.allclose(made[0], made[2], atol=1e-4)


def test_the_item_itself_is_a_neighbor_in_its_share_and_alone_under_a_variation(
    drawn_folder: Path, tmp_path: Path
) -> None:
    recipe = recipes.recipe("rdm-drawings", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    cache: LatentCache = objective.cache  # type: ignore[assignment]
    assert cache.varied_from == 2
    assert cache.latents.shape[:2] == (3, 32)
    import numpy as np

    rng, rows = np.random.default_rng(0), np.arange(32).repeat(20)
    sample = sample_neighbors(objective.config, cache, rng, rows, 3, np.zeros(len(rows), bool))  # type: ignore[arg-type]
    own = sample.neighbors[:, 0] == sample.rows
    varied = sample.view == 2
    assert 0.4 < own.float().mean() < 0.6
    assert own[varied].all()
    assert (sample.neighbors[varied, 1:] == -1).all()
    assert 0.2 < varied.float().mean() < 0.4
    again = LatentCache.from_tensors(cache.to_tensors())
    assert again.varied_from == 2


def test_channels_of_unit_variance_by_the_weights_decode_as_before(drawn_folder: Path) -> None:
    recipe = recipes.recipe("autoencoder-8", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), Path("unused"))
    model = objective.autoencoder
    x = load_pictures(drawn_folder, size=64).pixels[:16] / 127.5 - 1
    with torch.no_grad():
        before = model.encode(x).latent_dist  # type: ignore[operator]
        ours = unit_channels(model, before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3)))
        after = ours.encode(x).latent_dist
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(8), atol=1e-3)
        spread = before.mean.std((0, 2, 3))[:, None, None]
        assert torch.allclose(after.std * spread, before.std, rtol=1e-3)
        assert torch.allclose(ours.decode(after.mean).sample, model.decode(before.mean).sample, atol=1e-4)  # type: ignore[operator]


def test_a_decoder_that_is_trained_alone_leaves_latents_as_they_are(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-decoder", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    for _ in train(objective, recipe.train, tmp_path, device="cpu"):
        pass
    before, after = load_autoencoder("tiny-autoencoder"), load_autoencoder(str(tmp_path / "model"))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = before.encode(x).latent_dist.mean
        assert torch.equal(z, after.encode(x).latent_dist.mean)
        assert not torch.equal(before.decode(z).sample, after.decode(z).sample)
    same = ("scaling_factor", "shift_factor", "latent_channels", "sample_size")
    assert [before.config[name] for name in same] == [after.config[name] for name in same]
    pixels = with_settings(recipe, ["system.base=pixels-2"])
    with pytest.raises(BowerbirdError, match="no AutoencoderKL"):
        build_objective(pixels, read_pictures(pixels, drawn_folder), tmp_path)


def test_the_bundled_autoencoders_keep_pale_grounds() -> None:
    grounds = torch.tensor([[255, 248, 220], [230, 220, 245], [225, 215, 170], [215, 235, 220]]) / 127.5 - 1
    x = grounds[:, :, None, None].repeat(1, 1, 64, 64)
    x[:, :, 20:44, 20:44] = torch.tensor([0.6, -0.8, -0.7])[:, None, None]
    for name in ("tiny-autoencoder", str(bundled("tiny-sd") / "vae")):  # type: ignore[operator]
        autoencoder = load_autoencoder(name)
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample
        apart = (decoded[:, :, 2:10, 2:10].mean((2, 3)) - grounds).abs() * 127.5
        assert apart.max() < 20, apart
        assert apart.mean() < 7, apart


def test_the_networks_of_full_size_can_be_made_and_are_as_large_as_the_queue_expects() -> None:
    unet = recipes.recipe("rdm-drawings").system.unet  # type: ignore[attr-defined]
    with torch.device("meta"):
        network = build_unet(unet, 273)
    assert 8e6 < sum(p.numel() for p in network.parameters()) < 10e6
    for stage in ("32", "64", "128"):
        sizes = recipes.recipe(f"reimagen-drawings-{stage}").system.unet  # type: ignore[attr-defined]
        with torch.device("meta"):
            NeighborUNet(**sizes.model_dump())


def test_words_are_learned_while_patches_and_style_stay_as_they_are(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("small-patches", tiny=True)
    build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path).export(tmp_path / "encoder")
    base = f"system.base={tmp_path / 'encoder'}"
    words = with_settings(recipes.recipe("small-patches-text", tiny=True), [base])
    objective = build_objective(words, read_pictures(words, drawn_folder), tmp_path)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(trained, 1e-2), []
    for step in range(30):
        loss = objective(objective.batch(step, 32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    objective.export(tmp_path / "after")
    pictures = load_pictures(drawn_folder, size=64)
    before, after = (encoders.load(tmp_path / name) for name in ("encoder", "after"))
    seen = [encoder.embed_images(tensors.to_pil(pictures.pixels)) for encoder in (before, after)]
    assert (seen[0][:, 16:] == seen[1][:, 16:]).all()
    found = [
        (encoder.embed_text(pictures.captions)[:, :16] @ vectors[:, :16].T).argmax(1)
        for encoder, vectors in zip((before, after), seen, strict=True)
    ]
    right = [sum(pictures.captions[i] == pictures.captions[j] for i, j in enumerate(rows)) for rows in found]
    assert right[1] > 3 * max(1, right[0])

    with pytest.raises(BowerbirdError, match=r"system\.base small: is not an encoder with patches"):
        build_objective(
            with_settings(words, ["system.base=small"]), read_pictures(words, drawn_folder), tmp_path / "other"
        )


@pytest.mark.parametrize("name", ["rdm-drawings", "tiny-rarm"])
def test_training_begins_with_a_models_weights_and_learns_to_read_other_embeddings(
    name: str, drawn_folder: Path, tmp_path: Path
) -> None:
    """With its encoder all weights are the base's; with another all but the maps of embeddings."""
    part, reading = {
        "rdm-drawings": ("unet", ("encoder_hid_proj.",)),
        "tiny-rarm": ("transformer", (".attn2.to_k.", ".attn2.to_v.")),
    }[name]
    recipe = recipes.recipe(name, tiny=True)
    pictures = read_pictures(recipe, drawn_folder)
    build_objective(with_settings(recipe, ["train.seed=5"]), pictures, tmp_path / "a").export(tmp_path / "base")
    kept = ["system.tokenizer=" + str(tmp_path / "base" / "vae")] if name == "tiny-rarm" else []
    again = with_settings(recipe, [f"system.base={tmp_path / 'base'}", *kept])
    weights = getattr(build_objective(again, pictures, tmp_path / "b"), part).state_dict()
    stored = load_tensors(next((tmp_path / "base" / part).glob("*.safetensors")))
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, stored[key].float(), rtol=0, atol=0)
    small = recipes.recipe("small-patches", tiny=True)
    build_objective(small, read_pictures(small, drawn_folder), tmp_path / "c").export(tmp_path / "encoder")
    other = with_settings(again, [f"system.encoder={tmp_path / 'encoder'}"])
    objective = build_objective(other, pictures, tmp_path / "d")
    for key, tensor in getattr(objective, part).state_dict().items():
        is_new = any(each in key for each in reading)
        assert is_new == (tensor.shape != weights[key].shape or not torch.equal(tensor, weights[key])), key
    assert torch.isfinite(objective(objective.batch(0, 4)))
    objective.export(tmp_path / "made")
    pipe = loading.open_pipeline(str(tmp_path / "made"))
    vectors = encoders.load(tmp_path / "encoder").embed_images(tensors.to_pil(pictures.pixels[:1]))
    steps = {"num_inference_steps": 2} if name == "rdm-drawings" else {}
    assert pipe(neighbors=Neighbors.from_embeddings(vectors[None], [["a"]]), **steps).images
    if kept:
        smaller = with_settings(again, ["system.draws.picture_size=32"])
        with pytest.raises(BowerbirdError, match=r"set size, or system\.draws\.picture_size, to that of the base"):
            build_objective(smaller, pictures, tmp_path / "f")
    foreign = with_settings(again, ["system.tokenizer=vq-drawings" if kept else "system.autoencoder=pixels-4"])
    with pytest.raises(BowerbirdError, match=r"another (autoencoder|tokenizer)"):
        build_objective(foreign, pictures, tmp_path / "e")
