"""What is read, written and held at once is bounded by bytes, whatever a source holds."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lancedb.table import LanceTable

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.item import SourceItem
from bowerbird.data.portions import portions
from bowerbird.data.sources import archive, read, registry, table
from bowerbird.data.sources.picture_file import MOST_FILE_BYTES
from bowerbird.knowledge.ingest import embed, prepare
from bowerbird.knowledge.storage.batches import BYTES, read_in_batches
from bowerbird.knowledge.storage.lance import Rows
from tests.faults.plain import PlainEncoder, picture


def test_a_portion_is_full_by_number_or_by_bytes() -> None:
    def items() -> Iterator[SourceItem]:
        for size in (10, 10, 10, 10, 100, 1, 1):
            yield SourceItem(b"x" * size, "x")

    assert [len(portion) for portion in portions(items(), count=3, size=100)] == [3, 2, 2]


def test_the_chunks_of_a_build_hold_a_share_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 64 MB a chunk is 2 MB: pictures with a megabyte beside them come two at a time, not 512."""
    for n in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n:02d}.png").write_bytes(picture(n) + b"\0" * 1024**2)
    seen = []
    whole = prepare.portions
    monkeypatch.setattr(prepare, "portions", lambda *a, **k: (seen.append(len(p)) or p for p in whole(*a, **k)))
    made, report = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder(), memory=64 * 1024**2)
    assert (len(made), report.unreadable, seen) == (12, [], [2] * 6)
    embed.embed([tmp_path / "in"], tmp_path / "parts", PlainEncoder(), memory=64 * 1024**2)
    assert seen == [2] * 12


def test_whole_rows_are_read_fewer_at_a_time_where_they_are_large() -> None:
    sizes = [1] * 8 + [BYTES // 2] * 18
    asked: list[list[int]] = []

    def read_rows(ids: list[int]) -> int:
        asked.append(ids)
        return sum(sizes[i] for i in ids)

    assert list(read_in_batches(list(range(26)), read_rows, lambda found: found, 10))
    assert [i for some in asked for i in some] == list(range(26))
    assert [len(some) for some in asked] == [8, 10, 2, 2, 2, 2]


def test_single_pictures_of_one_command_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for n in range(40):
        files.append(tmp_path / f"{n:02d}.png")
        files[-1].write_bytes(picture(n))
    assert registry.group([*files[:2], tmp_path, *files[2:4]]) == [
        [str(f) for f in files[:2]],
        [str(tmp_path)],
        [str(f) for f in files[2:4]],
    ]
    seen = []
    whole = prepare.portions
    monkeypatch.setattr(prepare, "portions", lambda *a, **k: (seen.append(len(p)) or p for p in whole(*a, **k)))
    made, _ = KnowledgeBase.build(tmp_path / "kb", files, encoder=PlainEncoder())
    report = embed.embed(files, tmp_path / "parts", PlainEncoder())
    assert (len(made), report.items, report.parts, seen) == (40, 40, 1, [40, 40])


def peak(path: Path) -> tuple[list[SourceItem], int]:
    """The items of a source, looked at one by one, and the most bytes that were held."""
    tracemalloc.start()
    try:
        found = [SourceItem(item.data[:1], item.name, problem=item.problem) for item in read(path)]
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_members_of_archives_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1024**2)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for n in range(20):
            made.writestr(f"same.{n}.png", b"\0" * 1024**2)
        made.writestr("wide.png", b"\0" * (30 * 1024**2))
        made.writestr("x.png", picture(1))
    found, held = peak(tmp_path / "bomb.zip")
    problems = {item.name: item.problem for item in found}
    assert len(problems) == 22  # of one stem, and still one after another
    assert "over" in problems["bomb.zip/wide.png"]
    assert problems["bomb.zip/x.png"] == ""
    assert held < 8 * 1024**2


def test_a_tar_with_a_megabyte_of_attributes_is_refused(tmp_path: Path) -> None:
    """tarfile would take what a header announces, here 300 MB out of 300 kB."""
    path = tmp_path / "pax.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as made:
        head = tarfile.TarInfo("head")
        head.type, head.size = tarfile.XHDTYPE, 300 * 1024**2
        made.fileobj.write(head.tobuf())
        for _ in range(300):
            made.fileobj.write(b"\0" * 1024**2)
    tracemalloc.start()
    with pytest.raises(BowerbirdError, match=r"pax\.tar\.gz: .*name and attributes"):
        list(read(path))
    assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    tracemalloc.stop()


def test_tar_members_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as made:
        for n in range(4000):
            made.addfile(tarfile.TarInfo(f"{n}.png"), io.BytesIO())
    assert peak(path)[1] < 2 * 1024**2


def test_a_file_larger_than_any_picture_is_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture(1))
    with (tmp_path / "in" / "b.png").open("wb") as file:
        os.truncate(file.fileno(), MOST_FILE_BYTES + 1)
    made, report = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder())
    assert len(made) == 1
    assert report.unreadable == [f"b.png: a file of {MOST_FILE_BYTES + 1:,} bytes; up to {MOST_FILE_BYTES:,} are read"]


def test_tables_are_read_some_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bowerbird.data.sources.table.BATCH_BYTES", 10_000)
    rows = pa.table({"image": [picture(n) + b"\0" * 4000 for n in range(9)], "text": [f"t{n}" for n in range(9)]})
    pq.write_table(rows, tmp_path / "a.parquet")
    items = list(read(tmp_path / "a.parquet"))
    assert [item.caption for item in items] == [f"t{n}" for n in range(9)]
    sizes = [len(batch) for batch in table._slices(rows.to_batches())]
    assert sum(sizes) == 9
    assert max(sizes) == 2


def test_processes_share_the_memory() -> None:
    assert prepare.chunk_bytes(2**31) == 2**26
    assert prepare.chunk_bytes(2**31, processes=2) == 2**31 // 160


def test_a_change_does_not_read_every_versions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change read as many files as there were versions, to see which is the newest; a killed write is still
    undone."""
    (tmp_path / "in").mkdir()
    for n in range(4):
        (tmp_path / "in" / f"{n}.png").write_bytes(picture(n))
    kb, _ = KnowledgeBase.build(tmp_path / "kb", tmp_path / "in", encoder=PlainEncoder())

    def listed(*parts: object) -> None:
        raise AssertionError("the versions were listed")

    monkeypatch.setattr(LanceTable, "list_versions", listed)
    first, second, third, _ = kb.ids().tolist()
    kb.remove(ids=[first])
    Rows(kb.path).delete([third])  # and not committed
    again = KnowledgeBase.open(tmp_path / "kb", encoder=PlainEncoder())
    again.remove(ids=[second])
    assert again.ids().tolist() == kb.ids().tolist()[1:]
    assert third in again.ids()
