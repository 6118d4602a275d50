"""A folder of results holds one set, whole; what is somebody else's is not touched, and what cannot be written is said
before the work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.outputs import FileSet, check_output, output_directory
from tests.test_cli import bowerbird, refused

FILES = FileSet("list.json", ("[0-9]*.png",))


def write(out: Path, names: str) -> None:
    with output_directory(out, FILES) as folder:
        for name in names.split():
            (folder / name).write_text(names)
        (folder / "list.json").write_text(names)


def fail(out: Path, error: type[BaseException]) -> None:
    with output_directory(out, FILES) as folder:
        (folder / "9.png").write_text("x")
        raise error


def content(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir()}


def test_one_set_takes_the_place_of_another(tmp_path: Path) -> None:
    for out in (tmp_path / "new" / "out", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        write(out, "1.png 2.png 3.png")
        write(out, "1.png")
        assert content(out) == {"1.png": "1.png", "list.json": "1.png"}


def test_an_error_leaves_the_earlier_set(tmp_path: Path) -> None:
    for out in (tmp_path / "new", tmp_path / "old"):
        if out.name == "old":
            write(out, "1.png")
        for error in (BowerbirdError, KeyboardInterrupt):
            with pytest.raises(error):
                fail(out, error)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert content(tmp_path / "old") == {"1.png": "1.png", "list.json": "1.png"}


def test_the_current_directory_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("."), "1.png")
    write(Path(""), "2.png")
    assert content(tmp_path) == {"2.png": "2.png", "list.json": "2.png"}


@pytest.mark.parametrize("names", ["1.png", "notes.txt", "1.png list.json notes.txt", "sub/list.json"])
def test_what_is_not_an_earlier_set_is_refused_and_kept(tmp_path: Path, names: str) -> None:
    for name in names.split():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(BowerbirdError, match="give a new folder"):
        write(tmp_path / "out", "7.png")
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(
        names.split()
    )


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "nowhere"):
        with pytest.raises(BowerbirdError, match="not a folder"):
            check_output(out, FILES)
    if os.geteuid():
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(BowerbirdError, match="cannot be written"):
            check_output(tmp_path / "shut" / "out", FILES)


def test_every_verb_that_leaves_a_set_looks_before_it_works(tmp_path: Path, kb_path: Path) -> None:
    """The models are not there: what is wrong with --out is said first."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000.png").write_text("x")
    (tmp_path / "mine" / "report.json").write_text("{}")
    for arguments in (
        ("generate", "no-model", "--kb", kb_path, "--prompt", "x"),
        ("generate", "--from", tmp_path / "mine" / "000.png"),
        ("edit", "no-model", "--kb", kb_path, "--prompt", "x", "--image", "no.png"),
        ("evaluate", "no-model", "--kb", kb_path, "--data", "nowhere"),
        ("check-copies", tmp_path / "mine", "--against", "nowhere"),
    ):
        refused(*arguments, "--out", "file", says="not a folder", cwd=tmp_path)
        refused(*arguments, "--out", "mine", says="give a new folder", cwd=tmp_path)
    refused("demo", "--out", "file", says="not a folder", cwd=tmp_path)


def test_generating_again_leaves_no_picture_of_before(tmp_path: Path, kb_path: Path, random_rdm: Path) -> None:
    base = ("generate", random_rdm, "--kb", kb_path, "--steps", "1", "--on-copy", "off", "--out", "o", "--prompt")
    bowerbird(*base, "star", "-n", "3", cwd=tmp_path)
    bowerbird(*base, "moon", "-n", "1", cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["000.png", "generation.jsonl", "sheet.png"]
    lines = (tmp_path / "o" / "generation.jsonl").read_text().splitlines()
    assert [json.loads(line)["request"]["prompt"] for line in lines] == ["moon"]


def test_a_set_is_durable_before_it_has_its_name_and_nothing_is_waited_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file once, with the folder's own list, then the list that the folder is in. Nine waits for the disk were
    most of what a client waited for after its picture was there."""
    synced: list[str] = []
    fsync = files.fsync_path
    there: list[bool] = []

    def note(path: Path) -> None:
        fsync(path)
        synced.append(path.name)
        there.append((tmp_path / "out").exists())

    monkeypatch.setattr(files, "fsync_path", note)
    with output_directory(tmp_path / "out", FILES) as folder:
        for name in ("1.png", "2.png", "list.json"):
            with files.atomic_path(folder / name) as temporary:
                temporary.write_text(name)
        making = folder.name
    assert sorted(synced) == sorted(["1.png", "2.png", "list.json", making, tmp_path.name])
    assert there == [False] * 4 + [True]
    assert synced[-1] == tmp_path.name


def test_a_file_that_is_not_written_well_is_not_there_in_a_folder_in_the_making_either(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ValueError("half")

    with output_directory(tmp_path / "out", FILES) as folder:
        with pytest.raises(ValueError, match="half"):
            half(folder / "1.png")
        assert list(folder.iterdir()) == []
        (folder / "list.json").write_text("x")
