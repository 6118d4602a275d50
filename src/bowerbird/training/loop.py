"""The one training loop: a generator that yields after every optimizer step; whoever calls it owns progress and
stopping.

Everything random in a step comes from (seed, step, rank), so a run that was cut and started again with the same command
goes on exactly where its last checkpoint was. Knows nothing of what it trains: an `Objective` makes a batch, scores
it, exports; a `Preview` shows it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bowerbird.core import files
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.half_precision import has_fast_bfloat16
from bowerbird.core.processes import in_processes
from bowerbird.training import trackers
from bowerbird.training.checkpoint import CHECKPOINT, State, load_checkpoint, save_checkpoint
from bowerbird.training.config import TrainConfig
from bowerbird.training.losses import StepReport, loss_log
from bowerbird.training.schedule import learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from bowerbird.systems.objective import Objective, Preview
    from bowerbird.training.validation import Validation

MadeT = TypeVar("MadeT")


def train(
    objective: Objective[Any],
    config: TrainConfig,
    out: str | Path,
    *,
    device: str = "auto",
    preview: Preview[Any] | None = None,
    validation: Validation | None = None,
    report_to: Sequence[str] = (),
    on_export: Callable[[Path], None] | None = None,
    spent: Callable[[], float] | None = None,
    workers: int = 0,
) -> Iterator[StepReport]:
    """Train `objective` and write `out/model` from the averaged weights.

    The checkpoint is `out/checkpoint.safetensors`, each step a line of `out/losses.csv`, the sheets that `preview`
    draws (None: no sheets) go to `out/sheets`; `keep_steps` exports averaged weights on the way to `out/model-<step>`.
    Starting again with the same `out` resumes. Under `torchrun` every process samples its own batches.

    `validation`: measured with the averaged weights every `validate_every` steps and at the end. `report_to`: names of
    accelerate's trackers, whose files go to `out/logs`. `on_export`: called with every folder that a model was written
    to, before the folder takes its place. `spent`: the share of the time allowed that is over; where it is given, the
    learning rate follows it as if `config.steps` filled that time, and 1 is the end. `workers`: processes that make
    batches ahead, for a GPU that one thread cannot feed; 0 for a thread of this process. The batches are the same
    either way. Raises: BowerbirdError when the loss is not finite, memory does not suffice, or training would only do
    harm.
    """
    from accelerate import Accelerator

    out = Path(out)
    accelerator = Accelerator(cpu=device == "cpu", log_with=list(report_to) or None, project_dir=str(out / "logs"))
    model, state = _prepare(objective, config, accelerator)
    saved = out / CHECKPOINT
    done = load_checkpoint(saved, state) if saved.is_file() else 0
    times, main = config.gradient_accumulation, accelerator.is_main_process
    loss_of = partial(_loss, accelerator, config)

    def export(target: Path) -> None:
        objective.export(target)
        if on_export is not None:
            on_export(target)

    def validated(finished: int, last: bool) -> float | None:
        if not main or validation is None or (finished % config.validate_every and not last):
            return None
        with state.averaged():
            return validation.loss(objective, config.batch_size, loss_of)

    with ExitStack() as open_files:
        note = open_files.enter_context(loss_log(out, done)) if main else None
        if report_to:
            trackers.start(accelerator, config, out)
            open_files.callback(accelerator.end_training)
        for step, batches in prefetch(
            lambda step: [
                objective.batch(number, config.batch_size, accelerator.process_index)
                for number in range(step * times, (step + 1) * times)
            ],
            done,
            config.steps if spent is None else sys.maxsize,
            workers,
        ):
            started = time.perf_counter()
            rate = learning_rate(config, step if spent is None else min(config.steps - 1, int(spent() * config.steps)))
            value = _optimize(accelerator, model, state, config, batches, rate)
            finished = step + 1
            if not math.isfinite(value):
                raise BowerbirdError(
                    f"the loss became {value} at step {finished}; lower learning_rate and start again in another --out"
                )
            seconds = time.perf_counter() - started
            last = finished == config.steps if spent is None else spent() >= 1
            fault = None
            if finished % config.save_every == 0 or last:
                # every process has the same weights, so all of them stop
                with state.averaged():
                    objective.eval()
                    fault = objective.fault()
                    objective.train()
            if fault is not None and not saved.is_file():
                raise BowerbirdError(
                    f"{fault} by step {finished}, before the first checkpoint; lower train.learning_rate or"
                    " train.save_every, and start again in another folder"
                )
            report = StepReport(finished, value, rate, seconds, validated(finished, last), fault)
            if note is not None:
                note(report)  # before the checkpoint: what a kill leaves without one is done again
            if fault is not None:
                load_checkpoint(saved, state)
            elif note is not None:
                _keep(state, config, out, finished, preview, export, last=last)
            if report_to:
                trackers.report(accelerator, report)
            yield report
            if last or fault is not None:
                break
    if main:
        with state.averaged():
            objective.eval()
            with files.atomic_directory(out / "model") as target:
                export(target)


def _prepare(objective: Objective[Any], config: TrainConfig, accelerator: Accelerator) -> tuple[Any, State]:
    """The objective as the accelerator runs it, and what is trained of it, on its device."""
    import torch
    from diffusers.training_utils import EMAModel

    objective.train()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    # decay = min(decay, (1+n)/(10+n)), as in the RDM release
    ema = EMAModel(parameters, decay=config.ema_decay, foreach=True)
    if config.compile:
        for network in objective.children():
            network.compile()
    model, optimizer = accelerator.prepare(objective, optimizer)
    ema.to(accelerator.device)
    return model, State(objective, parameters, optimizer, ema)


def _loss(accelerator: Accelerator, config: TrainConfig, scored: Any, batch: Any) -> Tensor:
    import torch

    kind = accelerator.device.type
    half = config.precision == "bf16" or (config.precision == "auto" and has_fast_bfloat16(kind))
    # torch's own autocast: accelerate's precision is fixed once a process, and a process may run several recipes
    with torch.autocast(kind, torch.bfloat16, enabled=half):
        loss: Tensor = scored(to_device(batch, accelerator.device))
    return loss


def _gradients(accelerator: Accelerator, model: Any, config: TrainConfig, batches: Sequence[Any]) -> float:
    """Leave the gradients of all batches with the parameters; their mean loss."""
    import torch

    losses, times = [], config.gradient_accumulation
    for number, batch in enumerate(batches):
        last = number == times - 1
        with nullcontext() if last else accelerator.no_sync(model):
            loss = _loss(accelerator, config, model, batch)
            accelerator.backward(loss if times == 1 else loss / times)
        losses.append(loss.detach())
    # the one place in a step where a GPU is waited for
    return float(losses[0] if times == 1 else torch.stack(losses).mean())


def _optimize(
    accelerator: Accelerator, model: Any, state: State, config: TrainConfig, batches: Sequence[Any], rate: float
) -> float:
    """One step of the optimizer at a learning rate; its loss. Raises: BowerbirdError where memory does not suffice."""
    import torch

    for group in state.optimizer.param_groups:
        group["lr"] = rate
    try:
        value = _gradients(accelerator, model, config, batches)
        accelerator.clip_grad_norm_(state.parameters, config.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.ema.step(state.parameters)
    except torch.OutOfMemoryError as error:
        raise BowerbirdError(
            f"{accelerator.device}: out of memory with batches of {config.batch_size}; lower train.batch_size,"
            " and raise train.gradient_accumulation as much, in another folder"
        ) from error
    return value


def prefetch(make: Callable[[int], MadeT], first: int, end: int, workers: int = 0) -> Iterator[tuple[int, MadeT]]:
    """(step, what is made for it) from `first` to before `end`, made while a step computes: the next one in a thread,
    or several in so many processes. What is made depends on the number alone."""
    if workers:
        yield from zip(range(first, end), in_processes(make, range(first, end), workers), strict=True)
        return
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
    state: State,
    config: TrainConfig,
    out: Path,
    step: int,
    preview: Preview[Any] | None,
    export: Callable[[Path], None],
    *,
    last: bool,
) -> None:
    """Checkpoint, sheet and side export, where `step` asks for one or is the last."""
    if step % config.save_every == 0 or last:
        save_checkpoint(out / CHECKPOINT, state, step)
    shown = preview is not None and (step % config.sheet_every == 0 or last or step in config.keep_steps)
    if not shown and step not in config.keep_steps:
        return
    with state.averaged():
        state.objective.eval()
        if preview is not None and shown:
            (out / "sheets").mkdir(parents=True, exist_ok=True)
            sheet = out / "sheets" / f"{step:06d}.png"
            with disk_errors(sheet):
                preview(state.objective, sheet)
        if step in config.keep_steps:
            with files.atomic_directory(out / f"model-{step}") as target:
                export(target)
        state.objective.train()
