"""Released checkpoints of the RDM authors, by what is in the file: an RDM or a RARM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bowerbird.systems.rarm import interop as rarm
from bowerbird.systems.rdm.interop import compvis
from bowerbird.systems.rdm.interop.compvis import Choices, Plan


def plan(path: str | Path, choices: Choices | None = None) -> Plan | rarm.RARMPlan:
    """What is in the checkpoint at `path` and where all of it goes.

    Raises: BowerbirdError, saying why, for a file that cannot be read, is of another model, or has a tensor that no
    published layout has.
    """
    path, choices = Path(path), choices or Choices()
    tensors, ignored = compvis.read_state(path, choices)
    if not rarm.is_rarm(tensors):
        return compvis.plan(path, choices)
    with compvis.naming(path):
        return rarm.plan_state(path, tensors, choices, ignored)


def write(made: Plan | rarm.RARMPlan, out: str | Path, *, progress: Any = None) -> None:
    """Write `made` to the directory `out`; `progress(done, total)` counts tensors.

    Raises: BowerbirdError when tensors are missing or damaged; nothing is left then.
    """
    if isinstance(made, rarm.RARMPlan):
        rarm.write(made, out, progress=progress)
    else:
        compvis.write(made, out, progress=progress)
