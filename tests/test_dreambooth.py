"""A subject of one's own on a tiny Stable Diffusion: what the base keeps, what is written, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import doubles
import numpy as np
import pytest
import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.components import weights_hash
from bowerbird.systems.dreambooth import class_pictures as classes
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


def run(place: Path, out: str, *settings: str, subject: str = "toy") -> Path:
    own = ("size=16", f"system.base={place / 'base'}", "system.class_name=fox", "system.word=the", "train.precision=no")
    own += ("train.learning_rate=0.01", f"train.steps={STEPS}", "system.template=a {}", "train.save_every=2")
    made = with_settings(recipe("dreambooth", tiny=True), [*own, *settings])
    pictures = read_pictures(made, place / subject)
    list(train_recipe(made, pictures, place / out, device="cpu", sheets=False))
    return place / out / "model"


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
    kept = classes.class_pictures(plain.base, config, 0, "cpu")  # type: ignore[arg-type]
    assert torch.equal(kept, wanted[: len(kept)])
    assert len(kept) == 2
    assert not made
    whole = ReferencePipeline.from_pretrained(run(place, "second", "system.method=full"))
    assert np.abs(picture(whole) - picture(plain)).max() > 1e-4


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


def test_a_changed_base_is_noticed(place: Path) -> None:
    run(place, "run")
    base = doubles.sd()
    base.unet.conv_in.weight.data.add_(0.1)
    base.save_pretrained(place / "base")
    with pytest.raises(BowerbirdError, match="changed since"):
        run(place, "run")
