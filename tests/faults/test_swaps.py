"""Two processes at one knowledge base, backups put back, and names from elsewhere: what is found is right, or
refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bowerbird import KnowledgeBase
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.sources.base import SourceOptions
from bowerbird.knowledge.search import planner
from bowerbird.knowledge.storage import directory
from bowerbird.knowledge.storage.lance import Rows
from bowerbird.knowledge.storage.verify import verify
from tests.faults.plain import PlainEncoder, caption, identity, picture, source


@pytest.fixture
def kb(tmp_path: Path) -> KnowledgeBase:
    return KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(40)), encoder=PlainEncoder())[0]


def open_again(kb: KnowledgeBase) -> KnowledgeBase:
    return KnowledgeBase.open(kb.path, encoder=PlainEncoder())


@pytest.mark.parametrize("flat_up_to", [10, 1000])
def test_a_reader_goes_on_with_its_own_index(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch, flat_up_to: int
) -> None:
    """Another process removes items and makes the index again between two searches of this one."""
    monkeypatch.setitem(planner.INDEXES, "rabitq", planner.Index(flat_up_to + 1, "RaBitQfs"))
    kb.compact()
    reader = open_again(kb)
    assert len(reader.ids()) == 40  # opened, not searched yet
    open_again(kb).remove(where="number < 20")
    open_again(kb).compact()
    assert reader.search(text=caption(35), k=1, mode="bm25").captions == ((caption(35),),)
    query = reader.get([identity(3)]).embeddings[0]
    assert (
        reader.search(embeddings=query, k=1).ids[0, 0]
        == reader.search(embeddings=query, k=1, exact=True).ids[0, 0]
        == identity(3)
    )


def test_a_backup_put_back_is_not_met_by_an_index_of_another_past(kb: KnowledgeBase, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(kb.path, backup)
    kb.update(ids=[identity(1)], metadata={"note": "wrong"})
    kb.compact()
    for name in ("kb.json", "files.json"):
        shutil.copy(backup / name, kb.path / name)
    shutil.rmtree(kb.path / "rows.lance")
    shutil.copytree(backup / "rows.lance", kb.path / "rows.lance")  # and index/ of the other past stays
    restored = open_again(kb)
    assert "note" not in restored.get([identity(1)]).metadata[0][0]
    restored.update(ids=[identity(1)], metadata={"note": "right"})
    assert open_again(kb).get([identity(1)]).metadata[0][0]["note"] == "right"
    assert verify(kb.path, repair=True).good


def test_a_kill_while_versions_are_forgotten_is_no_damage(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.remove(where="number < 5")
    original = directory.record_files

    def killed(path: Path) -> None:
        if files.read_json(path / "kb.json", "x").get("forgetting"):
            raise KeyboardInterrupt
        original(path)

    monkeypatch.setattr(directory, "record_files", killed)
    with pytest.raises(KeyboardInterrupt):
        kb.compact(drop_history=True)
    monkeypatch.setattr(directory, "record_files", original)
    assert len(open_again(kb).ids()) == 35
    assert open_again(kb).remove(where="number < 6") == 1  # the next writer ends it
    assert "forgetting" not in files.read_json(kb.path / "kb.json", "x")
    assert verify(kb.path).good


def test_what_was_not_committed_is_not_seen(kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(BowerbirdError):
        kb.add([source(tmp_path / "b.parquet", range(100, 110)), tmp_path / "missing"])
    assert len(kb) == len(kb.ids()) == 40
    assert len(kb.ids("number >= 100")) == 0


@pytest.mark.parametrize("other", ["another", "a copy that was changed"])
def test_a_reader_says_that_another_knowledge_base_took_its_place(
    kb: KnowledgeBase, tmp_path: Path, other: str
) -> None:
    """Its versions have the same numbers, and its files would answer for items that this reader never had."""
    if other == "another":
        KnowledgeBase.build(tmp_path / "b", source(tmp_path / "b.parquet", range(40, 80)), encoder=PlainEncoder())
    else:
        shutil.copytree(kb.path, tmp_path / "b")
        kb.remove(where="number < 5")
        KnowledgeBase.open(tmp_path / "b", encoder=PlainEncoder()).remove(where="number >= 35")
    fresh, used = open_again(kb), open_again(kb)
    known = used.ids("number >= 5")[:2]
    assert used.get(known.tolist()).images()[0][0] is not None
    kb.path.rename(tmp_path / "a")
    with pytest.raises(BowerbirdError, match="was moved or removed"):
        fresh.ids("number >= 0")
    (tmp_path / "b").rename(kb.path)
    for reader in (fresh, used):
        with pytest.raises(BowerbirdError, match=r"another knowledge base was put in its place.*open it again"):
            reader.ids("number >= 0")
        with pytest.raises(BowerbirdError, match="another knowledge base"):
            reader.pictures(known[None])
    with pytest.raises(BowerbirdError, match="another knowledge base"):
        fresh.search(text="red thing", k=3)
    if other == "another":  # a writer goes on from any version of the same one
        with pytest.raises(BowerbirdError, match="another knowledge base"):
            used.remove(where="true")
    assert verify(kb.path).good


def test_all_is_durable_before_the_manifest_names_it(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps a file that was synced, under a name that its folder had when that was synced. At every rename
    of kb.json, each file of the rows is so kept: also the first deletion, whose folder is new."""
    synced: dict[Path, object] = {}
    checked = 0
    fsync, replace = files.fsync_path, Path.replace

    def note(path: Path) -> None:
        fsync(path)
        synced[path] = {p.name for p in path.iterdir()} if path.is_dir() else path.stat().st_size

    def look(self: Path, target: Path) -> Path:
        nonlocal checked
        if target.name == "kb.json":
            for name in files.read_sealed(target.parent / "files.json", "x"):
                file = target.parent / name
                assert file in before or synced.get(file) == file.stat().st_size, f"{name} was not synced"
                for place in [file, *file.parents]:
                    if place == target.parent:
                        break
                    named = synced.get(place.parent, set())
                    assert place in before or place.name in named, f"{place.parent} was not synced with {place.name}"
                checked += 1
        return replace(self, target)

    before = set(kb.path.rglob("*"))
    monkeypatch.setattr(files, "fsync_path", note)
    monkeypatch.setattr(Path, "replace", look)
    kb.remove(where="number < 3")
    assert any("_deletions" in str(p) for p in kb.path.rglob("*"))
    kb.update(where="number < 9", metadata={"mark": 1})
    kb.restore(1)
    assert checked > 20


def test_a_new_knowledge_base_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    fsync = files.fsync_path
    monkeypatch.setattr(files, "fsync_path", lambda path: (fsync(path), synced.append(path)))
    data = source(tmp_path / "a.parquet", range(5))
    path = tmp_path / "new" / "deeper" / "kb"
    KnowledgeBase.build(path, data, encoder=PlainEncoder())
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "deeper"} <= set(synced)
    assert path.with_name(".kb.making") in synced  # its own list of names, before it was renamed


def test_building_through_a_link_and_into_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kb: KnowledgeBase
) -> None:
    data = tmp_path / "a.parquet"
    (tmp_path / "disk").mkdir()
    for target in ("disk", "not-there-yet"):
        link = tmp_path / f"link-to-{target}"
        link.symlink_to(target)
        made, _ = KnowledgeBase.build(link, data, encoder=PlainEncoder())
        assert len(made) == 40
        assert link.is_symlink()
        assert (tmp_path / target / "kb.json").is_file()
    assert not list(tmp_path.glob(".*"))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for nameless, says in (
        (".", "names no file or folder"),
        (empty / "..", "taken"),
        ("", "is empty"),
        (" ", "is empty"),
    ):
        with pytest.raises(BowerbirdError, match=says):
            KnowledgeBase.build(nameless, data, encoder=PlainEncoder())
    monkeypatch.chdir(kb.path)
    with pytest.raises(BowerbirdError, match="is empty"):
        KnowledgeBase.open("")  # an unset variable is not the knowledge base one stands in
    assert not any(empty.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Changing is refused at once, by name; searching goes on, with an index in a temporary folder."""
    fcntl = pytest.importorskip("fcntl")

    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    expected = kb.search(text="red thing", k=3).ids.tolist()
    shutil.rmtree(kb.path / "index")
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BowerbirdError, match=r"has no file locks.*copy it to a place that can"):
        kb.remove(where="number < 3")
    assert open_again(kb).search(text="red thing", k=3).ids.tolist() == expected
    with pytest.raises(OSError, match="has no file locks") as refused:
        KnowledgeBase.build(tmp_path / "new", tmp_path / "a.parquet", encoder=PlainEncoder())
    assert str(refused.value.filename).startswith(str(tmp_path))
    assert not (tmp_path / "new").exists()


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, t);
    if (clock == CLOCK_REALTIME) t->tv_sec += 864000;
    return done;
}
"""
BUILD_AHEAD = """
import sys
from bowerbird import KnowledgeBase
from tests.faults.plain import PlainEncoder
KnowledgeBase.build(sys.argv[1], sys.argv[2], encoder=PlainEncoder())
"""


def test_what_was_removed_is_gone_although_the_clock_went_back(tmp_path: Path) -> None:
    """LanceDB drops versions by their age; one that was made by a clock ten days ahead has none yet."""
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux, to build another clock")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no C library to build with")
    data = source(tmp_path / "a.parquet", range(20))
    packages = [str(Path(__file__).parents[2]), str(Path(KnowledgeBase.open.__code__.co_filename).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages), "LD_PRELOAD": str(library)}
    run = [sys.executable, "-c", BUILD_AHEAD, str(tmp_path / "kb"), str(data)]
    subprocess.run(run, check=True, env=environment, capture_output=True)
    kb = KnowledgeBase.open(tmp_path / "kb", encoder=PlainEncoder())
    kb.remove(where="number < 6")
    kb.compact(drop_history=True)
    everything = b"".join(p.read_bytes() for p in kb.path.rglob("*") if p.is_file())
    assert [n for n in range(20) if picture(n) in everything] == list(range(6, 20))
    assert verify(kb.path).good


def test_two_builders_of_one_path(tmp_path: Path) -> None:
    data = source(tmp_path / "a.parquet", range(5))
    with files.resumable_directory(tmp_path / "kb", {"other": 1}) as folder:
        (folder / "work").write_text("of hours")
        with pytest.raises(BowerbirdError, match="another process"):
            KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())
        assert (folder / "work").read_text() == "of hours"


def test_a_build_killed_at_once_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".kb.making").mkdir()
    data = source(tmp_path / "a.parquet", range(5))
    facts = {"name": "plain", "fingerprint": PlainEncoder.fingerprint, "dim": 12, "normalize": True}
    tag = {"sources": [str(data.absolute())], "encoder": facts, "caption": None, "where": None}
    files.write_json(tmp_path / ".kb.making" / files.MAKING, tag)
    Rows.create(tmp_path / ".kb.making", 12)
    assert KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())[1].added == 5


def test_a_caption_that_makes_two_items_one_is_refused(kb: KnowledgeBase, tmp_path: Path) -> None:
    other = tmp_path / "same"
    other.mkdir()
    (other / "p.png").write_bytes(picture(1))
    (other / "p.txt").write_text("another name")
    kb.add(other)
    before = kb.get(kb.ids().tolist()).metadata
    for change in (
        {"ids": [identity(1)], "caption": "another name"},
        {"where": "file_name = 'p.png' OR number = 1", "caption": "new"},
    ):
        with pytest.raises(BowerbirdError, match="same as item"):
            kb.update(**change)
        assert open_again(kb).get(kb.ids().tolist()).metadata == before


class Given:
    """A source of these items."""

    def __init__(self, items: list[SourceItem]) -> None:
        self.items = items

    def count(self, place: str) -> int | None:
        return None

    def read(self, place: str, options: SourceOptions) -> Iterator[SourceItem]:
        return iter(self.items)


def test_names_and_texts_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of characters, names that are no columns, ours and LanceDB's: all are stored under names that can be
    asked for."""
    odd = {"a.b": 1, "": 2, "_rowid": 3, "added": 4, "with space": "\ud800", "`tick`": 5, "check": 6, "é": 7}
    items = [SourceItem(picture(n), f"n{n}\udc00", f"caption {n} \ud83d", dict(odd)) for n in range(3)]
    monkeypatch.setattr("bowerbird.data.sources.registry.find", lambda place: (Given(items), str(place)))
    kb, report = KnowledgeBase.build(tmp_path / "kb", tmp_path, encoder=PlainEncoder())
    assert report.added == 3
    metadata = kb.get(kb.ids().tolist()).metadata[0][0]
    assert metadata == {
        "a_b": 1,
        "_": 2,
        "source__rowid": 3,
        "source_added": 4,
        "with_space": "?",
        "_tick_": 5,
        "source_check": 6,
        "é": 7,
    }
    assert len(kb.ids("a_b = 1")) == 3
    assert KnowledgeBase.open(kb.path, encoder=PlainEncoder()).add(tmp_path).already_present == 3
    kb.update(ids=kb.ids()[:1].tolist(), caption="\ud800")
    assert verify(kb.path).good


def test_wrong_ids_are_refused(kb: KnowledgeBase) -> None:
    for ask in (lambda: kb.search(ids=[2**70], k=1), lambda: kb.remove(ids=[2**70]), lambda: kb.get([-(2**70)])):
        with pytest.raises(BowerbirdError, match="63 bits"):
            ask()
    assert kb.remove(ids=[5]) == 0
    assert np.isin(identity(3), kb.ids())
