"""kill -9 at any moment of adding, removing, updating, compacting and indexing: nothing acknowledged is lost, nothing
is there twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bowerbird import KnowledgeBase
from bowerbird.knowledge.search import build as indexes
from bowerbird.knowledge.search import planner
from tests.faults.plain import FULL, PlainEncoder, identity, source

KILLS = 200 if FULL else 8


def small_sizes() -> None:
    """Sizes at which a few hundred items already have an index that is trained, filled in shards and renewed."""
    planner.INDEXES["rabitq"] = planner.Index(61, "RaBitQfs")
    planner.INDEXES["ivf-rabitq"] = planner.Index(121, "IVF{lists},RaBitQfs")
    indexes.TAIL_AT_LEAST = 16


def work(path: str, log: str, seed: int) -> None:
    """Change the knowledge base for ever, writing each change to the log before it begins and after it was
    acknowledged."""
    small_sizes()
    rng = np.random.default_rng(seed)
    kb = KnowledgeBase.open(path, encoder=PlainEncoder())
    here = set(kb.ids().tolist())
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(what: str, verb: str, ids: list[int]) -> None:
        os.write(handle, (json.dumps([what, verb, ids]) + "\n").encode())

    for step in range(10**6):
        choice = rng.random()
        if choice < 0.5 or len(here) < 20:
            numbers = [int(n) for n in rng.integers(0, 2000, 12)]
            ids = [identity(n) for n in numbers]
            file = source(Path(log).with_name(f"{Path(log).stem}-{step}.parquet"), numbers)
            say("begin", "add", ids)
            kb.add(file)
            here |= set(ids)
            say("done", "add", ids)
        elif choice < 0.8:
            ids = [int(i) for i in rng.choice(sorted(here), 7, replace=False)]
            say("begin", "remove", ids)
            kb.remove(ids=ids)
            here -= set(ids)
            say("done", "remove", ids)
        elif choice < 0.92:
            ids = [int(i) for i in rng.choice(sorted(here), 5, replace=False)]
            say("begin", "update", ids)
            kb.update(ids=ids, metadata={"seen": step})
            say("done", "update", ids)
        else:
            say("begin", "compact", [])
            kb.compact(drop_history=choice > 0.97)
            say("done", "compact", [])


def test_kills(tmp_path: Path, server: multiprocessing.context.BaseContext, count: Callable[[str], None]) -> None:
    small_sizes()
    rng = np.random.default_rng(0)
    path = tmp_path / "kb"
    kb, _ = KnowledgeBase.build(path, source(tmp_path / "first.parquet", range(150)), encoder=PlainEncoder())
    expected, slowest = set(kb.ids().tolist()), 0.0
    for kill in range(KILLS):
        log = tmp_path / f"log{kill}.jsonl"
        child = server.Process(target=work, args=(str(path), str(log), kill))  # type: ignore[attr-defined]
        child.start()
        begun = int(rng.integers(1, 10))  # lines of the log, two a change: on any machine some changes are made
        while child.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < begun):
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.1)))
        assert child.is_alive(), "the worker stopped by itself"
        os.kill(child.pid, signal.SIGKILL)
        child.join()

        doubtful: tuple[str, set[int]] = ("", set())
        for what, verb, ids in (json.loads(line) for line in log.read_text().splitlines() if line.endswith("]")):
            doubtful = (verb, set(ids)) if what == "begin" else ("", set())
            if what == "done" and verb in ("add", "remove"):
                expected = expected | set(ids) if verb == "add" else expected - set(ids)
        start = time.process_time()  # however busy the machine is
        opened = KnowledgeBase.open(path, encoder=PlainEncoder())
        found = opened.ids().tolist()
        hits = opened.search(text="red thing", k=5)
        slowest = max(slowest, time.process_time() - start)
        assert len(found) == len(set(found)) == len(opened)
        verb, ids = doubtful
        could = {"add": expected | ids, "remove": expected - ids}.get(verb, expected)
        assert set(found) in (expected, could), f"kill {kill}, in {verb or 'nothing'}"
        assert set(hits.ids[0].tolist()) <= set(found)
        expected = set(found)
    assert slowest < 5
    # whatever the kills left, everything that is there is whole
    everything = KnowledgeBase.open(path, encoder=PlainEncoder())
    assert all(p is not None for p in everything.get(everything.ids().tolist()).images()[0])
    count(f"{KILLS} kills, {len(expected)} items, slowest opening {slowest:.2f} s, version {everything.version}")


def build(path: str, data: str) -> None:
    small_sizes()
    KnowledgeBase.build(path, data, encoder=PlainEncoder())


def test_a_killed_build_goes_on(tmp_path: Path, server: multiprocessing.context.BaseContext) -> None:
    """A build that is killed leaves nothing at its path, and the same build ends as if nothing had happened."""
    data = source(tmp_path / "all.parquet", range(1500))
    for delay in (0.05, 0.3, 0.6):
        child = server.Process(target=build, args=(str(tmp_path / "kb"), str(data)))  # type: ignore[attr-defined]
        child.start()
        while not (tmp_path / ".kb.making").exists() and child.is_alive():
            time.sleep(0.005)
        time.sleep(delay)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        if (tmp_path / "kb").exists():
            break
    small_sizes()
    if not (tmp_path / "kb").exists():
        KnowledgeBase.build(tmp_path / "kb", data, encoder=PlainEncoder())
    assert set(KnowledgeBase.open(tmp_path / "kb", encoder=PlainEncoder()).ids().tolist()) == {
        identity(n) for n in range(1500)
    }
