"""A subject of one's own on a tiny Stable Diffusion: what the base keeps, what is written, what is refused."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.components import weights_hash
from bowerbird.systems.dreambooth import class_pictures as classes
from bowerbird.systems.dreambooth.rare_word import check_word
from bowerbird.systems.grounded.bases import CALL
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.reference_settings import LoraFile
from bowerbird.training.recipe import read_pictures, with_settings
from bowerbird.training.recipes import recipe
from bowerbird.training.run import train_recipe

STEPS = 3


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    doubles.sd().save_pretrained(tmp_path / "base")
    (tmp_path / "toy").mkdir()
    for i, picture in enumerate(doubles.pictures(3)):
        picture.save(tmp_path / "toy" / f"{i}.png")
    return tmp_path


def run(place: Path, out: str, *settings: str, subject: str = "toy", sheets: bool = False) -> Path:
    own = ("size=16", f"system.base={place / 'base'}", "system.class_name=fox", "system.word=the", "train.precision=no")
    own += ("train.learning_rate=0.01", f"train.steps={STEPS}", "system.template=a {}", "train.save_every=2")
    own += ("system.stop_below=0",)
    made = with_settings(recipe("dreambooth", tiny=True), [*own, *settings])
    pictures = read_pictures(made, place / subject)
    list(train_recipe(made, pictures, place / out, device="cpu", sheets=sheets))
    return place / out / "model"


def assert_same(one: Path, other: Path) -> None:
    """The tensors of two files; the order of a header's entries is chance."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def picture(pipe: Any) -> np.ndarray:
    return np.asarray(pipe("a the fox", seed=1, num_inference_steps=2, output_type="np").images)


@pytest.mark.parametrize("alpha", ["null", "8"])
def test_the_file_gives_the_trained_model_and_the_base_stays(place: Path, alpha: str) -> None:
    before = weights_hash(ReferencePipeline.from_pretrained(place / "base").base.unet)
    from bowerbird.training import run as runs

    built: list[Any] = []
    make = runs.build_objective
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build_objective", lambda *a, **k: built.append(make(*a, **k)) or built[-1])
        model = run(place, "run", f"system.alpha={alpha}")
    (objective,) = built
    assert weights_hash(objective.frozen[0].unet) == before
    file = model / "pytorch_lora_weights.safetensors"
    read = ReferencePipeline.from_pretrained(place / "base", loras=[LoraFile(file)])
    assert read.loras[0].ignored == ()
    made = picture(read)
    assert np.abs(made - picture(ReferencePipeline(objective.plain()))).max() < 1e-5
    assert np.abs(made - picture(ReferencePipeline.from_pretrained(place / "base"))).max() > 1e-4


def test_plain_diffusers_opens_the_file(place: Path) -> None:
    pytest.importorskip("peft", minversion="0.17", exc_type=ImportError)
    from diffusers import StableDiffusionPipeline

    model = run(place, "run", "system.alpha=8")
    theirs = StableDiffusionPipeline.from_pretrained(place / "base", safety_checker=None)
    theirs.load_lora_weights(model)
    file = LoraFile(model / "pytorch_lora_weights.safetensors")
    ours = ReferencePipeline.from_pretrained(place / "base", loras=[file])
    assert np.abs(picture(ours) - picture(ReferencePipeline(theirs))).max() < 1e-5


def test_class_pictures_are_the_bases_own_and_made_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place, "first", "system.method=full", "train.steps=1")
    plain = ReferencePipeline.from_pretrained(place / "base")
    config = with_settings(recipe("dreambooth", tiny=True), ["system.class_name=fox", "system.template=a {}"]).system
    wanted = classes.generate(plain.base, config, list(range(classes.PART)), "cpu")  # type: ignore[arg-type]
    made = []
    monkeypatch.setattr(classes, "generate", lambda *a: made.append(a))
    usual = plain.defaults.guidance_scale
    kept = classes.class_pictures(plain.base, config, 0, "cpu", usual)  # type: ignore[arg-type]
    assert torch.equal(kept, wanted[: len(kept)])
    assert len(kept) == 2
    assert not made
    whole = ReferencePipeline.from_pretrained(run(place, "second", "system.method=full"))
    assert np.abs(picture(whole) - picture(plain)).max() > 1e-4


def test_the_class_is_generated_as_the_base_does_and_unchecked(place: Path) -> None:
    (place / "base" / CALL).write_text('{"guidance_scale": 2.0}')
    model = run(place, "whole", "system.method=full", "train.steps=1")
    assert json.loads((model / CALL).read_text()) == {"guidance_scale": 2.0}
    (file,) = (place / "cache" / "class-pictures").glob("*.safetensors")
    kept = load_file(file)["pixels"]
    base = ReferencePipeline.from_pretrained(place / "base").base
    config = with_settings(recipe("dreambooth", tiny=True), ["system.class_name=fox", "system.template=a {}"]).system

    class Checker(torch.nn.Module):
        def forward(self, images: Any, clip_input: Any) -> Any:
            raise AssertionError("a training's pictures are not checked")

    base.register_modules(safety_checker=Checker())
    made = classes.generate(base, config, list(range(classes.PART)), "cpu", 2.0)  # type: ignore[arg-type]
    assert torch.equal(made, kept)
    assert base.safety_checker is not None


def test_a_word_that_ends_in_a_common_one_is_refused() -> None:
    tokenizer = ReferencePipeline.from_pretrained("tiny-sd").base.tokenizer
    check_word(tokenizer, "sks")
    for word in ("cat", "bluedog"):
        with pytest.raises(BowerbirdError, match="the base has a meaning for"):
            check_word(tokenizer, word)


def test_a_transformer_is_refused_before_it_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "flux").mkdir()
    (place / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        BowerbirdError, match="is a FluxPipeline; what is trained here is for a StableDiffusionPipeline"
    ):
        run(place, "refused", f"system.base={place / 'flux'}")


def test_what_cannot_be_learned_is_refused(place: Path) -> None:
    (place / "one").mkdir()
    doubles.pictures(1)[0].save(place / "one" / "0.png")
    (place / "torn").mkdir()
    for i, each in enumerate(doubles.pictures(2)):
        each.save(place / "torn" / f"{i}.png")
    (place / "torn" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    cases = {
        ("one",): "2 or more pictures",
        ("torn",): "9.png",
        ("toy", "system.word=fox"): "is common",
        ("toy", "system.word=qqq"): "not in the base's vocabulary",
        ("toy", "system.class_name="): "--class",
        ("toy", "size=32"): "size=16",
    }
    for (subject, *settings), said in cases.items():
        with pytest.raises(BowerbirdError, match=said):
            run(place, "refused", *settings, subject=subject)
        assert not (place / "refused").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_text_encoders_learn_by_option_in_sdxl_too(place: Path, method: str) -> None:
    doubles.sdxl().save_pretrained(place / "base")
    plain = ReferencePipeline.from_pretrained(place / "base")
    settings = (f"system.method={method}", "system.train_text=true", "train.steps=1")
    model = run(place, "run", *settings, sheets=True)
    assert (place / "run" / "sheets" / "000001.png").is_file()
    if method == "full":
        trained = ReferencePipeline.from_pretrained(model)
    else:
        file = model / "pytorch_lora_weights.safetensors"
        assert {name.partition(".")[0] for name in load_file(file)} == {"unet", "text_encoder", "text_encoder_2"}
        trained = ReferencePipeline.from_pretrained(place / "base", loras=[LoraFile(file)])
        assert trained.loras[0].ignored == ()
    for part in ("unet", "text_encoder", "text_encoder_2"):
        assert weights_hash(getattr(trained.base, part)) != weights_hash(getattr(plain.base, part))


def test_sdxl_is_trained_on_what_its_own_pipeline_reads() -> None:
    from bowerbird.systems import base_text

    base = doubles.sdxl()
    tokens = base_text.token_ids(base, ["a red fox", "a wolf"])
    with torch.no_grad():
        made = base_text.encode([base.text_encoder, base.text_encoder_2], tokens)
        wanted = base.encode_prompt(["a red fox", "a wolf"], do_classifier_free_guidance=False)
    assert torch.allclose(made.tokens, wanted[0], atol=1e-6)
    assert made.pooled is not None
    assert torch.allclose(made.pooled, wanted[2], atol=1e-6)
    own = base._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, text_encoder_projection_dim=16)
    found = base_text.added(made.pooled, 16)
    assert found is not None
    assert torch.equal(found["time_ids"], own.repeat(2, 1))


def test_training_ends_with_the_checkpoint_before_the_class_collapsed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bowerbird.systems.dreambooth.collapse import ClassDiversity
    from bowerbird.systems.dreambooth.objective import DreamBoothObjective

    monkeypatch.setattr(DreamBoothObjective, "class_diversity", lambda self: (ClassDiversity(left.pop(0), 0.5), []))
    left = [0.4, 0.3, 0.2]
    settings = ["train.save_every=1", "system.stop_below=0.5", "train.steps=5"]
    own = (f"system.base={place / 'base'}", "system.class_name=fox", "system.word=the", "size=16", "train.precision=no")
    made = with_settings(recipe("dreambooth", tiny=True), [*own, *settings])
    pictures = read_pictures(made, place / "toy")
    reports = list(train_recipe(made, pictures, place / "run", device="cpu", sheets=False))
    assert [report.step for report in reports] == [1, 2, 3]
    assert "40% is left, stops below 50%" in str(reports[-1].stopped)
    left = [0.4, 0.4]
    two = with_settings(made, ["train.steps=2"])
    list(train_recipe(two, pictures, place / "two", device="cpu", sheets=False))
    files = [place / each / "model" / "pytorch_lora_weights.safetensors" for each in ("run", "two")]
    assert_same(*files)
    left = [0.49, 0.3, 0.4]  # of 0.5; by default what is left at the second is too little, and half is not it
    monkeypatch.setattr("bowerbird.systems.dreambooth.objective.least_share", lambda *_: 0.7)
    usual = with_settings(made, ["system.stop_below=null", "train.steps=3"])
    stopped = list(train_recipe(usual, pictures, place / "usual", device="cpu", sheets=False))
    assert [report.step for report in stopped] == [1, 2]
    assert "60% is left, stops below 70%" in str(stopped[-1].stopped)
    left = [0.1]
    with pytest.raises(BowerbirdError, match="before the first checkpoint"):
        list(train_recipe(made, pictures, place / "never", device="cpu", sheets=False))


def test_a_class_of_one_picture_has_no_diversity() -> None:
    from bowerbird.encoders.perceptual import mean_distance, perceptual_distances
    from bowerbird.evaluation.metrics.subject import preservation

    pictures = doubles.pictures(4, (64, 64))
    apart = perceptual_distances(pictures)
    assert np.allclose(np.diag(apart), 0, atol=1e-6)
    assert np.allclose(apart, apart.T)
    assert mean_distance(perceptual_distances(pictures[:1] * 3)) == pytest.approx(0, abs=1e-6)
    shades = [each.point(lambda value: value * 0.9) for each in pictures[:1]]
    assert perceptual_distances(pictures[:1], shades)[0, 0] < 0.3 * mean_distance(apart)
    features = np.eye(3)
    assert preservation(features, features[:1]) == pytest.approx(1 / 3)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[2])))
import test_dreambooth as t
from bowerbird.training import run as runs
train = runs.train
def dies(*args, **kwargs):
    for report in train(*args, **kwargs):
        yield report
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
runs.train = dies
t.run(Path(sys.argv[1]), "cut", "train.steps=4")
"""


@pytest.mark.skipif(os.name != "posix", reason="nothing kills so elsewhere")
def test_a_killed_training_goes_on_to_the_same_weights(place: Path) -> None:
    here = Path(__file__).parent
    paths = {"PYTHONPATH": os.pathsep.join([str(here.parent / "src"), str(here)])}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(place), str(here)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **paths})
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (place / "cut" / "model").exists()
    assert (place / "cut" / "checkpoint.safetensors").is_file()
    files = [run(place, each, "train.steps=4") / "pytorch_lora_weights.safetensors" for each in ("cut", "whole")]
    assert_same(*files)


def test_our_layers_are_pefts() -> None:
    """The same start gives the same prediction, gradients and weights after steps of AdamW, alpha twice the rank."""
    peft = pytest.importorskip("peft", minversion="0.17", exc_type=ImportError)
    from bowerbird.models.low_rank import add_low_rank, factors
    from bowerbird.systems.dreambooth.config import TARGETS

    rank, base = 4, doubles.sd().unet
    ours, theirs = copy.deepcopy(base).requires_grad_(False), copy.deepcopy(base).requires_grad_(False)
    add_low_rank(ours, TARGETS, rank, scale=2.0, deviation=1 / rank)
    theirs.add_adapter(
        peft.LoraConfig(r=rank, lora_alpha=2 * rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    )
    names = {name: name.replace(".weight", ".default.weight") for name in factors(ours)}
    into = dict(theirs.named_parameters())
    start = torch.cat([into[names[name]].flatten() for name in names if "lora_A" in name]).detach()
    own = torch.cat([value.flatten() for name, value in factors(ours).items() if "lora_A" in name])
    assert float(own.std()) == pytest.approx(float(start.std()), rel=0.1)
    with torch.no_grad():
        for name, value in factors(ours).items():
            into[names[name]].copy_(value)
    x, text, wanted = torch.randn(2, 4, 8, 8), torch.randn(2, 5, doubles.CONTEXT), torch.randn(2, 4, 8, 8)
    made = []
    for unet in (ours, theirs):
        learned = [each for each in unet.parameters() if each.requires_grad]
        optimizer, losses = torch.optim.AdamW(learned, 1e-2), []
        for step in range(4):
            loss = (unet(x, 100 * step, encoder_hidden_states=text).sample - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        made.append(losses)
    assert made[0] == pytest.approx(made[1], rel=1e-5)
    assert made[0][-1] < made[0][0]
    for name, value in factors(ours).items():
        assert torch.allclose(value, into[names[name]], atol=1e-4)


def test_a_lora_begins_as_diffusers_recipe_has_it(place: Path) -> None:
    run(place, "run", "train.learning_rate=1e-12", "train.steps=1", "system.rank=8")
    tensors = load_file(place / "run" / "model" / "pytorch_lora_weights.safetensors")
    down = torch.cat([value.flatten() for name, value in tensors.items() if "lora_A" in name])
    assert float(down.std()) == pytest.approx(1 / 8, rel=0.05)


def test_when_a_class_has_collapsed_depends_on_its_subject() -> None:
    """Halfway to a class that is the subject alone, and never where chance may be."""
    from bowerbird.encoders.perceptual import mean_distance, perceptual_distances
    from bowerbird.systems.dreambooth.collapse import CHANCE, CHECKED, diversity, least_share

    various = doubles.pictures(2 * CHECKED, (64, 64))
    base = diversity(various)
    assert least_share(various[:1] * 3, base) == pytest.approx(0.5)
    near = [various[0], various[0].point(lambda value: value * 0.8)]
    own = diversity(near) / base
    assert 0.001 < own < 2 * CHANCE - 1
    assert least_share(near, base) == pytest.approx((1 + own) / 2)
    assert least_share(various, base) == CHANCE
    eights = [mean_distance(perceptual_distances(various)[i:][:CHECKED, i : i + CHECKED]) / base for i in range(8)]
    assert 0.5 < least_share(various, base, various) < min(eights)
    assert least_share(various, 0.0) == 0


def test_a_changed_base_is_noticed(place: Path) -> None:
    run(place, "run")
    base = doubles.sd()
    base.unet.conv_in.weight.data.add_(0.1)
    base.save_pretrained(place / "base")
    with pytest.raises(BowerbirdError, match="changed since"):
        run(place, "run")
