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
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bowerbird.core import files
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.processes import in_processes
from bowerbird.training import trackers
from bowerbird.training.config import TrainConfig
from bowerbird.training.losses import StepReport, loss_log
from bowerbird.training.schedule import learning_rate

if TYPE_CHECKING:
    import torch
    from diffusers.training_utils import EMAModel
    from torch import Tensor
    from torch.nn import Parameter

    from bowerbird.systems.objective import Objective, Preview
    from bowerbird.training.validation import Validation

MadeT = TypeVar("MadeT")


CHECKPOINT = "checkpoint.safetensors"


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
    draws (None: no sheets) go to `out/sheets`; `keep_steps` exports averaged weights on the way to
    `out/model-<step>`. Starting again with the same `out` resumes. Under `torchrun` every process samples its own
    batches.

    `validation`: measured with the averaged weights every `validate_every` steps and at the end. `report_to`: names of
    accelerate's trackers, whose files go to `out/logs`. `on_export`: called with every folder that a model was
    written to, before the folder takes its place. `spent`: the share of the time allowed that is over; where it is
    given, the learning rate follows it as if `config.steps` filled that time, and 1 is the end. `workers`: processes
    that make batches ahead, for a GPU that one thread cannot feed; 0 for a thread of this process. The batches are the
    same either way.
    """
    import torch
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    out = Path(out)
    accelerator = Accelerator(cpu=device == "cpu", log_with=list(report_to) or None, project_dir=str(out / "logs"))
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
    times = config.gradient_accumulation
    main = accelerator.is_main_process

    def export(target: Path) -> None:
        objective.export(target)
        if on_export is not None:
            on_export(target)

    def loss_of(scored: Any, batch: Any) -> Tensor:
        # torch's own autocast: accelerate's precision is fixed once a process, and a process may run several recipes
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss: Tensor = scored(to_device(batch, accelerator.device))
        return loss

    def gradients(batches: Sequence[Any]) -> float:
        losses = []
        for number, batch in enumerate(batches):
            last = number == times - 1
            with nullcontext() if last else accelerator.no_sync(model):
                loss = loss_of(model, batch)
                accelerator.backward(loss if times == 1 else loss / times)
            losses.append(loss.detach())
        # the one place in a step where a GPU is waited for
        return float(losses[0] if times == 1 else torch.stack(losses).mean())

    def validated(finished: int, last: bool) -> float | None:
        if not main or validation is None or (finished % config.validate_every and not last):
            return None
        with ema_weights(ema, parameters):
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
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                value = gradients(batches)
                accelerator.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                ema.step(parameters)
            except torch.OutOfMemoryError as error:
                raise BowerbirdError(
                    f"{accelerator.device}: out of memory with batches of {config.batch_size}; lower train.batch_size,"
                    " and raise train.gradient_accumulation as much, in another folder"
                ) from error
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
                with ema_weights(ema, parameters):
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
                load_checkpoint(saved, objective, optimizer, ema)
            elif note is not None:
                _keep(objective, parameters, optimizer, ema, config, out, finished, preview, export, last=last)
            if report_to:
                trackers.report(accelerator, report)
            yield report
            if last or fault is not None:
                break
    if main:
        with ema_weights(ema, parameters):
            objective.eval()
            with files.atomic_directory(out / "model") as target:
                export(target)


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
    objective: Objective[Any],
    parameters: list[Parameter],
    optimizer: Any,
    ema: EMAModel,
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
                export(target)
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
