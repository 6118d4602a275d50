"""Released checkpoints in the layout of latent diffusion, by what is in the file: RDM, RARM, InstructPix2Pix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bowerbird.systems.instruct import interop as instruct
from bowerbird.systems.rarm import interop as rarm
from bowerbird.systems.rdm.interop import compvis
from bowerbird.systems.rdm.interop.compvis import Choices, Plan


def plan(path: str | Path, choices: Choices | None = None) -> Plan | rarm.RARMPlan | instruct.InstructPlan:
    """What is in the checkpoint at `path` and where all of it goes.

    Raises: BowerbirdError, saying why, for a file that cannot be read, is of another model, or has a tensor that no
    published layout has.
    """
    path, choices = Path(path), choices or Choices()
    tensors, ignored = compvis.read_state(path, choices)
    with compvis.naming(path):
        if instruct.is_instruct(tensors):
            return instruct.plan_state(path, tensors, choices, ignored)
        if rarm.is_rarm(tensors):
            return rarm.plan_state(path, tensors, choices, ignored)
    return compvis.plan(path, choices)


def write(made: Plan | rarm.RARMPlan | instruct.InstructPlan, out: str | Path, *, progress: Any = None) -> None:
    """Write `made` to the directory `out`; `progress(done, total)` counts tensors.

    Raises: BowerbirdError when tensors are missing or damaged; nothing is left then.
    """
    if isinstance(made, rarm.RARMPlan):
        rarm.write(made, out, progress=progress)
    elif isinstance(made, instruct.InstructPlan):
        instruct.write(made, out, progress=progress)
    else:
        compvis.write(made, out, progress=progress)
