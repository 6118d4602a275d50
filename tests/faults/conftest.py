"""What the fault tests counted is told at the end of the run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest

COUNTS: list[str] = []


@pytest.fixture
def count() -> Callable[[str], None]:
    """Say how much was tried."""
    return COUNTS.append


@pytest.fixture(scope="session")
def server() -> multiprocessing.context.BaseContext:
    """Starts processes that have everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faiss", "pyarrow.parquet", "bowerbird.knowledge.base", "tests.faults.plain"])
    return context


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in COUNTS:
        terminalreporter.write_line(f"faults: {line}")
