"""What is trained, and its checkpoint: weights, averaged weights and the optimizer's state in one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel
    from torch import Tensor
    from torch.nn import Parameter

    from bowerbird.systems.objective import Objective

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class State:
    """An objective with its trained `parameters`, their averages `ema`, and their optimizer."""

    objective: Objective[Any]
    parameters: list[Parameter]
    optimizer: Any
    ema: EMAModel

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A block in which the parameters hold the averaged weights; the trained ones come back at its end."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)


def save_checkpoint(path: Path, state: State, step: int) -> None:
    """Weights, averaged weights, optimizer state and progress in one safetensors file, which replaces the old one at
    once."""
    names = [name for name, p in state.objective.named_parameters() if p.requires_grad]
    tensors = {f"model.{n}": p for n, p in state.objective.named_parameters() if p.requires_grad}
    tensors |= {f"ema.{n}": p for n, p in zip(names, state.ema.shadow_params, strict=True)}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{key}": value for key, value in moments.items()}
    files.save_tensors(path, tensors, {"step": str(step), "ema_step": str(state.ema.optimization_step)})


def load_checkpoint(path: Path, state: State) -> int:
    """Put a checkpoint's state into place and return how many steps it holds.

    Raises: BowerbirdError when it was made by another recipe, or is damaged.
    """
    tensors = files.load_tensors(path)
    progress = files.read_tensor_metadata(path)
    named = {name: p for name, p in state.objective.named_parameters() if p.requires_grad}
    shapes = {f"model.{name}": p.shape for name, p in named.items()}
    if {k: t.shape for k, t in tensors.items() if k.startswith("model.")} != shapes:
        raise BowerbirdError(
            f"{path}: this checkpoint is of another recipe; give another --out, or remove it to start again"
        )
    moments: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(named.items()):
        parameter.data.copy_(tensors[f"model.{name}"])
        state.ema.shadow_params[index].copy_(tensors[f"ema.{name}"])
        prefix = f"optimizer.{name}."
        entry = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if entry:
            moments[index] = entry
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.ema.optimization_step = int(progress["ema_step"])
    return int(progress["step"])
