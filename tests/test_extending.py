"""Every block of docs/extending.md runs, in order, as a reader would run it, and none is longer than a screen."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 25
"""Lines an example may have, without blank ones and its first, which names the file."""


def test_examples_run(tmp_path: Path, kb_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bowerbird.cli.main import app
    from bowerbird.knowledge.storage import open as storage
    from bowerbird.systems import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_JOINED", [])
    monkeypatch.setattr(storage, "STORES", [*storage.STORES])
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    shutil.copytree(kb_path, "my-kb")
    before = set(sys.modules)
    try:
        for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if language == "sh":
                for line in text.strip().splitlines():
                    app(shlex.split(line)[1:], standalone_mode=False)
                continue
            name = re.match(r"# (\w+)\.py\n", text)
            assert name is not None, text
            Path(f"{name[1]}.py").write_text(text)
            __import__(name[1])
    finally:
        for module in set(sys.modules) - before:
            if not module.startswith("bowerbird"):
                place = getattr(sys.modules[module], "__file__", None) or ""
                if place.startswith(str(tmp_path)):
                    del sys.modules[module]
        from bowerbird.diffusion import guidance

        guidance.FORMS.pop("text-first", None)
    assert Path("churned/000.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("runs/one-step/model/model_index.json").is_file()


def test_every_kind_has_an_example_of_a_screen() -> None:
    page = PAGE.read_text(encoding="utf-8")
    kinds = re.findall(r"^## (?:A|An) (.+)$", page, re.MULTILINE)
    assert len(kinds) == 12
    for language, text in BLOCK.findall(page):
        lines = [line for line in text.splitlines()[1:] if line.strip()]
        assert language == "sh" or len(lines) <= LONGEST, text
