"""Files of strangers at the command line: captions and names that would act on a terminal, pictures with records,
directories with models, knowledge bases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.test_cli import bowerbird
from tests.test_text import ACTS

HOSTILE = "fox\n   0.999  1 a line that is none \x1b]0;owned\x07\x1b[2J\u202egpj.exe\x9b31m"


@pytest.fixture(scope="module")
def hostile_kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base whose caption, metadata and file name would act on a terminal."""
    folder = tmp_path_factory.mktemp("hostile")
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, color in (("a\x1b[31m.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (32, 32), color).save(pictures / name)
    rows = [{"file_name": "a\x1b[31m.png", "text": HOSTILE, "rate": float("nan"), "by": "\x1b]8;;x"}]
    rows.append({"file_name": "b.png", "text": "a blue thing", "rate": 0.5, "by": "me"})
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bowerbird("kb", "build", "kb", "pictures", cwd=folder)
    return folder


def test_a_caption_acts_on_no_terminal(hostile_kb: Path) -> None:
    found = bowerbird("search", "kb", "--text", "fox", "--sheet", "s.png", cwd=hostile_kb).stdout
    assert len(found.splitlines()) == 2  # one line an item
    assert not ACTS & set(found.replace("\n", ""))
    coded = bowerbird("search", "kb", "--text", "fox", "--json", cwd=hostile_kb).stdout
    assert not ACTS & set(coded.replace("\n", ""))
    first = json.loads(coded, parse_constant=pytest.fail)["results"][0]
    assert first["caption"] == HOSTILE  # a program gets what is there
    lines = (hostile_kb / "queries.txt").write_text("fox\n")
    assert lines
    batch = bowerbird("search", "kb", "--queries", "queries.txt", cwd=hostile_kb).stdout
    assert len(batch.splitlines()) == 1
    assert not ACTS & set(batch.strip())
    bowerbird("kb", "export", "kb", "out", cwd=hostile_kb)
    for line in (hostile_kb / "out" / "metadata.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_an_error_that_names_what_was_given_is_one_harmless_line(hostile_kb: Path) -> None:
    for arguments in (
        ("search", "kb", "--text", "x", "--where", "a\nb\x1b[2J = 1"),
        ("search", "no\x1b[2J\nkb", "--text", "x"),
        ("generate", "mo\x1b[2J\rdel", "--kb", "kb", "--prompt", "x", "--out", "o"),
        ("search", "kb", "--nope\x1b[2J\n"),
    ):
        said = bowerbird(*arguments, cwd=hostile_kb, expect=2).stderr
        assert said.count("\n") == 1, said
        assert not ACTS & set(said.rstrip("\n"))


def test_the_command_line_says_that_nothing_was_found_and_how_many_there_are(
    hostile_kb: Path, random_rdm: Path
) -> None:
    base = ("generate", random_rdm, "--kb", "kb", "--prompt", "fox", "-n", "1", "--steps", "1", "--out", "nothing")
    said = bowerbird(*base, "--where", "rate < 0", cwd=hostile_kb, expect=2).stderr
    assert "--where 'rate < 0'" in said
    assert "--allow-no-neighbors" in said
    assert not (hostile_kb / "nothing").exists()
    said = bowerbird("search", "kb", "--text", "fox", "--where", "rate < 0", cwd=hostile_kb).stderr
    assert "nothing among the items that satisfy --where 'rate < 0'" in said
    assert "holds 2 items, fewer than" in bowerbird("search", "kb", "--image", "pictures/b.png", cwd=hostile_kb).stderr
    assert "k is 2" in bowerbird(*base, cwd=hostile_kb).stderr
    said = bowerbird(*base[:-1], "nan", "--weights", "nan,1", cwd=hostile_kb, expect=2).stderr
    assert "--weights 'nan,1'" in said
