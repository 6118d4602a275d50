"""Other people's sources and encoders: they work from the command line, and a recorded name imports nothing."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bowerbird import KnowledgeBase, encoders
from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.data import sources
from bowerbird.data.sources import registry
from bowerbird.systems import registry as systems_registry

SOURCE = """
from bowerbird.data.sources import SourceItem
from tests.faults.plain import caption, picture

class Album:
    def matches(self, place):
        return place.endswith(".album")

    def count(self, place):
        return 3

    def read(self, place, options):
        for number in range(3):
            yield SourceItem(picture(number), f"{place}/{number}", caption(number), {"album": place})
"""
ENCODER = """
from tests.faults.plain import PlainEncoder

print("imported")

class Colors(PlainEncoder):
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two modules, as a person has it; nothing of it stays imported."""
    (tmp_path / "own_albums.py").write_text(SOURCE)
    (tmp_path / "own_colors.py").write_text(ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_albums", "own_colors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run(*arguments: str, expect: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command, in this process."""
    from bowerbird.cli import main

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr(sys, "argv", ["bowerbird", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    assert (left.value.code or 0) == expect, errors.getvalue()
    return out.getvalue(), errors.getvalue()


def test_own_classes_from_the_command_line(here: Path) -> None:
    run("kb", "build", "kb", "own_albums:Album@summer.album", "--encoder", "own_colors:Colors")
    sys.modules.pop("own_colors")
    found, _ = run(
        "search", "kb", "--text", "blue", "--mode", "bm25", "--where", "album = 'summer.album'", "-k", "3", "--json"
    )
    assert len(json.loads(found)["results"]) == 2
    # the name is in kb.json, where anybody could have written it: it runs nothing, and the line says what to give
    out, error = run("search", "kb", "--text", "blue", "-k", "1", expect=2)
    assert "--encoder own_colors:Colors" in error
    assert error.count("\n") == 1
    assert "imported" not in out
    assert "own_colors" not in sys.modules
    found, _ = run("search", "kb", "--text", "blue", "--encoder", "own_colors:Colors", "-k", "1", "--json")
    assert "imported" in found


SYSTEM = """
from bowerbird.systems.rdm.pipeline import RDMPipeline
from bowerbird.systems.registry import Registration

class Mine(RDMPipeline):
    pass

REGISTRATION = Registration(pipelines={"Mine": "own_system:Mine"})
"""


@pytest.mark.parametrize("how", ["own_system:Mine", "own_system:REGISTRATION", "entry point"])
def test_own_systems_from_the_command_line(
    how: str, here: Path, kb_path: Path, random_rdm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own_system.py").write_text(SYSTEM)
    shutil.copytree(random_rdm, here / "model")
    index = json.loads((here / "model/model_index.json").read_text())
    (here / "model/model_index.json").write_text(json.dumps({**index, "_class_name": "Mine"}))
    monkeypatch.delitem(sys.modules, "own_system", raising=False)
    monkeypatch.setattr(systems_registry, "_JOINED", [])
    generate = ["generate", "model", "--kb", str(kb_path), "--prompt", "red apple", "-n", "1", "--steps", "1"]
    _, error = run(*generate, "--out", "out", expect=2)
    assert "'Mine'" in error
    assert error.count("\n") == 1
    if how == "entry point":
        point = EntryPoint("mine", "own_system:REGISTRATION", systems_registry.ENTRY_POINTS)
        monkeypatch.setattr(plugins, "_points", lambda group: {"mine": point} if group == point.group else {})
        monkeypatch.syspath_prepend(str(here))
        systems_registry._installed.cache_clear()
    try:
        run(*generate, *([] if how == "entry point" else ["--system", how]), "--out", "out")
    finally:
        systems_registry._installed.cache_clear()
        sys.modules.pop("own_system", None)
    assert (here / "out/000.png").is_file()


def test_what_is_no_system_is_said(here: Path) -> None:
    (here / "own_half.py").write_text("class Half:\n    pass\nNUMBER = 1\n")
    for place, message in (
        ("own_half:Half", "no capabilities"),
        ("own_half:NUMBER", "is int; name a"),
        ("half", "module:name"),
    ):
        _, error = run("generate", "model", "--system", place, "--out", "out", expect=2)
        assert message in error
        assert error.count("\n") == 1


def test_an_installed_package_joins_by_entry_points(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "bowerbird.sources": EntryPoint("albums", "own_albums:Album", "bowerbird.sources"),
        "bowerbird.encoders": EntryPoint("colors", "own_colors:Colors", "bowerbird.encoders"),
    }
    monkeypatch.setattr(plugins, "_points", lambda group: {points[group].name: points[group]})
    monkeypatch.syspath_prepend(str(here))
    registry._installed.cache_clear()
    try:
        kb, _ = KnowledgeBase.build(here / "kb", "x.album", encoder="colors")
    finally:
        registry._installed.cache_clear()
    assert len(kb) == sources.count("own_albums:Album") == 3
    assert len(KnowledgeBase.open(here / "kb").search(text="blue", k=1)) == 1  # whoever installed it has chosen it


def test_what_is_missing_is_said(here: Path) -> None:
    (here / "own_halves.py").write_text("class Half:\n    def read(self, place, options):\n        yield 'x'\n")
    for call, message in (
        (lambda: list(sources.read("own_halves:Half")), "no matches, count"),
        (lambda: list(sources.read("os:abort")), "no matches, count, read"),
        (lambda: list(sources.read("own_nothing:Half")), "No module named 'own_nothing'"),
        (lambda: encoders.load("own_halves:Half"), "no dim, shared_dim"),
        (lambda: encoders.load("own_halves:Other"), "no attribute 'Other'"),
    ):
        with pytest.raises(BowerbirdError, match=message):
            call()
