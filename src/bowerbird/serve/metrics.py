"""Figures of a running server in Prometheus' text form; a few counters and sums need no library."""

from __future__ import annotations

import threading
from collections import defaultdict

HELP = {
    "queue_length": ("gauge", "Jobs that wait"),
    "jobs_running": ("gauge", "Jobs being done"),
    "jobs_total": ("counter", "Jobs that ended, by kind and state"),
    "pictures_total": ("counter", "Pictures generated"),
    "stage_seconds": ("summary", "Seconds a stage took"),
    "refusals_total": ("counter", "Requests refused, by code"),
    "requests_total": ("counter", "Requests, by route, method and status"),
    "request_seconds": ("summary", "Seconds a request took, by route"),
    "worker_restarts_total": ("counter", "Workers started again"),
    "worker_up": ("gauge", "Workers that can generate"),
    "memory_bytes": ("gauge", "Resident memory, by process"),
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counted here, shown by `text`."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = defaultdict(float)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        with self._turn:
            self._values[name, tuple(sorted(labels.items()))] += amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """What a gauge shows."""
        with self._turn:
            self._values[name, tuple(sorted(labels.items()))] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One value of a summary."""
        self.count(f"{name}_sum", value, **labels)
        self.count(f"{name}_count", 1, **labels)

    def text(self) -> str:
        """All of it."""
        with self._turn:
            values = sorted(self._values.items())
        lines: list[str] = []
        for name, (kind, text) in HELP.items():
            mine = [(n, labels, v) for (n, labels), v in values if n in (name, f"{name}_sum", f"{name}_count")]
            if mine:
                lines += [f"# HELP bowerbird_{name} {text}", f"# TYPE bowerbird_{name} {kind}"]
                lines += [f"bowerbird_{n}{_labels(labels)} {v:.12g}" for n, labels, v in mine]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = (f'{k}="{_escape(v)}"' for k, v in labels)
    return "{" + ",".join(quoted) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resident_bytes(process: int) -> int:
    """Memory that a process has now, 0 where the system does not say."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
