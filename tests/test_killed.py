"""What is left of a run that was killed or asked to end: no process, no temporary file, and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bowerbird import KnowledgeBase
from bowerbird.core import files, leftovers
from bowerbird.core.errors import Terminated
from tests.faults.plain import PlainEncoder, source

PARENT = """
import os, sys, threading
from bowerbird.data.item import SourceItem
from bowerbird.knowledge.ingest import workers
from bowerbird.knowledge.ingest.prepare import Look
from tests.faults.plain import PlainEncoder, picture

class Named(PlainEncoder):
    name = "tests.faults.plain:PlainEncoder"

def work():
    for n in range(6):
        yield [SourceItem(picture(n), str(n))]
    threading.Event().wait()

if __name__ == "__main__":
    for prepared in workers.in_order(work(), Named(), Look(), 2):
        print(len(prepared.items), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="nothing kills so elsewhere")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"1\n"  # the workers are at work
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)  # ends when nobody holds the output any more


STOPPED = """
import os, signal, sys
from bowerbird.cli import main
from bowerbird.knowledge.storage import lance
from bowerbird.knowledge.storage.lance import Rows
signal.signal(signal.SIGINT, signal.default_int_handler)
append, number = Rows.append, getattr(signal, sys.argv.pop())
def stop(self, *arguments):
    append(self, *arguments)
    os.kill(os.getpid(), number)
Rows.append = stop
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
@pytest.mark.parametrize(("name", "code", "word"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_a_signal_ends_a_build_in_one_line_that_says_what_is_kept(
    tmp_path: Path, name: str, code: int, word: str
) -> None:
    source(tmp_path / "a.parquet", range(20))
    encoder = ["--encoder", "tests.faults.plain:PlainEncoder"]
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", STOPPED, "kb", "build", "kb", "a.parquet", *encoder, "--device", "cpu", name]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1:] == [
        f"bowerbird: {word}; kb: what is done is kept, and the same command goes on from there"
    ]
    assert not (tmp_path / "kb").exists()


def test_the_next_run_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, machine = leftovers.owner(), leftovers.owner().partition("-")[0]
    gone, other = f"{machine}-{ended.pid}", f"00000000-{ended.pid}"
    for maker in (mine, gone, other):
        (tmp_path / f".a.json.{maker}.bowerbird.tmp").write_text("x")
        (tmp_path / f".folder.{maker}.bowerbird.tmp").mkdir()
    (tmp_path / f".kept.{gone}.bowerbird.old").mkdir()  # the one copy there is
    (tmp_path / f".b.{ended.pid}.tmp").write_text("of another program")
    files.write_json(tmp_path / "b.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    kept = {f".{name}.{maker}.bowerbird.tmp" for name in ("a.json", "folder") for maker in (mine, other)}
    assert left == kept | {f".kept.{gone}.bowerbird.old", f".b.{ended.pid}.tmp", "b.json"}


def test_a_writer_clears_a_knowledge_base_whoever_left_it(tmp_path: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(3)), encoder=PlainEncoder())
    (tmp_path / "kb" / ".kb.json.00000000-1.bowerbird.tmp").write_text("x")
    kb.remove(where="true")
    assert not list((tmp_path / "kb").glob("*.tmp")) + list((tmp_path / "kb").glob(".*.tmp"))


def test_an_interrupted_write_says_that_the_old_state_is_whole(tmp_path: Path) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(3)), encoder=PlainEncoder())
    with pytest.raises(Terminated) as stopped, kb.store.writing():
        raise Terminated(signal.SIGTERM)
    assert stopped.value.__notes__ == [f"{tmp_path / 'kb'}: whole at version 1; the same command goes on from there"]
