"""What the fault tests counted is told at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

COUNTS: list[str] = []


@pytest.fixture
def count() -> Callable[[str], None]:
    """Say how much was tried."""
    return COUNTS.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in COUNTS:
        terminalreporter.write_line(f"faults: {line}")
