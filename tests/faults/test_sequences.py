"""Any sequence of changes leaves what a dict would hold, at every version; any text and any condition are answered or
refused."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bowerbird import KnowledgeBase
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT
from bowerbird.knowledge.search import build, dense, planner
from tests.faults.plain import FULL, PlainEncoder, caption, identity, source

SEQUENCES = 1000 if FULL else 12
WRITES = 6 if FULL else 3
STRINGS = 20_000 if FULL else 150
NUMBERS = st.lists(st.integers(0, 60), min_size=1, max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NUMBERS),
        st.tuples(st.just("remove"), NUMBERS),
        st.tuples(st.just("update"), NUMBERS),
        st.tuples(st.just("compact"), st.booleans()),
        st.tuples(st.just("restore"), st.integers(0, 9)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    min_size=1,
    max_size=8,
)
COUNTER = itertools.count()


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few dozen items have an approximate index and outgrow it."""
    monkeypatch.setitem(planner.INDEXES, "rabitq", planner.Index(21, "RaBitQfs"))
    monkeypatch.setitem(planner.INDEXES, "ivf-rabitq", planner.Index(36, "IVF{lists},RaBitQfs"))
    monkeypatch.setattr(build, "TAIL_AT_LEAST", 8)


def check(kb: KnowledgeBase, model: dict[int, object]) -> None:
    """The knowledge base holds the model's items, finds exactly what is nearest of them, and filters by what
    they say."""
    assert set(kb.ids().tolist()) == {identity(n) for n in model}
    assert len(kb) == len(kb.ids()) == len(model)
    marked = {identity(n) for n, mark in model.items() if mark is not None}
    if "mark" in kb.info()["metadata"]:
        assert set(kb.ids("mark IS NOT NULL").tolist()) == marked
    if not model:
        return
    everything = kb.get(kb.ids().tolist())
    assert sorted(everything.captions[0]) == sorted(caption(n) for n in model)
    unit = dense.prepare(everything.embeddings[0], True)
    queries = np.random.default_rng(len(model)).random((3, 12)).astype(np.float32)
    k = min(5, len(model))
    best = -np.sort(-(dense.prepare(queries, True) @ unit.T), axis=1)[:, :k]
    np.testing.assert_allclose(kb.search(embeddings=queries, k=k, exact=True).scores, best, rtol=1e-5, atol=1e-6)
    assert (kb.search(embeddings=queries, k=len(model)).ids != ABSENT).all()  # never fewer than there are
    number = next(iter(model))
    assert caption(number) in kb.search(text=caption(number), k=1, mode="bm25").captions[0]


@given(STEPS)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_sequences(tmp_path: Path, steps: list[tuple[str, object]]) -> None:
    folder = tmp_path / str(next(COUNTER))
    folder.mkdir()
    kb, _ = KnowledgeBase.build(folder / "kb", source(folder / "first.parquet", range(15)), encoder=PlainEncoder())
    model: dict[int, object] = dict.fromkeys(range(15))
    versions = {kb.version: dict(model)}
    for number, (verb, what) in enumerate(steps):
        if verb == "add":
            report = kb.add(source(folder / f"{number}.parquet", what))
            assert report.added == len(set(what) - set(model))
            model |= {n: None for n in what if n not in model}
        elif verb == "remove":
            assert kb.remove(ids=[identity(n) for n in what]) == len(set(what) & set(model))
            model = {n: mark for n, mark in model.items() if n not in what}
        elif verb == "update":
            assert kb.update(ids=[identity(n) for n in what], metadata={"mark": number}) == len(set(what) & set(model))
            model |= {n: number for n in what if n in model}
        elif verb == "compact":
            kb.compact(drop_history=what)
            versions = {} if what else versions
        elif verb == "restore":
            kept = sorted(versions)[what % len(versions)]
            kb.restore(kept)
            model = dict(versions[kept])
        else:
            kb = KnowledgeBase.open(kb.path, encoder=PlainEncoder())
        versions[kb.version] = dict(model)
        check(kb, model)
    for version, then in versions.items():
        check(kb.at_version(version), then)
    check(KnowledgeBase.open(kb.path, encoder=PlainEncoder()), model)


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("fifty")
    return KnowledgeBase.build(folder / "kb", source(folder / "a.parquet", range(50)), encoder=PlainEncoder())[0]


PIECES = st.sampled_from(
    [
        "number",
        "kind",
        "'odd'",
        "'",
        '"',
        "(",
        ")",
        ">",
        "=",
        "3",
        "AND",
        "OR",
        "NOT",
        "--",
        ";",
        "/*",
        "DROP TABLE rows",
        "NULL",
        "LIKE",
        "'%'",
        "id",
        "image",
        "embedding",
        "1=1",
        "SELECT",
        "CAST(number AS TEXT)",
        "regexp_match(kind, '(a+)+$')",
        "\x00",
        "é",
        "\\",
    ]
)
CONDITIONS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=8).map(" ".join))


@given(
    st.one_of(st.text(max_size=80), st.text(st.characters(), max_size=80)), st.sampled_from(["dense", "bm25", "hybrid"])
)
@settings(max_examples=STRINGS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(fifty: KnowledgeBase, text: str, mode: str) -> None:
    try:
        hits = fifty.search(text=text, k=5, mode=mode, where="number < 20")
    except BowerbirdError:
        return
    assert {m["number"] for m in hits.metadata[0] if m} <= set(range(20))


@given(CONDITIONS)
@settings(max_examples=STRINGS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_condition(fifty: KnowledgeBase, where: str) -> None:
    try:
        allowed = set(fifty.ids(where).tolist())
        hits = fifty.search(text="red thing", k=5, where=where)
    except BowerbirdError:
        return
    assert set(hits.ids[0].tolist()) - {ABSENT} <= allowed <= set(fifty.ids().tolist())


def _writer(path: str, log: str, first: int) -> None:
    kb = KnowledgeBase.open(path, encoder=PlainEncoder())
    for step in range(WRITES):
        kb.add(source(Path(f"{log}-{step}.parquet"), range(first + 10 * step, first + 10 * step + 10)))
        kb.remove(ids=[identity(first + 10 * step)])


def _reader(path: str, ended: Event) -> None:
    while not ended.wait(0.05):
        kb = KnowledgeBase.open(path, encoder=PlainEncoder())
        ids = kb.ids().tolist()
        assert len(ids) == len(set(ids)) == len(kb)
        assert set(kb.search(text="red thing", k=5).ids[0].tolist()) <= set(ids)
        assert all(p is not None for p in kb.search(ids=ids[:2], k=2).images()[0])


def test_four_writers_and_four_readers(
    tmp_path: Path, server: multiprocessing.context.BaseContext, count: Callable[[str], None]
) -> None:
    kb, _ = KnowledgeBase.build(tmp_path / "kb", source(tmp_path / "a.parquet", range(20)), encoder=PlainEncoder())
    ended = server.Event()
    start: Any = server.Process  # type: ignore[attr-defined]
    readers = [start(target=_reader, args=(str(kb.path), ended)) for _ in range(4)]
    writers = [start(target=_writer, args=(str(kb.path), str(tmp_path / f"w{w}"), 1000 * (w + 1))) for w in range(4)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join()
    ended.set()
    for process in readers:
        process.join()
    assert [p.exitcode for p in (*writers, *readers)] == [0] * 8
    found = set(KnowledgeBase.open(kb.path, encoder=PlainEncoder()).ids().tolist())
    expected = {identity(n) for n in range(20)} | {
        identity(1000 * (w + 1) + n) for w in range(4) for n in range(10 * WRITES) if n % 10
    }
    assert found == expected
    count("4 writers and 4 readers")
