"""What a worker of the server does with orders, without the processes around it: every kind of model, and what is done
while the network is at work."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from bowerbird.core import leftovers, provenance
from bowerbird.evaluation.copies import guard
from bowerbird.serve import models
from bowerbird.serve.calls import Calls
from bowerbird.serve.errors import Public
from bowerbird.serve.kinds import run
from bowerbird.serve.pipelines import Workbench
from bowerbird.serve.work import Order
from bowerbird.systems import loading
from bowerbird.systems.grounded.bases import BASES
from bowerbird.systems.notes import readable
from bowerbird.training import recipes
from bowerbird.training.recipe import build_objective, read_pictures

NUMBERS = itertools.count()
EDIT = {"strength": 1.0, "preservation": None, "change_threshold": None, "show_source": True, "image_guidance": None}


class Desk:
    """A workbench, and what was heard of its orders."""

    def __init__(self, kb: Path, folder: Path) -> None:
        self.kb, self.folder = kb, folder
        self.bench = Workbench("cpu", "float32", 10**10)
        self.heard: list[tuple[str, str, dict[str, Any], list[bytes]]] = []

    def tell(self, event: str, name: str = "", blobs: Any = (), **facts: Any) -> None:
        self.heard.append((event, name, facts, list(blobs)))

    def order(self, model: Path | str, kind: str = "generate", **more: Any) -> Order:
        name = f"job_{next(NUMBERS)}"
        return Order(name, kind, str(model), self.folder / name, kb=str(self.kb), **more)

    def do(self, *orders: Order) -> list[tuple[str, dict[str, Any]]]:
        """The end of each order."""
        run(self.bench, orders, self.tell)
        self.bench.finishing.submit(int).result()
        ends = {name: (event, facts) for event, name, facts, _ in self.heard if event in ("done", "failed")}
        return [ends[order.id] for order in orders]


@pytest.fixture
def desk(small_kb_path: Path, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(small_kb_path, tmp_path)
    yield made
    made.bench.finishing.shutdown()


def untrained(name: str, pictures: Path, folder: Path) -> Path:
    """A recipe's model in its tiny form as it begins."""
    recipe = recipes.recipe(name, tiny=True)
    objective: Any = build_objective(recipe, read_pictures(recipe, pictures), folder)
    objective.eval().pipeline().save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.parametrize("name", ["tiny-rarm", "tiny-racm3"])
def test_models_that_draw_tokens_generate_in_the_server(
    name: str, desk: Desk, drawn_folder: Path, tmp_path: Path
) -> None:
    model = untrained(name, drawn_folder, tmp_path / "model")
    facts = Calls(desk.bench).model(str(model))
    assert facts["capabilities"]["samples_tokens"]
    job = {"prompt": "red apple", "seed": 3, "n": 2}
    (end,) = desk.do(desk.order(model, job=job))
    assert end[0] == "done", end
    assert [picture["seed"] for picture in end[1]["pictures"]] == [3, 4]
    out = desk.folder / desk.heard[0][1]
    assert provenance.read_png(out / "001.png")["seed"] == 4
    steps = [facts["step"] for event, _, facts, _ in desk.heard if event == "step"]
    assert steps[-1] == desk.heard[1][2]["steps"] == len(set(steps))
    (refused,) = desk.do(desk.order(model, "edit", job=job, files=[str(out / "000.png")], options={"edit": EDIT}))
    assert refused == (
        "failed",
        {"message": "this model does not edit pictures; choose one that does, as tiny-knn", "ours": False},
    )


def test_a_model_that_edits_by_an_instruction_does_so_in_the_server(
    desk: Desk, drawn_folder: Path, tmp_path: Path
) -> None:
    model = untrained("tiny-instruct", drawn_folder, tmp_path / "model")
    source = tmp_path / "source.png"
    Image.new("RGB", (64, 64), "red").save(source)
    job = {"prompt": "make it blue", "seed": 3, "steps": [2]}

    def edited(**changes: Any) -> tuple[str, dict[str, Any]]:
        own = {key: value for key, value in changes.items() if key in EDIT}
        rest = {key: value for key, value in changes.items() if key not in EDIT}
        how = {"edit": {**EDIT, **own}}
        return desk.do(desk.order(model, "edit", job={**job, **rest}, files=[str(source)], options=how))[0]

    state, facts = edited(image_guidance=2.5)
    assert state == "done", facts
    record = provenance.read_png(desk.folder / desk.heard[0][1] / "000.png")
    assert record["edit"]["image_guidance"] == 2.5
    assert record["request"]["prompt"] == "make it blue"
    assert "by an instruction" in edited(images=[str(source)], prompt=None)[1]["message"]
    for ignored in ({"show_source": False}, {"strength": 0.5}, {"preservation": 0.2}):
        assert "by an instruction" in edited(**ignored)[1]["message"]
    assert record["edit"]["least_change"] == 0  # the model's own, and not that of KNN-Diffusion's edit
    (generated,) = desk.do(desk.order(model, job=job))
    assert (generated[0], generated[1]["ours"]) == ("failed", False)
    assert "edits a picture" in generated[1]["message"]


def test_what_only_instructions_take_is_refused_of_other_editors(desk: Desk, tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    Image.new("RGB", (64, 64), "red").save(source)
    how = {"edit": {**EDIT, "image_guidance": 2.0}}
    (end,) = desk.do(desk.order("tiny-knn", "edit", job={"prompt": "a car"}, files=[str(source)], options=how))
    assert "image_guidance" in end[1]["message"]


def test_neighbors_are_read_once_and_looked_at_while_the_network_is_at_work(
    desk: Desk, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a client waits for its own picture's views alone. The guard says the same as it does by itself."""
    said: list[str] = []
    read, look = KnowledgeBase.pictures, guard.look_ahead
    monkeypatch.setattr(KnowledgeBase, "pictures", lambda kb, ids: (said.append("read"), read(kb, ids))[1])
    monkeypatch.setattr(guard, "look_ahead", lambda *a: (said.append("look"), look(*a))[1])
    guard._descriptor.cache_clear()
    views: list[int] = []
    extractor: Any = guard._descriptor()
    inner = extractor.extractor.embed_images
    extractor.extractor.embed_images = lambda pictures: (views.append(len(pictures)), inner(pictures))[1]
    orders = [
        desk.order(random_rdm, job={"prompt": "red apple", "seed": seed, "steps": [2], "k": 3}) for seed in (1, 2)
    ]
    ends = desk.do(*orders)
    assert [state for state, _ in ends] == ["done", "done"]
    assert said.count("look") == 2
    assert said.count("read") == 1
    assert views == [3 * 19, 2 * 19, 2 * 19]  # the neighbors, then both sides of each picture in one pass
    record = provenance.read_png(orders[1].out / "000.png")
    kb = KnowledgeBase.open(desk.kb)
    near = kb.pictures(np.asarray([[row["id"] for row in record["neighbors"]]]))[0]
    from bowerbird.evaluation.copies.nearest import nearest

    with Image.open(orders[1].out / "000.png") as image:
        alone = nearest(guard._descriptor(), [image.convert("RGB")], [p for p in near if p is not None], align=False)
    assert record["copy"]["score"] == round(float(alone.whole[0]), 4)
    guard._descriptor.cache_clear()


def test_a_job_leaves_nothing_in_memory(desk: Desk, random_rdm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, as megabytes would need an hour: what grew with every job were names of folders, and views."""
    monkeypatch.setattr(guard, "MOST_VIEWS", 200)
    guard._descriptor.cache_clear()
    job = {"prompt": "red apple", "steps": [1], "k": 2}
    desk.do(desk.order(random_rdm, job=job))
    before = len(leftovers._cleared)
    ends = [desk.do(desk.order(random_rdm, job={**job, "seed": seed}))[0][0] for seed in range(1, 9)]
    assert ends == ["done"] * 8
    assert len(leftovers._cleared) == before
    extractor: Any = guard._descriptor()
    assert len(extractor._known) <= 200
    guard._descriptor.cache_clear()


def test_control_characters_and_a_full_disk_end_one_job_and_no_worker(
    desk: Desk, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "red\x00 apple \x1b[31m\u202e <b>\ufffe \U0001f34e"
    job = {"prompt": prompt, "steps": [1], "k": 2}
    order = desk.order(random_rdm, job=job)
    (end,) = desk.do(order)
    assert end[0] == "done", end
    assert provenance.read_png(order.out / "000.png")["request"]["prompt"] == prompt
    with Image.open(order.out / "000.png") as image:
        assert "\x1b" not in image.info["parameters"]

    def full(*parts: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        (refused,) = desk.do(desk.order(random_rdm, job=job))
    assert refused == ("failed", {"message": "the worker failed (No space left on device)", "ours": True})
    heard = Public(dict, desk.folder).refusal(refused[1]["message"], ours=True)
    assert (heard.status, heard.code) == (507, "disk_full")
    assert not [path for path in desk.folder.iterdir() if path.name.startswith(".")]
    assert desk.do(desk.order(random_rdm, job=job))[0][0] == "done"


def test_notes_name_what_was_left_out_in_one_line_and_no_numbers_of_items() -> None:
    notes = ["left out, of another color: 8943702997481417543 'a pear'", "left out, of another color: 12 'a \"b\" 3 c'"]
    assert readable([*notes, "the critic does not see 'a hat'", notes[0]]) == [
        "left out, of another color: 'a pear', 'a \"b\" 3 c'",
        "the critic does not see 'a hat'",
    ]


def test_without_a_name_all_bundled_models_are_served_and_the_first_draws_any_drawing() -> None:
    found = models.served(())
    assert set(found) == set(loading.bundled_pipelines())
    assert next(iter(found)) == "reimagen-drawings"
    bases = [each for each in found.values() if each.class_name in BASES]
    assert bases
    assert all(each.adapter is not None for each in bases), "a base without an adapter reads no neighbor"
    assert models.read_adapters(["tiny-sd"], adapter=["tiny-ip-adapter"]) == {"tiny-sd": bases[0].adapter}
