"""How a model edits unless asked otherwise: what the file beside its `model_index.json` says, else the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.grounded.bases import CALL, UsualCall, written_call

IMAGE_SCALE = 1.5
MOST = 100.0


@dataclass(frozen=True)
class UsualEdit:
    """Steps (the paper's 100 are of another sampler), the scale of the text, and below which change the picture's own
    pixels stay (0: nowhere)."""

    steps: int = 20
    guidance_scale: float = 7.5
    change_threshold: float = 0.0


PAPER = UsualEdit()


def read_usual(folder: Path) -> UsualEdit:
    """What `CALL` in a model's `folder` says. Raises: BowerbirdError where that is none."""
    call = written_call(folder, UsualCall(PAPER.steps, PAPER.guidance_scale, "guidance_scale"))
    said = files.read_json(folder / CALL, "note on how a model edits") if (folder / CALL).is_file() else {}
    least = said.get("change_threshold", PAPER.change_threshold)
    if type(least) not in (int, float) or not 0 <= least <= MOST:
        raise BowerbirdError(f"{folder / CALL}: change_threshold is a number from 0 to {MOST:g}; correct it")
    return UsualEdit(call.steps, call.guidance_scale, float(least))


def write_usual(usual: UsualEdit, folder: Path) -> None:
    """Say so in `folder`."""
    said = {"num_inference_steps": usual.steps, "guidance_scale": usual.guidance_scale}
    files.write_json(folder / CALL, {**said, "change_threshold": usual.change_threshold})
