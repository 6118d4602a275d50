"""A disk that is full, fails, or cannot be written: a clear error, and the old state whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bowerbird import KnowledgeBase
from tests.faults.plain import FULL, PlainEncoder, source
from tests.test_cli import bowerbird

STEPS = 40 if FULL else 5

TRY = """
import ctypes, errno, json, os, shutil, sys, traceback
from pathlib import Path
from tests.faults.plain import PlainEncoder
from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.storage.verify import verify

made, data, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
again = ctypes.CDLL(os.environ["LD_PRELOAD"]).failing_disk_again

def ids(path):
    return set(KnowledgeBase.open(path, encoder=PlainEncoder()).ids().tolist())

def change(path, verb):
    kb = KnowledgeBase.open(path, encoder=PlainEncoder())
    match verb:
        case "add": kb.add(data)
        case "remove": kb.remove(where="number < 5")
        case "update": kb.update(where="number < 9", metadata={"mark": 1})
        case "compact": kb.compact()

def refusals(verb):
    before, refused = ids(made), 0
    for step in range(steps):
        path = made.with_name("kb")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(made, path)
        again()
        os.environ["FAIL_AFTER"] = str(int(150 * 1.35 ** (step * 40 / steps)))
        os.environ["FAIL_UNDER"] = str(path)
        try:
            change(path, verb)
        except BowerbirdError as error:
            refused += 1
            assert str(error).startswith(str(path)), error
        finally:
            del os.environ["FAIL_UNDER"]
        now = ids(path)
        change(path, verb)  # the disk repaired, it can be made
        assert now in (before, ids(path)), "half of a change"
        assert verify(path, repair=True).good
    return refused

found = {}
for code in (errno.ENOSPC, errno.EIO):
    os.environ["FAIL_ERRNO"] = str(code)
    for verb in ("add", "remove", "update", "compact"):
        try:
            found[f"{verb} {code}"] = refusals(verb)
        except BaseException:
            found[f"{verb} {code}"] = traceback.format_exc()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux, to build a disk that fails")
    library = tmp_path_factory.mktemp("disk") / "failing_disk.so"
    code = Path(__file__).with_name("failing_disk.c")
    built = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl"], check=False, capture_output=True
    )
    if built.returncode:
        pytest.skip(f"no C library to build with: {built.stderr.decode()[:200]}")
    return library


@pytest.fixture(scope="module")
def refused(failing_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """How often each change was refused on each failing disk, or where it went wrong: all in one process, which has
    that disk from its start."""
    folder = tmp_path_factory.mktemp("failing")
    KnowledgeBase.build(folder / "made", source(folder / "a.parquet", range(40)), encoder=PlainEncoder())
    data = source(folder / "more.parquet", range(100, 130))
    packages = str(Path(KnowledgeBase.open.__code__.co_filename).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), packages]),
        "LD_PRELOAD": str(failing_disk),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(folder / "made"), str(data), str(STEPS)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("verb", ["add", "remove", "update", "compact"])
def test_a_failing_disk(refused: dict[str, object], verb: str, code: int, count: Callable[[str], None]) -> None:
    """Writes fail after any number of bytes; the change is there as a whole or not at all, and the disk
    repaired, it can be made."""
    times = refused[f"{verb} {code}"]
    assert isinstance(times, int), times
    assert times > 0, "the disk never failed"
    count(f"{verb} on a disk that gives {errno.errorcode[code]}: {times} of {STEPS} refused")


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, a few megabytes of memory, where this machine lets us mount it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        kb, _ = KnowledgeBase.build(disk / "kb", source(tmp_path / "a.parquet", range(30)), encoder=PlainEncoder())
        before = set(kb.ids().tolist())
        left = os.statvfs(disk)
        (disk / "ballast").write_bytes(b"\0" * (left.f_bavail * left.f_frsize - 20_000))
        with pytest.raises(Exception, match=str(disk / "kb")):
            kb.add(source(tmp_path / "more.parquet", range(100, 400)))
        assert set(KnowledgeBase.open(disk / "kb", encoder=PlainEncoder()).ids().tolist()) == before
        (disk / "ballast").unlink()
        again = KnowledgeBase.open(disk / "kb", encoder=PlainEncoder())
        assert again.add(tmp_path / "more.parquet").added == 300
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "command",
    [
        "kb build new a.parquet --encoder tests.faults.plain:PlainEncoder",
        "kb export kb out",
        "kb export kb out --format parquet",
        "kb neighbors kb a.parquet out.parquet -k 2 --encoder tests.faults.plain:PlainEncoder",
        "kb embed a.parquet --out out --encoder tests.faults.plain:PlainEncoder",
        "kb remove kb --where true",
        "kb restore kb --version 0",
        "search kb --text thing --mode bm25 --sheet out.png",
        "export tiny-rdm --out out",
        "train tiny-rdm --tiny --data drawn --out out",
    ],
)
def test_a_full_disk_is_one_line_with_the_place(tmp_path: Path, command: str) -> None:
    """No file may grow over 1,000 bytes, which each verb meets in the middle of its work, through another library."""
    resource = pytest.importorskip("resource")
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(30)), encoder=PlainEncoder())
    left = sorted(p.name for p in tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        done = bowerbird(*command.split(), cwd=tmp_path, expect=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = done.stderr.splitlines()[-1]
    place = next((word for word in command.split() if word.startswith(("new", "out"))), "kb")
    assert os.strerror(errno.EFBIG) in line
    assert "Traceback" not in done.stderr
    assert line.startswith(f"bowerbird: {place}")
    made = {p.name for p in tmp_path.iterdir()} - set(left)
    assert made <= ({"out"} if command.startswith(("train", "kb embed")) else set())  # these go on where they were
    assert len(KnowledgeBase.open(kb.path, encoder=PlainEncoder()).ids()) == 30


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Searching works without an index that could be written; changing is refused."""
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(30)), encoder=PlainEncoder())
    expected = kb.search(text="red thing", k=5).ids.tolist()
    shutil.rmtree(kb.path / "index")
    mounted = (
        subprocess.run(["mount", "--bind", str(kb.path), str(kb.path)], check=False, capture_output=True).returncode
        == 0
    )
    if mounted:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(kb.path)], check=True)
    elif os.geteuid() != 0:
        kb.path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    else:
        pytest.skip("everything may be written here")
    try:
        opened = KnowledgeBase.open(kb.path, encoder=PlainEncoder())
        assert opened.search(text="red thing", k=5).ids.tolist() == expected
        with pytest.raises(Exception, match="written"):
            opened.remove(where="number < 3")
        assert len(KnowledgeBase.open(kb.path, encoder=PlainEncoder())) == 30
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(kb.path)], check=True)
        else:
            kb.path.chmod(stat.S_IRWXU)
