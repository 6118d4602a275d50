"""Every benchmark and example starts, and the one behind the headline figures runs in a tiny form."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from bowerbird.core import tensors
from bowerbird.data.pictures import load_pictures
from bowerbird.data.scenes.render import render
from bowerbird.data.scenes.vocabulary import Vocabulary
from bowerbird.evaluation.claims.benchmark import write_table
from bowerbird.evaluation.judge import train_judge
from bowerbird.training.recipes.judge import judge as judge_recipe

ROOT = Path(__file__).parent.parent
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]
STYLES = ("noto", "twemoji", "fluent", "flat", "openmoji")
START = """
import io, os, runpy, sys, traceback
from contextlib import redirect_stdout
for path in sys.argv[1:]:
    sys.argv, sys.path[0], shown = [path, "--help"], os.path.dirname(path), io.StringIO()
    try:
        with redirect_stdout(shown):
            runpy.run_path(path, run_name="__main__")
        print(path, "did not ask what it was to do")
    except SystemExit as end:
        if end.code or "usage:" not in shown.getvalue():
            print(path, "ended with", end.code)
    except Exception:
        print(path, traceback.format_exc())
"""


def test_every_script_starts(tmp_path: Path) -> None:
    """In one process, which imports torch once: each prints its help and does nothing else."""
    assert len(SCRIPTS) > 20
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, *map(str, SCRIPTS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_rdm_quality_runs(tmp_path: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its parts, on 30 drawn pictures called drawings of emoji, with a random network and an untrained judge."""
    drawn = load_pictures("drawn")
    things = sorted(set(drawn.column("thing")))[:6]
    rows = [i for thing in things for i in [i for i, t in enumerate(drawn.column("thing")) if t == thing][:5]]
    metadata = tuple(
        {"hexcode": things[n // 5], "style": STYLES[n % 5], "split": "rare" if n < 20 else "train"}
        for n in range(len(rows))
    )
    captions = tuple(str(row["hexcode"]) for row in metadata)
    pictures = replace(drawn.select(rows), metadata=metadata, captions=captions)
    data = write_table(pictures, tmp_path / "drawings.parquet")
    recipe = judge_recipe(tiny=True)
    system = recipe.system.model_copy(update={"entity_key": "hexcode", "style_key": "style"})
    judge = train_judge(recipe.model_copy(update={"system": system, "limit": None}), pictures)
    options = {
        "--data": data,
        "--model": random_rdm,
        "--equal": random_rdm,
        "--baseline": random_rdm,
        "--judge": judge.path,
        "--style-judge": judge.path,
        "--out": tmp_path / "quality",
        "--seeds": 2,
        "--steps": 1,
        "--count": 4,
        "--batch": 4,
        "--repeats": 1,
        "--weights": "2",
    }
    script = str(ROOT / "benchmarks" / "rdm_quality.py")
    monkeypatch.setattr(sys, "argv", [script, *(str(part) for pair in options.items() for part in pair)])
    runpy.run_path(script, run_name="__main__")
    report = json.loads((tmp_path / "quality" / "report.json").read_text())
    assert {"(a) FD ratio", "(b) rare by name, guidance 2: top-1 of 100"} <= set(report)
    assert {f"(c) database of {style} only: style (k=1)" for style in STYLES} <= set(report)


def test_what_a_knowledge_base_adds_is_told_of_every_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "benchmarks" / "grounded_overhead.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--steps", "1", "--rounds", "0", "--size", "16", "-k", "1"])
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" s of CPU")[0].rsplit(None, 1)[0] for line in said[:4]] == [
        "diffusers, the base alone",
        "diffusers, the adapter, embeddings at hand",
        "bowerbird, search and stored embeddings",
        "bowerbird, search and pictures",
    ]
    assert "1.000 x the base alone" in said[0]
    assert "1.000 x the adapter" in said[1]
    assert [line.split(":")[0] for line in said[4:]] == [line.split("  ")[0] for line in said[2:4]]
    assert all("goal of 5%" in line for line in said[4:])


def test_one_picture_measures_tell_the_source_the_distance_and_the_grain() -> None:
    one_picture = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "one_picture.py")))
    drawn = load_pictures("drawn", size=64).select(list(range(0, 200, 10)))
    x = drawn.pixels / 127.5 - 1
    assert one_picture.nearest(x, x).all()
    assert one_picture.nearest(x.roll(1, 0), x).float().mean() < 0.5
    assert torch.allclose(one_picture.decibels((x + 0.2), x), torch.tensor(20.0), atol=1e-3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 4 / 127.5
    assert one_picture.grain(x, x) < 0.8
    assert 3.5 < one_picture.grain(x + noise, x) < 4.5
    hits = one_picture.own_pictures([Image.new("RGB", (8, 8), color) for color in ("red", "blue")])
    assert [row[0].getpixel((0, 0)) for row in hits.images()] == [(255, 0, 0), (0, 0, 255)]


def test_colors_are_looked_for_where_the_caption_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    grounded = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "grounded.py")))
    scenes = grounded.shape_scenes(24, 0)
    other = []
    for scene in scenes:
        first, second = scene.things
        turned = replace(first, color=second.color), replace(second, color=first.color)
        other.append(replace(scene, things=turned))
    none, pictures = Vocabulary((), (), (), (), ()), load_pictures("drawn", limit=1)
    shown = iter(tensors.to_pil(render(part, none, pictures, 64)) for part in (scenes, other))
    monkeypatch.setitem(grounded.colors_in_place.__globals__, "pictures_of", lambda *_, **__: next(shown))
    assert grounded.colors_in_place(None, count=24) == "colors in place 100.0%, both 100.0%, exchanged 0.0%"
    same = sum(s.things[0].color == s.things[1].color for s in scenes) / 24
    found = grounded.colors_in_place(None, count=24)
    assert found == f"colors in place {same:.1%}, both {same:.1%}, exchanged {1 - same:.1%}"


def test_what_a_gpu_is_to_train_in_time_comes_back_in_pieces_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "gpu_queue.py")))
    needed = {entry.name: [name for _, name in entry.needs] for entry in gpu.QUEUE}
    for name, part in gpu.PLAN.items():
        assert all(gpu.PLAN[other].begin <= part.begin or other == "reimagen-drawings-64" for other in needed[name])
        assert part.begin + 3 * gpu.RESERVE < part.end <= gpu.LENGTH
    there, here = tmp_path / "there", tmp_path / "here"
    shared = os.urandom(16 * 2**20)
    for root, text in ((there, "new"), (here, "old")):
        model = root / "queue" / "autoencoder-8" / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text(text)
        (model.parent / "recipe.json").write_text("{}")
        (root / "queue.log").write_text("")
    (there / "queue" / "autoencoder-8" / "model" / "large").write_bytes(shared)
    gpu.pack(there, tmp_path / "first")
    assert all(file.stat().st_size <= 16 * 2**20 for file in (tmp_path / "first").iterdir())
    second = there / "queue" / "tiny-sd" / "model" / "vae"
    second.mkdir(parents=True)
    (second / "large").write_bytes(shared)
    (there / "queue" / "tiny-sd" / "recipe.json").write_text("{}")
    gpu.pack(there, tmp_path / "second")
    assert sum(file.stat().st_size for file in (tmp_path / "second").iterdir()) < 2**20
    for part in ("first", "second"):
        gpu.adopt(here, tmp_path / part)
    assert (here / "queue" / "autoencoder-8" / "model" / "config.json").read_text() == "new"
    for place in ("autoencoder-8/model", "tiny-sd/model/vae"):
        assert (here / "queue" / place / "large").read_bytes() == shared
    assert [p.read_text() for p in here.glob("queue/autoencoder-8.before-*/model/config.json")] == ["old"]


def test_queries_of_finding_name_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of query knows the rows that answer it, and a picture is no answer to itself."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from find_queries import Drawings, colored_queries, picture_queries, text_queries

    names = ["red fox", "red fox", "gray owl", "gray owl", "green bush"]
    drawings = Drawings(
        names,
        tags=[["animal", "wild"]] * 4 + [["plant"]],
        codes=["f", "f", "o", "o", "b"],
        styles=["flat", "noto", "flat", "noto", "flat"],
        rare=[False] * 4 + [True],
    )
    monkeypatch.setattr("find_queries.COMMON_TAG", (2, 60))
    colors = ((220, 30, 30), (220, 30, 30), (120, 120, 120), (40, 90, 220), (30, 160, 60))
    asked = text_queries(drawings, [], [], 9)
    assert {query.text: query.relevant for query in asked["names"]} == {"red fox": {0, 1}, "gray owl": {2, 3}}
    assert [(query.text, query.relevant) for query in asked["unseen names"]] == [("green bush", {4})]
    assert all(query.relevant == query.parts[0] | query.parts[1] for query in asked["two things"])
    assert not list(colored_queries(drawings, [Image.new("RGB", (64, 64), "white")] * 5))  # nothing is on white paper

    def disc(color: tuple[int, int, int]) -> Image.Image:
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(color, (12, 12, 52, 52))
        return picture

    shown = list(colored_queries(drawings, [disc(color) for color in colors]))
    assert ("blue animal", {3}) in [(query.text, query.relevant) for query in shown]
    looks = picture_queries(drawings, 9)
    assert {query.row: query.relevant for query in looks["picture: same thing, other style"]} == {
        0: {1},
        1: {0},
        2: {3},
        3: {2},
    }
    assert {2, 4} in [query.relevant for query in looks["picture: same style, other thing"] if query.row == 0]
