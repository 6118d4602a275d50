"""Training on one's own pictures and from strangers' recipes: what does not fit is named or refused before it
starts."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import files, images
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import load_pictures, pictures_of
from bowerbird.data.sources.base import SourceItem
from bowerbird.training import recipes
from bowerbird.training.data import fit_to_columns
from bowerbird.training.recipe import load_recipe, with_settings
from tests.faults.plain import PlainEncoder
from tests.test_own_classes import run

SMALL = ("--set", "system.block_out_channels=[8,8,8]", "--set", "train.steps=1", "--set", "train.batch_size=2")


def train(*arguments: str, expect: int = 0) -> str:
    """stderr of `bowerbird train` in this process."""
    return run("train", *arguments, expect=expect)[1]


def draw(folder: Path, count: int, first: int = 0) -> Path:
    """So many noisy squares, no two alike, with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"square {i}")
    return folder


def test_defaults_for_other_data_are_dropped_and_said(tmp_path: Path) -> None:
    own = draw(tmp_path / "own", 4)
    said = train("tiny-autoencoder", "--data", str(own), "--out", str(tmp_path / "run"), *SMALL)
    assert "this data has no split, style," in said
    assert "4 pictures" in said
    assert load_recipe(tmp_path / "run" / "recipe.json").where is None
    train("tiny-autoencoder", "--data", str(own), "--out", str(tmp_path / "run"), *SMALL)  # it goes on
    condition = ("--set", "where=style = 'mine'")
    said = train("tiny-autoencoder", "--data", str(own), "--out", str(tmp_path / "b"), *SMALL, *condition, expect=2)
    assert "--where \"style = 'mine'\" does not work" in said
    assert not (tmp_path / "b").exists()


def test_captions_are_read_from_the_column_that_is_named(tmp_path: Path) -> None:
    own = draw(tmp_path / "own", 3)
    for text in own.glob("*.txt"):
        text.unlink()
    (own / "list.csv").write_text("file,beschreibung\n" + "\n".join(f"{i}.png,Quadrat {i}" for i in range(3)))
    assert load_pictures(own, size=8, caption_column="beschreibung").captions == ("Quadrat 0", "Quadrat 1", "Quadrat 2")
    small = ("--data", str(own), *SMALL)
    said = train("tiny-autoencoder", *small, "--caption-column", "beschreibung", "--out", str(tmp_path / "run"))
    assert "without a caption" not in said
    said = train("tiny-autoencoder", *small, "--caption-column", "nope", "--out", str(tmp_path / "no"), expect=2)
    assert "no row has the --caption-column 'nope'; there is beschreibung" in said


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "system.tokenizer=tiny-autoencoder",
            "tokenizer 'tiny-autoencoder' is an AutoencoderKL, which makes no tokens",
        ),
        ("system.encoder=tiny-rdm", "encoder 'tiny-rdm': a whole model is there"),
    ],
)
def test_a_network_of_another_kind_is_said_to_be_one(tmp_path: Path, setting: str, says: str) -> None:
    data = ("--data", str(draw(tmp_path / "own", 3)), "--out", str(tmp_path / "run"))
    said = train("tiny-rarm", "--tiny", *data, "--set", setting, expect=2)
    assert (says in said, "steps of" in said) == (True, False)  # nothing is announced before
    assert not (tmp_path / "run").exists()


def test_what_a_recipe_keeps_of_its_columns() -> None:
    rdm = recipes.recipe("tiny-rdm")
    fitted, absent = fit_to_columns(rdm, {"style", "split", "hexcode", "mine"})
    assert (fitted, absent) == (rdm, [])
    fitted, absent = fit_to_columns(rdm, {"split", "style"})
    assert absent == ["hexcode"]
    assert [(part.share, part.within) for part in fitted.system.mix] == [(0.15, None), (0.75, "style")]
    assert fitted.where == rdm.where
    fitted, absent = fit_to_columns(rdm, {"split"})
    assert (fitted.where, absent) == ("split != 'rare'", ["hexcode", "style"])
    mixed = with_settings(rdm, ['system.mix=[{"share": 1, "within": "style"}]'])
    fitted, _ = fit_to_columns(mixed, set(), ["system.mix"])
    assert fitted.system.mix == mixed.system.mix  # somebody wanted it: building the run says that it does not work
    assert fit_to_columns(mixed, set())[0].system.mix[0].within is None
    knn, _ = fit_to_columns(recipes.recipe("tiny-knn"), set())
    assert [part.within for part in knn.system.draws.mix] == [None]
    assert fit_to_columns(recipes.recipe("tiny-reimagen"), set())[0].system.style_key is None


def test_items_without_a_picture_are_left_out_whole(tmp_path: Path) -> None:
    def items() -> Any:
        for i in range(6):
            shade = io.BytesIO()
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(shade, "PNG")
            vector = np.random.default_rng(i).random(12, np.float32)
            yield SourceItem(shade.getvalue() if i % 2 else b"", f"{i}", f"red {40 * i}", {"n": i}, embedding=vector)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bowerbird.data.sources.registry.read", lambda *_, **__: items())
        kb, _ = KnowledgeBase.build(tmp_path / "kb", "anything", encoder=PlainEncoder())
    found = pictures_of(kb, size=8)
    shown = {
        (int(x[0, 0, 0]), caption, row["n"])
        for x, caption, row in zip(found.pixels, found.captions, found.metadata, strict=True)
    }
    assert shown == {(40, "red 40", 1), (120, "red 120", 3), (200, "red 200", 5)}
    assert len(found.ids) == 3
    assert len(found.left_out) == 3


def test_unreadable_pictures_are_named_and_counted(tmp_path: Path) -> None:
    own = draw(tmp_path / "own", 3)
    (own / "bad.png").write_bytes(b"no")
    (own / "zero.jpg").write_bytes(b"")
    said = train("tiny-autoencoder", "--data", str(own), "--out", str(tmp_path / "run"), *SMALL)
    assert "left out: bad.png" in said
    assert "left out: zero.jpg" in said
    assert "2 of 5 items were left out" in said


def test_a_run_goes_on_with_its_own_pictures_only(tmp_path: Path) -> None:
    run = ("--out", str(tmp_path / "run"), *SMALL)
    train("tiny-autoencoder", "--data", str(draw(tmp_path / "a", 3)), *run)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    said = train("tiny-autoencoder", "--data", str(draw(tmp_path / "b", 3, first=9)), *run, expect=2)
    assert "a run on other pictures is there (3 pictures" in said
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    said = train("tiny-autoencoder", "--data", str(tmp_path / "a"), *run, "--set", "train.batch_size=3", expect=2)
    assert "train.batch_size is 2 there and 3 here" in said


@pytest.mark.parametrize(
    "setting",
    [
        "train.batch_size=0",
        "train.steps=-1",
        "train.steps=0",
        "train.learning_rate=NaN",
        "train.learning_rate=-1",
        "train.weight_decay=Infinity",
        "train.ema_decay=1.5",
        "train.save_every=0",
        "train.seed=18446744073709551616",
        "train.seed=-1",
        "size=0",
        "size=100000",
        "limit=0",
        "system.k=0",
        "system.max_similarity=NaN",
        "system.views=0",
        "system.database_share=1",
        'system.mix=[{"share": -1}]',
        "system.mix=[]",
        'system.mix=[{"share": 0}]',
        "system.unet.layers_per_block=0",
        "name=../up",
        "name=a/b",
        "name=.",
        "name=" + "n" * 101,
        "train.keep_steps=" + "[" * 100_000,
    ],
)
def test_numbers_out_of_range_are_one_line_before_any_work(setting: str, tmp_path: Path) -> None:
    said = train("tiny-rdm", "--tiny", "--data", "nowhere", "--out", str(tmp_path / "run"), "--set", setting, expect=2)
    assert said.count("\n") == 1, said
    assert "nowhere" not in said  # the data was not looked at
    assert len(said) < 400
    assert not (tmp_path / "run").exists()


def test_the_largest_seed_trains(tmp_path: Path) -> None:
    own = draw(tmp_path / "own", 3)
    train(
        "tiny-rdm", "--tiny", "--data", str(own), "--out", str(tmp_path / "run"), "--seed", str(2**64 - 1), *SMALL[2:]
    )
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()


@pytest.mark.parametrize("recipe", ["tiny-rdm", "tiny-knn", "tiny-rdm-fast"])
def test_pictures_without_a_neighbor_are_one_line(recipe: str, tmp_path: Path) -> None:
    said = train(
        "tiny-rdm", "--tiny", "--data", str(draw(tmp_path / "one", 1)), "--out", str(tmp_path / "run"), expect=2
    )
    assert "one picture has no neighbor" in said
    assert not (tmp_path / "run").exists()
    guard = "system.max_similarity=-1" if recipe == "tiny-rdm" else "system.draws.max_similarity=-1"
    run = ("--data", str(draw(tmp_path / "five", 5)), "--out", str(tmp_path / "run"))
    said = train(recipe, "--tiny", *run, "--set", guard, expect=2)
    assert "none of the 5 pictures has a neighbor" in said
    assert not (tmp_path / "run").exists()


def test_some_pictures_without_a_neighbor_train_and_show(tmp_path: Path) -> None:
    own = draw(tmp_path / "own", 2)
    for i in range(3):  # one like the first, under another caption
        (own / f"same{i}.png").write_bytes((own / "0.png").read_bytes())
        (own / f"same{i}.txt").write_text(f"again {i}")
    (own / "1.png").unlink()
    (own / "1.txt").unlink()
    draw(own, 1, first=7)
    run = tmp_path / "run"
    train("tiny-rdm", "--tiny", "--data", str(own), "--out", str(run), "--set", "system.max_similarity=0.999")
    assert list((run / "sheets").glob("*.png"))


def stranger(path: Path, **changes: Any) -> Path:
    values = recipes.recipe("tiny-rdm", tiny=True).model_dump(mode="json")
    system = {**values["system"], **changes.pop("system", {})}
    files.write_json(path, {**values, "system": system, **changes})
    return path


def test_a_recipe_of_a_stranger_runs_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("own_trap.py").write_text("print('imported')\nclass Trap: pass\n")
    for key, name, why in (
        ("encoder", "own_trap:Trap", "is somebody's own code"),
        ("encoder", "someone/something", "would be fetched from a hub"),
        ("encoder", "something", "would be fetched from a hub"),
    ):
        path = stranger(tmp_path / "r.json", system={key: name})
        with pytest.raises(BowerbirdError, match=rf"system\.{key} '{name}' .*{why}.*--set system\.{key}="):
            load_recipe(path)
        assert load_recipe(path, [f"system.{key}={name}"]).system.encoder == name  # somebody at the keyboard says so
        assert train("r.json", "--data", "drawn", expect=2).count("\n") == 1
    assert "own_trap" not in sys.modules
    tower = {**recipes.recipe("tiny-reimagen", tiny=True).model_dump(mode="json")}
    tower["system"]["text_encoder"] = "t5-small"
    files.write_json("t.json", tower)
    with pytest.raises(BowerbirdError, match=r"system\.text_encoder 't5-small' does not lie here"):
        load_recipe("t.json")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"name": ' * 100_000,
        "[]",
        '"x"',
        "{}",
        "\x00",
        '{"name": "x", "system": [], "train": {}}',
        '{"name": "x", "system": {"kind": ["rdm"]}, "train": {"steps": 1}}',
        '{"name": "x", "system": {"kind": {"a": 1}}, "train": {"steps": 1}}',
        '{"name": "x\\u001b[2J", "system": {"kind": "rdm"}, "train": {"steps": 1}}',
        '{"name": "../../../escaped", "system": {"kind": "rdm"}, "train": {"steps": 1}}',
        '{"name": "/tmp/x", "system": {"kind": "rdm"}, "train": {"steps": 1}}',
        '{"name": "x", "system": {"kind": "rdm", "\\u001b[31m": 1}, "train": {"steps": 1}}',
        '{"name": "x", "system": {"kind": "rdm"}, "train": {"steps": ' + "9" * 5000 + "}}",
        '{"name": "x", "system": {"kind": "rdm"}, "train": {"steps": 1e400}}',
    ],
)
def test_odd_recipes_are_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(text)
    said = train("r.json", "--data", "drawn", expect=2)
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert not Path("runs").exists()


def test_a_file_is_decoded_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a folder of large photographs is never in memory whole."""
    order: list[str] = []

    def items() -> Any:
        for i in range(3):
            order.append("read")
            stored = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 0, 0)).save(stored, "PNG")
            yield SourceItem(stored.getvalue(), str(i), metadata={"n": i})

    def decode(*arguments: Any, **options: Any) -> Image.Image:
        order.append("decoded")
        return opened(*arguments, **options)

    opened = images.decode
    monkeypatch.setattr("bowerbird.data.sources.registry.read", lambda *_, **__: items())
    monkeypatch.setattr(images, "decode", decode)
    assert load_pictures("x", size=8, where="n > 0").pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert order == ["read", "decoded"] * 3
