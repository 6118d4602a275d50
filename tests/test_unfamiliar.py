"""A model that is asked for something unlike what it was trained on says so: on the command line, on the sheet and in
the record."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.data.drawn import read_drawn
from bowerbird.data.picture_statistics import picture_statistics
from bowerbird.models import training_pictures
from bowerbird.systems import generation, loading, output, records, regeneration, unfamiliar


def photograph(seed: int = 0) -> Image.Image:
    """Noise with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    frequency[0, 0] = 1
    waves = np.stack([np.fft.ifft2(np.fft.fft2(rng.normal(size=(64, 64))) / frequency).real for _ in range(3)], -1)
    return Image.fromarray((waves / waves.std() * 50 + 128).clip(0, 255).astype(np.uint8))


def drawing() -> Image.Image:
    return Image.open(io.BytesIO(next(iter(read_drawn())).data)).convert("RGB")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return loading.load_pipeline("tiny-reimagen")


def test_statistics_are_shares_of_colors_and_of_steps() -> None:
    halves = Image.new("RGB", (32, 32), "white")
    halves.paste("black", (0, 0, 16, 32))
    found = picture_statistics(halves)
    assert found[2] == pytest.approx(np.log(2), abs=1e-5)  # two colors, as often as each other
    shares = np.exp(np.delete(found, 2)) - 0.01
    edge = 32 / (2 * 32 * 31)
    assert shares == pytest.approx([0.5, 1, 2 / 1024, 1 - edge, 0, 0, edge], abs=1e-5)


@pytest.mark.parametrize("name", ["tiny-rdm", "tiny-rdm-fast", "tiny-knn", "tiny-reimagen", "reimagen-drawings"])
def test_bundled_models_know_drawings_from_photographs(name: str) -> None:
    from bowerbird.models.weights import bundled

    folder = bundled(name)
    assert folder is not None
    known = training_pictures.read(folder)
    assert known is not None
    drawn = np.stack([picture_statistics(Image.open(io.BytesIO(item.data))) for item in list(read_drawn())[::8]])
    assert (known.distances(drawn) < 1).all()
    assert (known.distances(np.stack([picture_statistics(photograph(i)) for i in range(8)])) > 1.2).all()


def test_a_warning_is_in_the_record_and_on_the_sheet_and_changes_no_pixel(pipe: Any, tmp_path: Path) -> None:
    settings = generation.Settings(steps=2, height=32, width=32)
    sheets = []
    for picture, far in ((drawing(), False), (photograph(), True)):
        hits = Neighbors.from_images(["a fox"], [picture], ["fox"])
        images = generation.generate(pipe, hits, settings)
        made = records.generation_records(pipe, "tiny-reimagen", None, hits, images, settings, {"prompt": "a fox"})
        assert ("warnings" in made[0]) == far
        path = output.write(images, made, hits, tmp_path / str(far))[0]
        record = provenance.read_png(path)
        assert not far or "neighbors are unlike" in record["warnings"][0]
        again, _ = regeneration.regenerate(pipe, record)
        assert np.array_equal(np.asarray(again), np.asarray(images[0]))
        plain = {key: value for key, value in record.items() if key != "warnings"}
        assert ("unlike" in output._title("000", record)) == far
        assert "unlike" not in output._title("000", plain)
        strange = {**plain, "warnings": [3, "x\n" * 400], "retrieval": 5}  # anybody may have written a record
        assert len(output._title("000", strange)) < len(output._title("000", plain)) + 310
        sheets.append(np.asarray(Image.open(tmp_path / str(far) / "sheet.png").convert("L"))[:, :190])
    assert (sheets[1] < 128).sum() > (sheets[0] < 128).sum()


def test_neighbors_that_do_not_count_and_those_without_pictures_say_nothing(pipe: Any) -> None:
    hits = Neighbors.from_images(["a fox"], [photograph(), drawing()], ["", ""])
    settings = generation.Settings()
    assert unfamiliar.find_warnings(pipe, hits.weighted([1, 0]), settings)[0]
    assert unfamiliar.find_warnings(pipe, hits.weighted([0, 1]), settings) == [[]]
    assert unfamiliar.find_warnings(pipe, Neighbors.empty(["a fox"]), settings) == [[]]
    bare = Neighbors.from_embeddings(np.zeros((1, 1, 384), np.float32), [["fox"]])
    assert unfamiliar.find_warnings(pipe, bare, settings) == [[]]
    sources = unfamiliar.find_warnings(pipe, hits.select([1]), settings, [photograph()])
    assert "picture to edit" in sources[0][0]


def test_a_size_far_from_the_trained_one_is_in_the_record() -> None:
    pipe = loading.load_pipeline("tiny-rdm")
    hits = Neighbors.from_embeddings(np.zeros((1, 1, 384), np.float32), [["fox"]])
    for edge, far in ((64, False), (256, True)):
        settings = generation.Settings(height=edge, width=edge)
        image = Image.new("RGB", (edge, edge))
        record = records.generation_records(pipe, "tiny-rdm", None, hits, [image], settings, {})[0]
        assert ("256 px is far from the 64 px" in str(record.get("warnings"))) == far


def test_the_command_says_it_for_one_prompt_and_for_several(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from bowerbird.cli.main import app

    photograph().save(tmp_path / "photo.png")
    common = ["generate", "tiny-reimagen", "--reference", str(tmp_path / "photo.png"), "--caption", "fox"]
    common += ["--steps", "1", "--size", "32", "--json"]
    for number, prompts in enumerate((["fox"], ["fox", "red fox"])):
        out = tmp_path / str(number)
        asked = [part for prompt in prompts for part in ("--prompt", prompt)]
        done = CliRunner().invoke(app, [*common, *asked, "-n", "1", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "unlike what this model was trained on" in done.stderr
        lines = [json.loads(line) for line in (out / "generation.jsonl").read_text().splitlines()]
        assert all("unlike" in line["warnings"][0] for line in lines)


def test_a_model_of_ones_own_knows_the_pictures_of_its_training(drawn_folder: Path, tmp_path: Path) -> None:
    from bowerbird.training import recipes
    from bowerbird.training.recipe import read_pictures, with_settings
    from bowerbird.training.run import train_recipe

    recipe = with_settings(recipes.recipe("tiny-rdm", tiny=True), ["train.steps=1"])
    list(train_recipe(recipe, read_pictures(recipe, drawn_folder), tmp_path / "run", sheets=False))
    known = training_pictures.read(tmp_path / "run" / "model")
    assert known is not None
    assert known.own
    own = [Image.open(path).convert("RGB") for path in sorted(drawn_folder.glob("*/*.png"))]
    assert (known.distances(np.stack([picture_statistics(picture) for picture in own])) < 1).all()
    pipe = loading.load_pipeline(str(tmp_path / "run" / "model"))
    hits = Neighbors.from_images(["a fox"], [photograph()], ["fox"])
    (warning,) = unfamiliar.find_warnings(pipe, hits, generation.Settings())[0]
    assert "neighbors are unlike" in warning
    assert "of its own pictures are from each other" in warning
    assert training_pictures.fit_own(own[:15]) is None


def test_a_limit_of_ones_own_lets_pictures_not_seen_pass() -> None:
    drawn = [Image.open(io.BytesIO(item.data)).convert("RGB") for item in read_drawn()]
    known = training_pictures.fit_own(drawn[::2])
    assert known is not None
    far = known.distances(np.stack([picture_statistics(picture) for picture in drawn[1::2]]))
    assert np.mean(far > 1) < 0.05
    alike = training_pictures.fit_own([drawn[0]] * 20)
    assert alike is not None
    assert alike.distances(picture_statistics(drawn[0])[None])[0] < 1


def test_it_is_kept_with_a_model_and_a_file_that_is_none_is_refused(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    kept = training_pictures.read(tmp_path / "model")
    assert kept is not None
    assert np.array_equal(kept.points, pipe.training_pictures.points)
    assert kept.limit == pipe.training_pictures.limit
    training_pictures.write(training_pictures.TrainingPictures(kept.points[:, :3], kept.mean, kept.scale, 1), tmp_path)
    with pytest.raises(BowerbirdError, match="not the statistics"):
        training_pictures.read(tmp_path)
    assert training_pictures.read(tmp_path / "nowhere") is None
