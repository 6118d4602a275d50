"""The small text-to-image model in the standard form: its tokens, its training, and plain diffusers opening it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bowerbird.core import seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.data.scenes.grammar import caption
from bowerbird.data.scenes.words import COLORS
from bowerbird.models import clip_text
from bowerbird.models.latent_scale import without_shift
from bowerbird.systems import from_rdm, generation, loading
from bowerbird.systems.components import load_autoencoder
from bowerbird.systems.reference_settings import ReferenceSettings
from bowerbird.systems.stable_diffusion.objective import UNNAMED
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe

PROMPTS = ("a red heart left of a blue square on yellow", "a xylophone, 日本 style")
PLAIN = """
import sys, torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
def draw():
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    return pipe(sys.argv[3:], num_inference_steps=3, guidance_scale=4.0, generator=generators, output_type="pt").images
images = draw()
for other in (DDIMScheduler, EulerDiscreteScheduler):
    pipe.scheduler = other.from_config(pipe.scheduler.config)
    assert draw().isfinite().all()
from safetensors.torch import save_file
save_file({"images": images.contiguous()}, sys.argv[2])
assert not [name for name in sys.modules if name.startswith("bowerbird")]
"""


@pytest.fixture(scope="module")
def model(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny form after two steps."""
    recipe, out = recipes.recipe("tiny-sd", tiny=True), tmp_path_factory.mktemp("sd")
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), out, device="cpu"))
    return out / "model"


def test_plain_diffusers_opens_it_and_paints_the_same(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN, str(model), str(tmp_path / "x"), *PROMPTS], check=True)
    index = json.loads((model / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["tokenizer"][1] == "CLIPTokenizer"
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    pipe = loading.open_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "pt"}
    ours = pipe(list(PROMPTS), **options).images  # type: ignore[operator]
    assert ours.shape == (2, 3, 64, 64)
    torch.testing.assert_close(ours, load_file(tmp_path / "x")["images"], atol=1e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_it_generates_from_the_text_alone_with_the_weight_asked_for(model: Path) -> None:
    pipe = loading.open_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    hits = Neighbors.empty(["a red heart"])

    def draw(settings: generation.Settings) -> bytes:
        return generation.generate(pipe, hits, settings)[0].tobytes()

    usual = generation.Settings(steps=2, guidance_scale=8.0)
    as_commands_do = generation.Settings(steps=2, guidance_scale=8.0, references=ReferenceSettings())
    assert draw(usual) == draw(as_commands_do)
    assert draw(usual) != draw(generation.Settings(steps=2, guidance_scale=1.0))
    with pytest.raises(BowerbirdError, match="reads no pictures by itself"):
        generation.generate(pipe, Neighbors.from_images(["x"], [Image.new("RGB", (8, 8))], ["y"]), usual)


def test_a_command_generates_without_a_knowledge_base_and_again_from_the_record(model: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bowerbird.cli.main import app

    def run(*arguments: object) -> None:
        done = CliRunner().invoke(app, ["generate", *map(str, arguments), "--device", "cpu"])
        assert done.exit_code == 0, done.output

    prompt = ["--prompt", "a red heart", "-n", "2", "--steps", "2", "--guidance-scale", "4"]
    run(model, "-k", "0", *prompt, "--out", tmp_path / "first")
    record = tmp_path / "first" / "001.png"
    run(model, "--from", record, "--out", tmp_path / "again")
    with Image.open(record) as first, Image.open(tmp_path / "again" / "000.png") as again:
        assert first.tobytes() == again.tobytes()


def test_its_card_and_files_list_what_it_was_shown(model: Path) -> None:
    known = json.loads((model / "known.json").read_text())
    assert "red" in known["colors"]
    card = (model / "README.md").read_text()
    assert "Other things in a prompt are unknown to it." in card
    assert "-k 0" in card


def test_a_cut_training_goes_on_with_the_same_tokens(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-sd", tiny=True)
    pictures = read_pictures(recipe, drawn_folder)
    first, second = (build_objective(recipe, pictures, tmp_path) for _ in range(2))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    a, b = (objective.batch(7, 16) for objective in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    first.config = recipe.system.model_copy(update={"null_probability": 1.0})
    assert len(first.batch(0, 4)["tokens"].unique()) == 2  # no words: a start and ends


def test_drawings_without_a_name_here_are_learned_as_a_drawing(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = with_settings(recipes.recipe("tiny-sd", tiny=True), ["system.names=2", "system.unnamed=1.0"])
    pictures = read_pictures(recipe, drawn_folder)
    objective = build_objective(recipe, pictures, tmp_path)
    objective.config = objective.config.model_copy(update={"null_probability": 0.0})
    others = objective.latents[len(objective.shown) :]
    assert len(others) == len(pictures) - len(objective.vocabulary) > 0
    batch = objective.batch(3, 16)
    assert torch.equal(batch["tokens"], clip_text.token_ids(objective.tokenizer, [UNNAMED] * 16))
    assert all((others.float() == clean).flatten(1).all(1).any() for clean in batch["clean"])
    # a word that nobody uses may be any drawing: it says nothing of how a thing looks
    objective.config = objective.config.model_copy(update={"invented": 1.0})
    tokens = objective.batch(3, 16)["tokens"]
    assert len(tokens.unique(dim=0)) > 12
    objective.config = objective.config.model_copy(update={"unnamed": 0.0})
    said = objective.tokenizer.batch_decode(objective.batch(3, 64)["tokens"], skip_special_tokens=True)
    assert not any(name in text for text in said for name in objective.vocabulary.names)
    assert any(color in text for text in said for color in COLORS)


def test_it_starts_from_an_rdm_and_its_text_says_what_a_neighbor_says(
    drawn_folder: Path, random_rdm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (named := tmp_path / "named").mkdir()
    for picture, name in zip(sorted(drawn_folder.rglob("*.png")), ("boat", "lamp", "tree", "fish"), strict=False):
        shutil.copyfile(picture, named / f"{name}.png")
        (named / f"{name}.txt").write_text(name)
    monkeypatch.setattr(from_rdm, "STEPS", 200)
    own = [
        f"system.start={random_rdm}",
        f"system.autoencoder={random_rdm / 'vae'}",
        "system.unet.cross_attention_dim=16",
        "system.text.width=16",
    ]
    recipe = with_settings(recipes.recipe("tiny-sd", tiny=True), own)
    pictures = read_pictures(recipe, named)
    objective = build_objective(recipe, pictures, tmp_path)
    rdm, encoder = from_rdm.load_start(str(random_rdm))
    ours, theirs = objective.unet.state_dict(), rdm.unet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = list(objective.vocabulary.rows)
    wanted = from_rdm.neighbor_tokens(rdm, encoder, pictures, rows)
    embeddings = encoder.embed_images(tensors.to_pil(pictures.pixels[rows]))
    hits = Neighbors.from_embeddings(embeddings[:, None], [["a picture"]] * len(rows))
    with torch.no_grad():
        read = rdm.unet.encoder_hid_proj(rdm.condition(hits).neighbors.keys)[:, 0]
    assert torch.allclose(wanted[:-1], read, atol=1e-5), "as long as the RDM itself has them"

    @torch.no_grad()
    def error(made: Any) -> float:
        tokens = clip_text.token_ids(made.tokenizer, [caption(scene) for scene in made.shown[: len(wanted) - 1]])
        said = made.text_encoder(tokens).last_hidden_state[:, -1]
        return float((said - wanted[:-1]).square().mean())

    plain = with_settings(recipe, ["system.start=null"])
    assert error(objective) < 0.3 * error(build_objective(plain, pictures, tmp_path / "plain"))
    monkeypatch.setattr(from_rdm, "teach_text", None)  # what was learned is kept
    again = build_objective(recipe, pictures, tmp_path)
    assert error(again) == error(objective)
    nameless = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path / "nameless")
    assert not nameless.vocabulary.rows
    assert float(nameless(nameless.batch(0, 2)).detach()) < 1e3
    other = with_settings(recipe, ["system.autoencoder=tiny-autoencoder"])
    with pytest.raises(BowerbirdError, match="for another autoencoder"):
        build_objective(other, pictures, tmp_path / "other")
    other = with_settings(recipe, ["system.text.width=32"])
    with pytest.raises(BowerbirdError, match="to start from has other sizes"):
        build_objective(other, pictures, tmp_path / "other")
    other = with_settings(recipe, ["system.start=null", "system.pictured=0.5"])
    with pytest.raises(BowerbirdError, match=r"system\.start=tiny-rdm"):
        build_objective(other, pictures, tmp_path / "none")


def test_a_share_of_samples_is_asked_for_by_pictures(drawn_folder: Path, random_rdm: Path, tmp_path: Path) -> None:
    own = [f"system.start={random_rdm}", f"system.autoencoder={random_rdm / 'vae'}", "system.pictured=1.0"]
    sizes = ["system.unet.cross_attention_dim=16", "system.text.width=16", "system.names=2"]
    recipe = with_settings(recipes.recipe("tiny-sd", tiny=True), [*own, *sizes])
    pictures = read_pictures(recipe, drawn_folder)
    objective = build_objective(recipe, pictures, tmp_path)
    assert objective.seen is not None
    assert len(objective.seen.tokens) == len(pictures)
    batch = objective.batch(0, 64)
    assert bool(batch["pictured"].all())
    named = len(objective.vocabulary)
    drawings = torch.cat([objective.latents[:named], objective.latents[len(objective.shown) :]]).float()
    for clean, seen in zip(batch["clean"], batch["seen"], strict=True):
        of = int((drawings == clean).flatten(1).all(1).nonzero()[0])
        asked = {int((objective.seen.tokens.float() == each).all(1).nonzero()[0]) for each in seen}
        assert asked <= {of, *objective.seen.others[of]}, "of another name"
    with torch.no_grad():
        loss = float(objective(batch))
        words = {**batch, "tokens": batch["tokens"].flip(0)}
        assert float(objective(words)) == loss, "the text counts nothing there"
        moved = {**batch, "seen": batch["seen"].roll(1, 0)}
        assert float(objective(moved)) != loss
    some = objective.config.model_copy(update={"pictured": 0.3})
    objective.config = some
    share = objective.batch(1, 512)["pictured"].float().mean()
    assert 0.2 < float(share) < 0.4


def test_tokens_are_those_of_transformers_clip_and_every_word_has_some(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    texts = ["a red heart left of a blue square", "a blue heart", "glasses"]
    merges = clip_text.learn_pairs(texts, 600)
    assert merges == clip_text.learn_pairs(texts, 600)
    ours = clip_text.build_tokenizer(merges, 16)
    clip_text.save_tokenizer(ours, tmp_path)
    (tmp_path / "tokenizer.json").unlink()  # from vocab.json and merges.txt alone
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    for text in (*texts, "A Red  HEART", "xylophone 日本 naïve!", ""):
        ids = ours(text).input_ids
        assert theirs(text).input_ids == ids
        assert ours.decode(ids, skip_special_tokens=True).replace(" !", "!") == " ".join(text.lower().split())
    assert ours.convert_ids_to_tokens(ours("red heart").input_ids)[1:-1] == ["red</w>", "heart</w>"]
    padded = clip_text.token_ids(theirs, ["a heart", "a blue heart " * 20])
    assert padded.shape == (2, 16)
    assert padded[0, 3:].eq(theirs.eos_token_id).all()
    assert padded[1, -1] == theirs.eos_token_id


@torch.no_grad()
def test_an_autoencoder_without_shift_has_the_scaled_latents_and_the_same_pictures() -> None:
    before = load_autoencoder("tiny-autoencoder")
    after = without_shift(before)
    assert not after.config.shift_factor
    assert after.config.scaling_factor == 1
    x = torch.rand(2, 3, 64, 64, generator=seeds.torch_generator(0, "x")) * 2 - 1
    z = before.encode(x).latent_dist.mean
    scaled = (z - before.config.shift_factor) * before.config.scaling_factor
    torch.testing.assert_close(after.encode(x).latent_dist.mean, scaled, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after.decode(scaled).sample, before.decode(z).sample, atol=1e-3, rtol=1e-3)
    assert without_shift(after) is after


def test_the_bundled_base_goes_to_diffusers_and_follows_a_reference_by_its_adapter(tmp_path: Path) -> None:
    """By a word that nobody uses, a disc is of the color of the disc it is shown; at scale 0 it is one picture."""
    from diffusers import StableDiffusionPipeline
    from PIL import ImageDraw

    from bowerbird.cli.main import app
    from bowerbird.models.weights import ADAPTERS
    from bowerbird.systems.grounded.pipeline import ReferencePipeline

    ((name, adapter),) = ADAPTERS.items()
    made = CliRunner().invoke(app, ["export", name, "--out", str(tmp_path / "plain")])
    assert made.exit_code == 0, made.output
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    assert plain.unet.config.sample_size == 16
    ours = ReferencePipeline.from_pretrained(name).base
    torch.testing.assert_close(plain.unet.state_dict(), ours.unet.state_dict(), atol=1e-3, rtol=1e-3)
    pipe = ReferencePipeline.from_pretrained(name, adapter=adapter)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.defaults.num_inference_steps, pipe.defaults.guidance_scale) == (20, 3.0)
    shown = []
    for color in ("red", "blue"):
        disc = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(disc).ellipse((10, 10, 54, 54), fill=color)
        shown.append(disc)
    pixels = {}
    for scale in (None, 0.0):  # its usual scale is that of its training
        near = [Neighbors.from_images(["a zorbel"], [disc], ["disc"]) for disc in shown]
        made = [pipe(neighbors=each, scale=scale, num_inference_steps=6, seed=1).images[0] for each in near]
        pixels[scale] = [tensors.stack([each]).float().mean((0, 2, 3)) for each in made]
    assert pipe.defaults.scale == 1.0
    red, blue = pixels[None]
    assert red[0] > red[2] + 30
    assert blue[2] > blue[0] + 30
    assert torch.equal(*pixels[0.0])
