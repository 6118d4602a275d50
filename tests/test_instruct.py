"""Editing by instruction: exact pairs, the widened network, two scales of guidance, and plain diffusers opening it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import doubles
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from typer.testing import CliRunner

from bowerbird.cli.main import app
from bowerbird.core import images, provenance, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.data.edits import wordings
from bowerbird.data.edits.build import EditSettings, build_edits
from bowerbird.data.edits.pair import NONE, Edit, Edits, Shown, change_whole, instruction
from bowerbird.data.edits.rendering import render_parts
from bowerbird.data.edits.scenes import add_scenes
from bowerbird.data.edits.variants import add_variants, find_variants, whole
from bowerbird.data.edits.varied import FULL, vary_surroundings
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.grammar import SHAPE, Scene, Thing
from bowerbird.data.scenes.render import color_of, pixel_box
from bowerbird.data.scenes.vocabulary import build_vocabulary
from bowerbird.diffusion import guidance
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps, Tokens
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.models import network_files, quantized, weights
from bowerbird.models.unet import UNetConfig, build_unet, widen
from bowerbird.systems import generation, jobs, loading, records, regeneration
from bowerbird.systems.instruct import placing
from bowerbird.systems.instruct.named import named_thing
from bowerbird.systems.instruct.network import FILE, ReferenceInput, load_references, predict, save_references
from bowerbird.systems.instruct.pipeline import InstructPipeline
from bowerbird.systems.instruct.placing import Place
from bowerbird.systems.queries import Request
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures, with_settings
from bowerbird.training.run import train_recipe

PLAIN = """
import sys, torch
from diffusers import UNet2DConditionModel
from PIL import Image
from diffusers import StableDiffusionInstructPix2PixPipeline
pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
images = pipe(sys.argv[4], image=Image.open(sys.argv[3]), num_inference_steps=3, guidance_scale=4.0,
    image_guidance_scale=1.5, generator=torch.Generator().manual_seed(0), output_type="pt").images
from safetensors.torch import save_file
save_file({"images": images.contiguous()}, sys.argv[2])
assert not [name for name in sys.modules if name.startswith("bowerbird")]
"""


def pictures(names: list[str], styles: list[str]) -> Pictures:
    """One picture a name, each of a color of its own."""
    pixels = torch.arange(len(names), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32) * 20
    metadata = tuple({"style": style, "subgroup": "x"} for style in styles)
    return Pictures(pixels.contiguous(), tuple(names), metadata, tuple(range(len(names))))


@pytest.fixture(scope="module")
def model(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny form after two steps."""
    recipe, out = recipes.recipe("tiny-instruct", tiny=True), tmp_path_factory.mktemp("instruct")
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), out, device="cpu", sheets=False))
    return out / "model"


@pytest.fixture
def picture() -> Image.Image:
    x = np.full((64, 64, 3), 255, np.uint8)
    x[16:48, 16:48] = (200, 40, 40)
    return Image.fromarray(x)


def test_names_of_a_collection_give_its_edits() -> None:
    names = ["red heart", "blue heart", "face", "face with horns", "man: red hair", "one o'clock", "two o'clock"]
    edits = Edits()
    given = pictures([*names, "face"], ["noto"] * len(names) + ["twemoji"])
    assert not any(wordings.is_held_out(name) for name in given.captions)
    found = [f for f in find_variants(given, style_key="style", group_key="subgroup") if f[2] != "become"]
    add_variants(edits, found, given, 100, 0, held_out=False)
    rows = {
        (edits.shown[e.source].scene.things[0].row, edits.shown[e.target].scene.things[0].row, e.kind): e.words
        for e in edits.edits
    }
    assert rows[0, 1, "color"] == ("blue", "heart")
    assert rows[2, 3, "add part"] == rows[3, 2, "remove part"] == ("horns",)
    assert rows[5, 6, "clock"] == ("two o'clock", "clock")
    assert rows[2, 7, "style"] == ("twemoji",)
    assert (5, 6, "color") not in rows


def test_what_comes_in_is_said_with_its_article() -> None:
    rng = np.random.default_rng(0)
    for words, said in ((("owl", "cat"), "an owl"), (("grapes", "cat"), "grapes"), (("wolf", "cat"), "a wolf")):
        found = {instruction(Edit(0, 1, "become", words), rng) for _ in range(200)}
        assert {f"make it {said}", f"turn the cat into {said}", words[0]} <= found
        assert all(text == words[0] or f" {said}" in f" {text}" for text in found)
    assert instruction(Edit(0, 1, "person", ("men", "x")), rng).find("a men") < 0


def test_what_becomes_another_thing_is_a_group_in_each_style() -> None:
    given, edits = pictures(["a", "b", "c", "d"], ["noto", "noto", "flat", "flat"]), Edits()
    found = [(0, 1, "become", ("b", "a"), 1), (2, 3, "become", ("d", "c"), 3), (3, 2, "become", ("c", "d"), 2)]
    add_variants(edits, found, given, 8, 0, style_key="style", held_out=False)
    assert {name: len(numbers) for name, numbers in edits.groups.items()} == {
        "variant: become, noto": 1, "variant: become, flat": 1,
    }  # fmt: skip


def test_any_drawing_becomes_any_other_of_its_style() -> None:
    names = ["apple", "bus", "cloud", "drum", "", "apple"]
    given = pictures(names, ["noto", "noto", "flat", "flat", "flat", "alone"])
    settings = EditSettings(each=1, wholes=1, scenes=0, per_scene=1, names=0, style_key="style", becoming=200)
    edits, held, _ = build_edits(settings, given, 0)
    for found, is_held in ((edits, False), (held, True)):
        chosen = [found.edits[i] for group, rows in found.groups.items() if group.startswith("becoming") for i in rows]
        pairs = {(found.shown[e.source].scene.things[0].row, found.shown[e.target].scene.things[0].row) for e in chosen}
        allowed = [row for row, name in enumerate(names) if name and wordings.is_held_out(name) == is_held]
        styles = given.column("style")
        assert pairs == {(a, b) for a in allowed for b in allowed if a != b and styles[a] == styles[b]}
        assert all(e.words == (names[e.drawing], names[found.shown[e.source].scene.things[0].row]) for e in chosen)
    assert [group for group in edits.groups if group.startswith("becoming")] == ["becoming, noto", "becoming, flat"]


def test_a_scene_is_changed_in_what_is_said_and_nowhere_else() -> None:
    empty = pictures(["x y z"], ["noto"])
    edits, vocabulary = Edits(), build_vocabulary(empty, 0)
    add_scenes(edits, vocabulary, 40, 4, seed=1)
    kinds = {edit.kind for edit in edits.edits}
    assert kinds == {
        "add", "remove", "recolor", "replace", "move", "exchange", "bigger", "smaller", "ground",
    }  # fmt: skip
    for edit in edits.edits:
        before, after = edits.shown[edit.source].scene, edits.shown[edit.target].scene
        assert before != after
        if edit.kind == "ground":
            assert before.things == after.things
            assert after.ground == edit.words[0]
        if edit.kind == "remove":
            assert len(after.things) == len(before.things) - 1
            assert set(after.things) < set(before.things)
        if edit.kind == "recolor":
            (changed,) = set(after.things) - set(before.things)
            assert changed.color == edit.words[0]
            assert len(set(after.things) & set(before.things)) == len(before.things) - 1
        if edit.kind == "move":
            (x0, y0, *_), (u0, v0, *_) = before.things[0].box, after.things[0].box
            assert {"left": u0 < x0, "right": u0 > x0, "up": v0 < y0, "down": v0 > y0}[edit.words[0]]


def test_grounds_that_nothing_is_said_of_are_in_both_pictures() -> None:
    empty = pictures(["x y z"], ["noto"])
    plain, vocabulary = Edits(), build_vocabulary(empty, 0)
    add_scenes(plain, vocabulary, 60, 4, seed=1)
    varied = vary_surroundings(plain, 0.5, 0.0, 1)
    assert {group: len(numbers) for group, numbers in varied.groups.items()} == {
        group: len(numbers) for group, numbers in plain.groups.items()
    }
    on = [
        (varied.shown[edit.source].scene.ground, varied.shown[edit.target].scene.ground, edit) for edit in varied.edits
    ]
    unsaid = [(first, last) for first, last, edit in on if first.startswith("#") and edit.kind != "ground"]
    assert len(unsaid) > 10
    assert all(first == last for first, last in unsaid)
    assert all(last == edit.words[0] for _, last, edit in on if edit.kind == "ground")
    assert any(first.startswith("#") for first, _, edit in on if edit.kind == "ground")
    number = next(edit.source for first, _, edit in on if first.startswith("#"))
    (drawn,) = render_parts([varied.shown[number]], vocabulary, empty, 16)
    corner = ((drawn[0, :, 0, 0] + 1) * 127.5).round().int().tolist()
    assert "#" + bytes(corner).hex() == varied.shown[number].scene.ground


def test_a_drawing_is_in_one_place_in_both_pictures() -> None:
    given = pictures(["face", "face with horns"] * 9, ["noto"] * 18)
    plain = Edits()
    for row in range(0, 18, 2):
        plain.add("x", Shown(whole(row)), Shown(whole(row + 1), "mirror"), "add part", ("horns",))
    varied = vary_surroundings(plain, 0.0, 0.5, 1)
    boxes = [[varied.shown[n].scene.things[0].box for n in (edit.source, edit.target)] for edit in varied.edits]
    assert all(first == last for first, last in boxes)
    assert 0 < sum(first == FULL for first, _ in boxes) < 9
    assert {each.change for each in varied.shown} == {"", "mirror"}
    settings = EditSettings(each=4, wholes=12, scenes=0, per_scene=1, names=2, placed=1.0)
    edits, _, vocabulary = build_edits(settings, given, 0)
    drawn = torch.cat(list(render_parts(edits.shown, vocabulary, given, 64)))
    on_white = [number for number, each in enumerate(edits.shown) if (each.scene.ground, each.change) == ("white", "")]
    filled = (drawn[on_white] < 0.99).any(1).float().mean((1, 2))
    assert len(on_white) > 4
    assert ((filled > 0) & (filled < 1)).all()  # none fills the picture, and none is out of it


def test_several_processes_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from bowerbird.data.edits import rendering

    empty = pictures(["x y z"], ["noto"])
    edits, vocabulary = Edits(), build_vocabulary(empty, 0)
    add_scenes(edits, vocabulary, 30, 2, seed=1)
    alone = torch.cat(list(render_parts(edits.shown, vocabulary, empty, 16)))
    monkeypatch.setattr(rendering, "FEW", 8)
    assert torch.equal(alone, torch.cat(list(render_parts(edits.shown, vocabulary, empty, 16))))


def test_a_wording_that_is_held_out_is_never_trained_on() -> None:
    for kind, every in wordings.WORDINGS.items():
        assert not set(wordings.wordings(kind)) & set(wordings.wordings(kind, held_out=True))
        rng = np.random.default_rng(0)
        edit = Edit(0, 1, kind, ("wolf", "cat"))
        said = {instruction(edit, rng) for _ in range(60)}
        assert instruction(edit, rng, held_out=True) not in said
        assert len(every) >= 3
    invented = instruction(Edit(0, 1, "replace", ("wolf", "cat")), np.random.default_rng(0), invented=True)
    assert "wolf" not in invented
    assert "cat" in invented


def test_changes_of_a_whole_picture() -> None:
    x = torch.tensor([[[0.5, -1.0]], [[0.0, -1.0]], [[0.0, 1.0]]])
    assert torch.equal(change_whole(x, "mirror"), x.flip(2))
    assert torch.equal(change_whole(x, "negative"), -x)
    assert torch.allclose(change_whole(x, "gray")[:, 0, 0], torch.full((3,), 0.1495))
    assert (change_whole(x, "lighter") >= x).all()


def test_the_widened_network_is_the_base_until_it_is_trained() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        base = build_unet(
            UNetConfig(block_out_channels=(32, 32), attention=(False, True), cross_attention_dim=16), None
        )
        base.conv_in.bias.data.normal_()
        wide = widen(base, 8, None)
        x, image, text = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    time = torch.tensor([3, 700])
    expected = base(x, time, encoder_hidden_states=text).sample
    assert torch.equal(wide(torch.cat([x, image], 1), time, encoder_hidden_states=text).sample, expected)
    assert torch.equal(wide.conv_in.bias, base.conv_in.bias)
    unsaid = {key: value for key, value in base.config.items() if key != "in_channels"}  # as some configurations are
    assert widen(UNet2DConditionModel.from_config(unsaid), 8, None).conv_in.in_channels == 8


def test_a_reference_is_as_further_channels_and_an_absent_one_as_none(tmp_path: Path) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        unet = build_unet(
            UNetConfig(in_channels=8, block_out_channels=(32, 32), attention=(False, True), cross_attention_dim=16),
            None,
        )
        references = ReferenceInput(4, 32)
        x, image, shown = torch.randn(3, 2, 4, 8, 8)
        text = Tokens(torch.randn(2, 5, 16), torch.ones(2, 5))

    def predicted(weights: list[float]) -> torch.Tensor:
        near = FeatureMaps((shown[:, None],), torch.tensor(weights)[:, None])
        condition = Conditioning(near, text=text, image=image)
        return predict(unet, references, x, torch.tensor(5), condition, 64)

    with torch.no_grad():
        alone = unet(torch.cat([x, image], 1), 5, encoder_hidden_states=text.keys).sample
        assert torch.equal(predicted([1.0, 1.0]), alone)  # until it is trained
        for parameter in references.parameters():
            parameter.normal_()
        found = predicted([1.0, 0.0])
        assert torch.allclose(found[1], alone[1], atol=1e-5)
        wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 12})
        weights = unet.state_dict()
        wide.load_state_dict(
            {
                **weights,
                "conv_in.weight": torch.cat([weights["conv_in.weight"], references.conv.weight], 1),
                "conv_in.bias": weights["conv_in.bias"] + references.conv.bias,
            }
        )
        whole = wide(torch.cat([x, image, shown], 1), 5, encoder_hidden_states=text.keys).sample
    assert torch.allclose(found[0], whole[0], atol=1e-4)
    assert (found[0] - alone[0]).abs().max() > 1e-2
    assert not unet.conv_in._forward_hooks

    save_references(references, tmp_path / FILE)
    again = load_references(tmp_path / FILE, unet, 4)
    assert torch.equal(again.conv.weight, references.conv.weight)
    with pytest.raises(BowerbirdError, match="does not fit this model"):
        load_references(tmp_path / FILE, unet, 16)
    torch.nn.init.constant_(references.conv.bias, float("nan"))  # type: ignore[arg-type]
    save_references(references, tmp_path / FILE)
    with pytest.raises(BowerbirdError, match="not finite"):
        load_references(tmp_path / FILE, unet, 4)


def test_training_shows_a_drawing_of_the_name_where_the_picture_has_its_thing(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_settings(recipes.recipe("tiny-instruct", tiny=True), ["system.exact=0"])
    pictures = read_pictures(recipe, drawn_folder)
    objective = build_objective(recipe, pictures, tmp_path)
    data, put, seen = objective.data, placing.put, list[tuple[int, Place]]()

    def watched(reference: np.ndarray, place: Place, edge: int) -> np.ndarray:
        matches = [row for row, x in enumerate(data.drawings) if np.array_equal(x.permute(1, 2, 0).numpy(), reference)]
        seen.append((matches[0], place))
        return put(reference, place, edge)

    monkeypatch.setattr(placing, "put", watched)
    batch = objective.batch(0, 200)
    referred = batch["weights"] > 0
    assert len(seen) == referred.sum() > 5
    assert not batch["references"][~referred].any()
    for (drawing, place), shown in zip(seen, batch["references"][referred], strict=True):
        sources = [n for n, kept in enumerate(data.places) if Place.of(kept.numpy()) == place]
        named = {pictures.captions[e.drawing] for e in data.edits.edits if e.source in sources and e.drawing != NONE}
        assert pictures.captions[drawing] in named
        at = place.ground, np.array(placing.find_place(shown.permute(1, 2, 0).numpy()).box)
        assert at[0] == tuple((color_of(data.edits.shown[sources[0]].scene.ground) * 255).round().int().tolist())
        assert np.abs((at[1][:2] + at[1][2:]) / 2 - (np.array(place.box[:2]) + place.box[2:]) / 2).max() <= 3
        scene = data.edits.shown[sources[0]].scene
        boxes = np.array([pixel_box(thing.box, recipe.system.picture_size) for thing in scene.things])
        assert (np.array(place.box[:2]) >= boxes[:, :2].min(0) - 1).all()
        assert (np.array(place.box[2:]) <= boxes[:, 2:].max(0) + 1).all()
    latents = objective._latents(batch["references"], batch["weights"])
    assert not latents[~referred].any()
    row = int(torch.nonzero(referred)[0])
    pipe = objective.pipeline()
    alone = pipe._encode(batch["references"][[row]].float() / 127.5 - 1)
    assert torch.allclose(latents[row], alone[0], atol=0.05 * float(alone.abs().max()))


def test_an_edit_is_shown_its_reference_where_each_picture_has_its_thing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, put, seen = InstructPipeline.from_pretrained(model), placing.put, list[tuple[tuple[int, ...], Place]]()
    pipe.set_progress_bar_config(disable=True)

    def watched(reference: np.ndarray, place: Place, edge: int) -> np.ndarray:
        seen.append((reference.shape, place))
        return put(reference, place, edge)

    monkeypatch.setattr(placing, "put", watched)
    sources = [Image.new("RGB", (64, 64), "white"), Image.new("RGB", (80, 40), (136, 170, 255))]
    sources[0].paste("red", (40, 8, 56, 32))
    sources[1].paste("red", (10, 10, 30, 30))
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8))
    one = Neighbors.from_images(["make it a wolf"], [Image.new("RGB", (50, 100), "green")], ["wolf"])
    hits = Neighbors.stack([one] * 3)
    pipe(neighbors=hits, source=[*sources, photograph], num_inference_steps=1)
    edge = pipe.capabilities.sizes[0]
    scaled = [tuple(round(side * edge / 64) for side in box) for box in ((40, 8, 56, 32), (8, 24, 24, 40))]
    assert [place.ground for _, place in seen] == [(255, 255, 255), (136, 170, 255), None]
    assert all(np.abs(np.subtract(place.box, box)).max() <= 1 for (_, place), box in zip(seen, scaled, strict=False))
    assert {shape for shape, _ in seen} == {(100, 100, 3)}  # whole, and no larger than it is
    pipe(neighbors=hits, source=sources[0], num_inference_steps=1)
    assert len(seen) == 4  # the same reference for the same picture once


def test_two_scales() -> None:
    """e(-,-) = 1, e(I,-) = 10, e(I,T) = 100, in every form."""

    def condition(value: float) -> Conditioning:
        return Conditioning(Tokens(torch.zeros(1, 0, 4), torch.zeros(1, 0)), image=torch.full((1, 1, 1, 1), value))

    def predict(x: torch.Tensor, t: torch.Tensor, given: Conditioning) -> torch.Tensor:
        assert given.image is not None
        return given.image.expand_as(x)

    parts = [condition(value) for value in (100.0, 10.0, 1.0)]
    x, t = torch.zeros(1, 1, 1, 1), torch.tensor(0)
    for text_scale, image_scale in ((1.0, 1.0), (7.5, 1.5), (0.0, 1.0), (3.0, 0.5)):
        made = guidance.instruct(predict, *parts, text_scale, image_scale)(x, t, 0)
        assert float(made) == pytest.approx(1 + image_scale * 9 + text_scale * 90)


def test_one_draw_decides_what_is_dropped(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-instruct", tiny=True)
    objective = build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    batch = objective.batch(0, 4000)
    again = objective.batch(0, 4000)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    blank = objective._token_ids([""])[0]
    no_text = (batch["tokens"] == blank).all(1)
    no_image = (batch["image"] == 0).flatten(1).all(1)
    for share in (no_text & ~no_image, no_text & no_image, ~no_text & no_image):
        assert abs(float(share.float().mean()) - 0.05) < 0.015
    assert not bool((no_text & (batch["weights"] > 0)).any())
    # the scale is of the noisy latents alone
    objective.frozen[0].register_to_config(scaling_factor=0.5)
    unscaled = objective.batch(0, 4000)
    assert torch.equal(unscaled["image"], batch["image"] * 2)
    assert torch.equal(unscaled["clean"], batch["clean"])


def test_plain_diffusers_opens_it_and_makes_the_same(model: Path, tmp_path: Path, picture: Image.Image) -> None:
    from safetensors.torch import load_file

    picture.save(tmp_path / "in.png")
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, str(model), str(tmp_path / "x"), str(tmp_path / "in.png")]
    subprocess.run([*command, "make it blue"], check=True)
    assert json.loads((model / "model_index.json").read_text())["_class_name"] == (
        "StableDiffusionInstructPix2PixPipeline"
    )
    pipe = loading.load_pipeline(model)
    assert isinstance(pipe, InstructPipeline)
    assert pipe.references is not None
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "make it blue",
        source=picture,
        num_inference_steps=3,
        guidance_scale=4.0,
        image_guidance=1.5,
        generator=seeds.picture_generators(0, 1),
        output_type="pt",
    ).images
    assert (made - load_file(tmp_path / "x")["images"]).abs().max() < 1e-3
    pipe.save_pretrained(tmp_path / "again")
    assert loading.load_pipeline(tmp_path / "again").fingerprint() == pipe.fingerprint()


PLAIN_XL = PLAIN.replace("import StableDiffusionInstruct", "import StableDiffusionXLInstruct").replace(
    "pipe = StableDiffusionInstruct", "pipe = StableDiffusionXLInstruct"
)


def test_sdxl_learns_to_edit_and_plain_diffusers_makes_the_same(
    drawn_folder: Path, tmp_path: Path, picture: Image.Image
) -> None:
    from safetensors.torch import load_file

    doubles.sdxl().save_pretrained(tmp_path / "base")
    recipe = recipes.recipe("tiny-instruct", tiny=True)
    changes = {"base": str(tmp_path / "base"), "picture_size": 16, "train_text": True}
    recipe = recipe.model_copy(update={"system": recipe.system.model_copy(update=changes)})
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), tmp_path / "run", device="cpu", sheets=False))
    model = tmp_path / "run" / "model"
    before, after = (load_file(place / "text_encoder_2" / "model.safetensors") for place in (tmp_path / "base", model))
    assert any((before[name].half() != after[name]).any() for name in before), "the second reads the instructions too"
    picture.save(tmp_path / "in.png")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PLAIN_XL,
        str(model),
        str(tmp_path / "x"),
        str(tmp_path / "in.png"),
    ]
    subprocess.run([*command, "make it blue"], check=True)
    expected = load_file(tmp_path / "x")["images"]
    pipe = loading.load_pipeline(model)
    assert isinstance(pipe, InstructPipeline)
    pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "guidance_scale": 4.0, "image_guidance": 1.5, "output_type": "pt"}
    made = pipe("make it blue", source=picture, generator=seeds.picture_generators(0, 1), **how).images
    assert (made - expected).abs().max() < 1e-3
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    zeros = pipe("make it blue", source=picture, generator=seeds.picture_generators(0, 1), **how).images
    assert (zeros - expected).abs().max() > 1e-3
    pipe.save_pretrained(tmp_path / "again")
    again = loading.load_pipeline(tmp_path / "again")
    assert again.fingerprint() == pipe.fingerprint()
    assert again.config.force_zeros_for_empty_prompt
    pipe.register_to_config(is_cosxl_edit=True)
    scaled = pipe("make it blue", source=picture, generator=seeds.picture_generators(0, 1), **how).images
    assert (scaled - zeros).abs().max() > 1e-3
    pipe.save_pretrained(tmp_path / "cosxl")
    assert loading.load_pipeline(tmp_path / "cosxl").config.is_cosxl_edit
    (tmp_path / "cosxl" / "vae" / "config.json").write_text(json.dumps({**pipe.vae.config, "force_upcast": True}))
    half = InstructPipeline.from_pretrained(tmp_path / "cosxl", dtype=torch.float16)
    assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32)
    assert half("make it blue", source=picture, **how).images.isfinite().all()


def test_an_edit_is_made_again_from_its_record(model: Path, picture: Image.Image) -> None:
    pipe = loading.load_pipeline(model)
    assert isinstance(pipe, InstructPipeline)
    assert pipe.references is not None
    settings = replace(generation.default_settings(pipe), steps=2, image_guidance=1.3)
    torch.nn.init.normal_(pipe.references.conv.weight)  # two steps of training teach it little
    with_one = Neighbors.from_images(["make it a wolf"], [picture.resize((80, 40))], ["wolf"])
    made = []
    for hits in (with_one, Neighbors.empty(["make it a wolf"])):
        images = generation.generate(pipe, hits, settings, sources=[picture])
        record = records.generation_records(
            pipe, str(model), None, hits, images, settings, {"prompt": "make it a wolf"}, sources=[picture]
        )[0]
        again, _ = regeneration.regenerate(pipe, json.loads(json.dumps(record)))
        assert np.array_equal(np.asarray(again), np.asarray(images[0]))
        made.append(np.asarray(images[0]).astype(int))
    assert np.abs(made[0] - made[1]).max() > 0
    with pytest.raises(BowerbirdError, match="the instruction is empty"):
        pipe(" ", source=picture)
    for wrong in ("in.png", ["in.png"], np.zeros((64, 64, 3))):
        with pytest.raises(BowerbirdError, match="`source`: takes PIL images"):
            pipe("make it blue", source=wrong)
    for name in ("guidance_scale", "image_guidance", "change_threshold"):
        with pytest.raises(BowerbirdError, match=f"{name} is a finite number"):
            pipe("make it blue", source=picture, **{name: float("nan")}, output_type="latent")
    how = {"source": picture, "num_inference_steps": 1, "output_type": "np"}
    said = pipe("make it a wolf", **how).images
    assert np.array_equal(pipe("make it a wolf", neighbors=Neighbors.empty(["a heart"]), **how).images, said)
    assert not np.array_equal(pipe(neighbors=Neighbors.empty(["a heart"]), **how).images, said)


def test_a_lora_changes_an_edit_and_is_in_its_record(model: Path, picture: Image.Image, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from bowerbird.systems.grounded.recorded_base import base_header
    from bowerbird.systems.reference_settings import Adapter, LoraFile

    plain = loading.load_pipeline(model)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = plain.unet.get_submodule(layer).weight.shape[0]
    factors = {f"unet.{layer}.lora_A.weight": torch.ones(1, width), f"unet.{layer}.lora_B.weight": torch.ones(width, 1)}
    save_file(factors, tmp_path / "toy.safetensors")
    lora = Adapter(loras=(LoraFile(tmp_path / "toy.safetensors", 0.5),))
    changed = loading.load_pipeline(model, adapter=lora)
    settings = replace(generation.default_settings(plain), steps=2)
    hits = Neighbors.empty(["make it blue"])
    made = [generation.generate(pipe, hits, settings, sources=[picture])[0] for pipe in (plain, changed)]
    assert not np.array_equal(*map(np.asarray, made))
    record = records.generation_records(
        changed, str(model), None, hits, [made[1]], settings, {"prompt": "make it blue"}, sources=[picture]
    )[0]
    assert [(each["name"], each["scale"]) for each in record["loras"]] == [("toy.safetensors", 0.5)]
    again, _ = regeneration.regenerate(changed, json.loads(json.dumps(record)))
    assert np.array_equal(np.asarray(again), np.asarray(made[1]))
    with pytest.raises(BowerbirdError, match=r"toy\.safetensors:0\.5"):
        regeneration.regenerate(plain, record)
    # one of ours goes into its own base, and into what was trained from that
    save_file(factors, tmp_path / "toy.safetensors", base_header("tiny-sd", {"unet": torch.nn.Linear(1, 1)}))
    with pytest.raises(BowerbirdError, match="trained on the base 'tiny-sd'"):
        loading.load_pipeline(model, adapter=lora)
    with pytest.raises(BowerbirdError, match="adapter"):
        loading.load_pipeline(model, adapter=Adapter(adapter=tmp_path / "toy.safetensors"))


def test_what_an_instruction_names() -> None:
    said = {
        "make it a wolf": "wolf",
        "replace the cat with a black wolf": "black wolf",
        "Add an office building left of the circle": "office building",
        "give it sunglasses": "sunglasses",
        "add a hat to the cat, please": "hat",
        "replace a dog with a wolf": "wolf",
        "swap a cat for a dog": "dog",
        "turn the cat into wolves": "wolves",
        "turn him into Batman": "batman",
        "delete a tree and add a bench": "bench",
        "add some flowers": "flowers",
        "make it a pair of shoes": "shoes",
        "make it a black and white cat": "black and white cat",
        "add a little dog": "little dog",
        "add a painting to the wall": "painting",
        "make it blue": None,
        "put it on a red background": None,
        "remove the heart": None,
        "remove a hat": None,
        "without a hat": None,
        "take away a cloud": None,
        "turn the heart into a red one": None,
        "make it a bit darker": None,
        "make it a little brighter": None,
        "move it a bit to the left": None,
        "add a touch of red": None,
        "give it a darker tone": None,
        "turn this into a watercolor": None,
        "in the style of a comic": None,
        "add a": None,
        "make it a wolf with a hat": "wolf",
        "change the dog to a cat with a hat": "cat",
        "replace the dog with a cat with a hat": "cat",
        "replace the man with the hat with a wolf": "wolf",
        "turn it into a woman with a headscarf": "woman",
        "make it a wolf for Halloween": "wolf",
        "change the cat to a dog but keep the hat": "dog",
        "turn the sun into an orange": "orange",
        "turn the sun into orange": None,
        "make it orange": None,
        "make it a flag of Japan": "flag of japan",
        "add a cup of tea on the left": "cup of tea",
        "add a hat of the same color": "hat",
        "make it glasses": "glasses",
        "make it a flag: Peru": "flag: peru",
        "turn the cat into Mrs. Claus. Keep the hat": "mrs. claus",
        "one more thing: add a hat": "hat",
        "edit: remove a hat": None,
        "please do this: delete a cup": None,
        "replace the cat with a dog: keep the background": "dog",
        "turn it into a dog: the background stays": "dog",
        "add a cat: a black one": "cat",
        "add a cat.remove the dog": "cat",
        "make it darker": None,
        "make it brighter colors": None,
    }
    assert {text: named_thing(text) for text in said} == said


def test_what_wordings_of_the_training_name() -> None:
    """What comes in is found in every wording, also those held out, and nothing where nothing does."""
    coming = {"become", "replace", "add", "person"}
    for kind, every in wordings.WORDINGS.items():
        if kind in ("detail", "add part"):  # what is added may be a thing or not
            continue
        words = ("a wolf" if kind in coming else "wolf", "cat")
        words = ("a wolf", "left of the cat") if kind == "add" else words
        words = ("two o'clock", "clock") if kind == "clock" else words
        words = ("blue", "cat") if kind in ("color", "recolor", "ground") else words
        for wording in every:
            found = named_thing(wording.format(*words))
            assert found == ("wolf" if kind in coming else None), wording


def test_nothing_is_looked_up_where_nothing_comes_in(
    model: Path, picture: Image.Image, small_kb_path: Path, tmp_path: Path
) -> None:
    kb = KnowledgeBase.open(small_kb_path)
    pipe = loading.load_pipeline(model)
    for said, found in (("make it blue", 0), ("remove a red square", 0), ("replace a cat with a red square", 1)):
        hits = pipe.retrieve(Request(prompts=(said,)), kb)
        assert (hits.k, hits.queries) == (found, (said,))
    picture.save(tmp_path / "in.png")
    words = ["edit", model, "--image", tmp_path / "in.png", "--kb", kb.path, "-n", 1, "--steps", 1, "--out"]
    for said, line in (("make it blue", True), ("make it a red square", False)):
        made = CliRunner().invoke(app, [str(w) for w in (*words, tmp_path / said, "--instruction", said)])
        assert made.exit_code == 0, made.output
        assert ("nothing is looked up" in made.output) == line
    unlike = [*words, tmp_path / "unlike", "--instruction", "make it a red square", "--min-score", 0.999]
    refused = CliRunner().invoke(app, [str(w) for w in unlike])
    assert isinstance(refused.exception, BowerbirdError)
    assert "no neighbor was found for 'red square' with `min_score=0.999`" in str(refused.exception)
    assert not (tmp_path / "unlike").exists()
    made = CliRunner().invoke(app, [str(w) for w in (*unlike, "--allow-no-neighbors")])
    assert made.exit_code == 0, made.output
    assert "nothing is looked up" not in made.output
    alone = [*unlike[:4], *unlike[6:]]  # without --kb
    assert "--kb" not in alone
    refused = CliRunner().invoke(app, [str(w) for w in alone])
    assert "--min-score is about what a search finds; give a knowledge base" in str(refused.exception)
    for more, said in (
        (("--strength", 0.3), "leave out --strength"),
        (("--img2img",), "leave out --img2img"),
        (("-k", 2), "is about what a knowledge base shows"),
        (("--image-guidance", -3), "0 or more"),
    ):
        given = ["edit", model, "--image", tmp_path / "in.png", "--instruction", "make it blue", *more]
        refused = CliRunner().invoke(app, [str(w) for w in (*given, "--out", tmp_path / "no")])
        assert said in str(refused.exception)
    with pytest.raises(BowerbirdError, match="reads at most 1 reference; got `k=2`"):
        pipe.retrieve(Request(prompts=("make it a red square",), k=2), kb)
    own = ["edit", model, "--image", tmp_path / "in.png", "--instruction", "make it a wolf", "--reference"]
    own += [tmp_path / "in.png", "-n", 1, "--steps", 1, "--out"]
    made = CliRunner().invoke(app, [str(w) for w in (*own, tmp_path / "own")])
    assert made.exit_code == 0, made.output
    record = provenance.read_png(tmp_path / "own" / "000.png")
    assert (record["k"], len(record["pictures"]), record["query"]) == (1, 1, "make it a wolf")
    refused = CliRunner().invoke(app, [str(w) for w in (*own, tmp_path / "no", "--kb", kb.path)])
    assert "one of them" in str(refused.exception)


@pytest.mark.parametrize("size", [(90, 60), (30, 81)])
def test_an_edit_keeps_the_shape_of_its_picture(
    model: Path, picture: Image.Image, tmp_path: Path, size: tuple[int, int]
) -> None:
    picture.resize(size).save(tmp_path / "in.png")
    words = ["edit", model, "--image", tmp_path / "in.png", "--instruction", "make it blue", "-n", 2, "--steps", 2]
    made = CliRunner().invoke(app, [str(w) for w in (*words, "--out", tmp_path / "out")])
    assert made.exit_code == 0, made.output
    files = [tmp_path / "out" / f"00{i}.png" for i in range(2)]
    pictures = [images.read(file) for file in files]
    assert all(each.size == images.fitted(picture.resize(size), 64).size for each in pictures)
    record = provenance.read_png(files[1])
    image, _ = regeneration.regenerate(InstructPipeline.from_pretrained(str(model)), record)
    assert image.tobytes() == pictures[1].tobytes()


def test_a_text_to_image_model_says_how_it_learns_to_edit(tmp_path: Path, picture: Image.Image) -> None:
    doubles.sd().save_pretrained(tmp_path / "base")
    picture.save(tmp_path / "in.png")
    words = ["edit", tmp_path / "base", "--image", tmp_path / "in.png", "--instruction", "make it blue", "--out"]
    made = CliRunner().invoke(app, [str(word) for word in (*words, tmp_path / "out")])
    assert "bowerbird train instruct --base" in str(made.exception)
    assert not (tmp_path / "out").exists()


def test_a_base_that_reads_a_picture_already_is_refused(model: Path, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("tiny-instruct", tiny=True)
    recipe = recipe.model_copy(update={"system": recipe.system.model_copy(update={"base": str(model)})})
    with pytest.raises(BowerbirdError, match="InstructPix2Pix"):
        build_objective(recipe, read_pictures(recipe, drawn_folder), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_go_on_when_its_base_has_changed(model: Path, drawn_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = recipes.recipe("tiny-sd", tiny=True)
    list(train_recipe(first, read_pictures(first, drawn_folder), tmp_path / "sd", sheets=False))
    base = tmp_path / "sd" / "model"
    recipe = recipes.recipe("tiny-instruct", tiny=True)
    system = recipe.system.model_copy(update={"base": str(base), "references": False, "change_threshold": 0.5})
    recipe = recipe.model_copy(update={"system": system})
    pictures = read_pictures(recipe, drawn_folder)
    steps = train_recipe(recipe, pictures, tmp_path / "run", sheets=False)
    next(steps)
    steps.close()
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "conv_in.bias": tensors["conv_in.bias"] + 1}, file, {"format": "pt"})
    with pytest.raises(BowerbirdError, match="has changed since"):
        next(train_recipe(recipe, pictures, tmp_path / "run", sheets=False))
    save_file(tensors, file, {"format": "pt"})
    list(train_recipe(recipe, pictures, tmp_path / "run", sheets=False))
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.grounded.recorded_base import base_header, other_base

    own = ReferencePipeline.from_pretrained(base).base
    header = base_header(str(base), {"unet": own.unet, "text_encoder": own.text_encoder})
    assert json.loads((tmp_path / "run" / "model" / "base.json").read_text()) == json.loads(header["bowerbird.base"])
    trained = InstructPipeline.from_pretrained(tmp_path / "run" / "model")
    assert trained.references is None
    said = json.loads((base / "generation_config.json").read_text())
    assert (
        trained.defaults.guidance_scale
        == said["guidance_scale"]
        != InstructPipeline.from_pretrained(model).defaults.guidance_scale
    )
    ways = (generation.default_settings(trained), jobs.settings_of(trained, jobs.Job(prompt="make it blue")))
    assert {trained.defaults.change_threshold, *(each.change_threshold for each in ways)} == {0.5}
    asked = {**{name: said[name] for name in ("guidance_scale", "num_inference_steps")}, "change_threshold": 0.5}
    picture = Image.new("RGB", (64, 64), "red")
    made = [trained("make it blue", source=picture, output_type="pt", **how).images for how in ({}, asked)]
    assert torch.equal(*made)
    (tmp_path / "lora.safetensors").write_bytes(b"")
    save_file({"x": torch.zeros(1)}, tmp_path / "lora.safetensors", header)
    assert other_base(tmp_path / "lora.safetensors", trained, tmp_path / "run" / "model") is None
    kb, _ = KnowledgeBase.build(tmp_path / "kb", drawn_folder)
    with pytest.raises(BowerbirdError, match="a knowledge base changes nothing"):
        trained("make it a heart", source=Image.new("RGB", (64, 64)), knowledge_base=kb)
    with pytest.raises(BowerbirdError, match="a reference changes nothing"):
        trained.own_references("make it a heart", [picture], [""])


def test_the_picture_of_what_is_shown_is_held_once() -> None:
    edits = Edits()
    shown = Shown(replace(_scene(), ground="red"))
    edits.add("a", Shown(_scene()), shown, "ground", ("red",))
    edits.add("a", shown, Shown(_scene()), "ground", ("white",))
    assert len(edits.shown) == 2
    assert edits.edits[0].drawing == NONE


def _scene() -> Scene:
    return Scene((Thing("heart", SHAPE, "blue", "", (10, 10, 40, 40)),))


def test_bundled_it_is_of_8_bits_and_shares_what_its_base_has(
    model: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, place = InstructPipeline.from_pretrained(str(model)), tmp_path / "tiny-instruct"
    shutil.copytree(model, place)
    shared = {"vae": "base/vae", "tokenizer": "base/tokenizer"}
    for part in shared:
        shutil.move(place / part, tmp_path / "base" / part)
    for part in ("unet", "text_encoder"):
        shutil.rmtree(place / part)
        (place / part).mkdir()
        quantized.save(getattr(pipe, part), place / part)
    for where in (weights, network_files):
        monkeypatch.setattr(where, "FOLDER", tmp_path)
    monkeypatch.setitem(weights.DESCRIPTIONS, "tiny-instruct", "")
    monkeypatch.setitem(weights.SHARED, "tiny-instruct", shared)
    found = InstructPipeline.from_pretrained("tiny-instruct")
    assert not found.strange
    for part in ("unet", "text_encoder", "vae"):
        for kept, wanted in zip(getattr(found, part).parameters(), getattr(pipe, part).parameters(), strict=True):
            assert (kept - wanted).abs().max() <= wanted.abs().max() / 250
    made = [
        each("make it blue", source=picture, num_inference_steps=2, output_type="pt").images for each in (pipe, found)
    ]
    assert 0 < (made[0] - made[1]).abs().max() < 0.1
