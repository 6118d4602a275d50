"""`losses.csv` of a run: a line a step, as it is made. A run that goes on from a checkpoint first drops the lines of
the steps that are done again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bowerbird.core import files

FILE = "losses.csv"
COLUMNS = ("step", "loss", "learning_rate", "validation_loss", "seconds")


@dataclass(frozen=True)
class StepReport:
    """One finished step: its number (from 1), the loss of this process's batches, the learning rate used, the seconds
    it took, the loss on held-out pictures where that was measured after it, and why training `stopped` there, where the
    objective said so: what is kept then is the checkpoint before."""

    step: int
    loss: float
    learning_rate: float
    seconds: float = 0.0
    validation_loss: float | None = None
    stopped: str | None = None


def read_losses(run: Path) -> list[StepReport]:
    """The steps that the run in a folder has noted, without a line that was cut short."""
    if not (run / FILE).is_file():
        return []
    found = []
    with (run / FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            try:
                step, loss, rate, validation, seconds = row
                found.append(
                    StepReport(
                        int(step), float(loss), float(rate), float(seconds), float(validation) if validation else None
                    )
                )
            except ValueError:  # the heading, or a line that a kill cut
                continue
    return found


@contextmanager
def loss_log(run: Path, done: int) -> Iterator[Callable[[StepReport], None]]:
    """What notes a step in the run's `losses.csv`, of which the first `done` steps are kept."""
    kept = [report for report in read_losses(run) if report.step <= done]
    with files.atomic_path(run / FILE) as temporary:
        temporary.write_text("".join([",".join(COLUMNS) + "\n", *map(_line, kept)]), encoding="utf-8")
    with (run / FILE).open("a", encoding="utf-8", newline="") as file:

        def note(report: StepReport) -> None:
            file.write(_line(report))
            file.flush()

        yield note


def _line(report: StepReport) -> str:
    validation = "" if report.validation_loss is None else f"{report.validation_loss:.9g}"
    return f"{report.step},{report.loss:.9g},{report.learning_rate:.9g},{validation},{report.seconds:.4g}\n"
