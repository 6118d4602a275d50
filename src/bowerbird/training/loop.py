"""The one training loop: a generator that yields after every optimizer step; whoever calls it owns progress and
stopping.

Everything random in a step comes from (seed, step, rank), so a run that was cut and started again with the same command
goes on exactly where its last checkpoint was. Knows nothing of what it trains: an `Objective` makes a batch, scores
it, exports; a `Preview` shows it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.core import files
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.settings import Amount, Share

if TYPE_CHECKING:
    import torch
    from diffusers.training_utils import EMAModel
    from torch import Tensor
    from torch.nn import Parameter

    from bowerbird.systems.objective import BatchT, Objective, Preview


CHECKPOINT = "checkpoint.safetensors"


class TrainConfig(BaseModel):
    """How long and how; one for every recipe. `batch_size` is per process, as in accelerate. `compile`: minutes at the
    start, for long runs on a GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    steps: Annotated[int, Field(ge=1, le=10**9)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    cooldown_fraction: Share = 0.0
    weight_decay: Amount = 0.01
    ema_decay: Share = 0.999
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["bf16", "no"] = "bf16"
    compile: bool = False
    save_every: Annotated[int, Field(ge=1)] = 500
    sheet_every: Annotated[int, Field(ge=1)] = 500
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0


@dataclass(frozen=True)
class StepReport:
    """One finished step: its number (from 1), the loss of this process's batch and the learning rate used."""

    step: int
    loss: float
    learning_rate: float


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, constant, then linear to zero over the last `cooldown_fraction` of the steps; `step` counts from
    0."""
    cooldown = max(1, round(config.steps * config.cooldown_fraction)) if config.cooldown_fraction else 0
    factor = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if cooldown and step >= config.steps - cooldown:
        factor = min(factor, (config.steps - step) / cooldown)
    return config.learning_rate * factor


def train(
    objective: Objective[Any],
    config: TrainConfig,
    out: str | Path,
    *,
    device: str = "auto",
    preview: Preview[Any] | None = None,
    spent: Callable[[], float] | None = None,
) -> Iterator[StepReport]:
    """Train `objective` and write `out/model` from the averaged weights.

    The checkpoint is `out/checkpoint.safetensors`, the sheets that `preview` draws (None: no sheets) go to
    `out/sheets`; `keep_steps` exports averaged weights on the way to `out/model-<step>`. Starting again with the same
    `out` resumes. Under `torchrun` every process samples its own batches. `spent`: the share of the time allowed that
    is over; where it is given, the learning rate follows it as if `config.steps` filled that time, and 1 is the end.
    """
    import torch
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    out = Path(out)
    accelerator = Accelerator(cpu=device == "cpu")
    objective.train()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    ema = EMAModel(
        parameters, decay=config.ema_decay, foreach=True
    )  # decay = min(decay, (1+n)/(10+n)), as in the RDM release
    if config.compile:
        for network in objective.children():
            network.compile()
    model, optimizer = accelerator.prepare(objective, optimizer)
    ema.to(accelerator.device)
    saved = out / CHECKPOINT
    done = load_checkpoint(saved, objective, optimizer, ema) if saved.is_file() else 0
    for step, batch in prefetch(
        lambda step: objective.batch(step, config.batch_size, accelerator.process_index),
        done,
        config.steps if spent is None else sys.maxsize,
    ):
        rate = learning_rate(config, step if spent is None else min(config.steps - 1, int(spent() * config.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # torch's own autocast: accelerate's precision is fixed once a process, and a process may run several recipes
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = model(to_device(batch, accelerator.device))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters)
        finished = step + 1
        value = float(loss.detach())  # the one place in a step where a GPU is waited for
        if not math.isfinite(value):
            raise BowerbirdError(
                f"the loss became {value} at step {finished}; lower learning_rate and start again in another --out"
            )
        last = finished == config.steps if spent is None else spent() >= 1
        if accelerator.is_main_process:
            _keep(objective, parameters, optimizer, ema, config, out, finished, preview, last=last)
        yield StepReport(finished, value, rate)
        if last:
            break
    if accelerator.is_main_process:
        with ema_weights(ema, parameters):
            objective.eval()
            with files.atomic_directory(out / "model") as target:
                objective.export(target)


def prefetch(make: Callable[[int], BatchT], first: int, end: int) -> Iterator[tuple[int, BatchT]]:
    """(step, its batch) from `first` to before `end`; the next batch is made while a step computes. A batch depends
    on its number alone."""
    with ThreadPoolExecutor(1, "batches") as executor:
        following = executor.submit(make, first) if first < end else None
        for step in range(first, end):
            assert following is not None
            batch = following.result()
            following = executor.submit(make, step + 1) if step + 1 < end else None
            yield step, batch


def to_device(batch: Any, device: Any) -> Any:
    """The same batch with its tensors, and what is made of tensors, on `device`."""
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}


def _keep(
    objective: Objective[Any],
    parameters: list[Parameter],
    optimizer: Any,
    ema: EMAModel,
    config: TrainConfig,
    out: Path,
    step: int,
    preview: Preview[Any] | None,
    *,
    last: bool,
) -> None:
    """Checkpoint, sheet and side export, where `step` asks for one or is the last."""
    if step % config.save_every == 0 or last:
        save_checkpoint(out / CHECKPOINT, objective, optimizer, ema, step)
    shown = preview is not None and (step % config.sheet_every == 0 or last or step in config.keep_steps)
    if not shown and step not in config.keep_steps:
        return
    with ema_weights(ema, parameters):
        objective.eval()
        if preview is not None and shown:
            (out / "sheets").mkdir(parents=True, exist_ok=True)
            sheet = out / "sheets" / f"{step:06d}.png"
            with disk_errors(sheet):
                preview(objective, sheet)
        if step in config.keep_steps:
            with files.atomic_directory(out / f"model-{step}") as target:
                objective.export(target)
        objective.train()


@contextmanager
def ema_weights(ema: EMAModel, parameters: list[Parameter]) -> Iterator[None]:
    """A block in which `parameters` hold the averaged weights; the trained ones come back at its end."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def save_checkpoint(path: Path, objective: torch.nn.Module, optimizer: Any, ema: EMAModel, step: int) -> None:
    """Weights, averaged weights, optimizer state and progress in one safetensors file, which replaces the old one at
    once."""
    names = [name for name, p in objective.named_parameters() if p.requires_grad]
    tensors = {f"model.{n}": p for n, p in objective.named_parameters() if p.requires_grad}
    tensors |= {f"ema.{n}": p for n, p in zip(names, ema.shadow_params, strict=True)}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{key}": value for key, value in state.items()}
    files.save_tensors(path, tensors, {"step": str(step), "ema_step": str(ema.optimization_step)})


def load_checkpoint(path: Path, objective: torch.nn.Module, optimizer: Any, ema: EMAModel) -> int:
    """Put a checkpoint's state into place and return how many steps it holds.

    Raises: BowerbirdError when it was made by another recipe, or is damaged.
    """
    tensors = files.load_tensors(path)
    progress = files.read_tensor_metadata(path)
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    shapes = {f"model.{name}": p.shape for name, p in named.items()}
    if {k: t.shape for k, t in tensors.items() if k.startswith("model.")} != shapes:
        raise BowerbirdError(
            f"{path}: this checkpoint is of another recipe; give another --out, or remove it to start again"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(named.items()):
        parameter.data.copy_(tensors[f"model.{name}"])
        ema.shadow_params[index].copy_(tensors[f"ema.{name}"])
        prefix = f"optimizer.{name}."
        entry = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if entry:
            state[index] = entry
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    ema.optimization_step = int(progress["ema_step"])
    return int(progress["step"])
