"""What the verbs share: options, devices, progress on stderr, JSON on stdout."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import pick_device
from bowerbird.core.text import printable, shorten, to_json

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID

    from bowerbird.core.progress import Progress
    from bowerbird.data.report import SourceReport
    from bowerbird.systems.base import System
    from bowerbird.systems.content_credentials import Signer
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.reference_settings import Adapter

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout; progress goes to stderr.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Random seed; picture i uses seed + i.", min=0, max=2**64 - 1)]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


def _register_system(place: str | None) -> str | None:
    """Make a system known before its verb begins."""
    if place is not None:
        from bowerbird.systems import registry

        registry.register_named(place)
    return place


SignCertOption = Annotated[
    Path | None,
    typer.Option(
        "--sign-cert",
        metavar="CERT.pem",
        help="Sign each picture with C2PA: a certificate chain, your own certificate first.",
    ),
]
SignKeyOption = Annotated[
    Path | None, typer.Option("--sign-key", metavar="KEY.pem", help="Private key for --sign-cert.")
]


def load_signer(certificate: Path | None, key: Path | None) -> Signer | None:
    """What signs pictures, None where it is not asked for."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BowerbirdError("--sign-cert CERT.pem and --sign-key KEY.pem go together; give both")
    from bowerbird.systems import content_credentials

    return content_credentials.load_signer(certificate, key)


SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system",
        metavar="MODULE:NAME",
        help="Your own system: its Registration or its pipeline class.",
        callback=_register_system,
    ),
]


def others_given(context: typer.Context, beside: Collection[str]) -> list[str]:
    """The flags that were given and are of no parameter of `beside`."""
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name not in beside
        and getattr(context.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    ]


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout, in one line with `indent=None`."""
    text = to_json(document, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal of another encoding: escaped, the same document
        text = json.dumps(json.loads(text), indent=indent)
    sys.stdout.write(text + "\n")


def print_line(text: str) -> None:
    """A line of the result, on stdout. Captions and names in it are strangers': nothing in them acts on a terminal or
    begins a line of its own."""
    print(printable(text))


def say(text: str) -> None:
    """A line for a person, on stderr, so that stdout stays the result's; as harmless as `print_line`, and no longer
    than one can read."""
    print(shorten(text, 2_000), file=sys.stderr)


def say_source(report: SourceReport) -> None:
    """What reading a source passed over, a line for each kind."""
    for line in report.lines():
        say(f"source: {line}")


FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "adapter",
        "allow_no_neighbors",
        "alpha",
        "best_of",
        "bm25_weights",
        "caption",
        "caption_column",
        "caption_encoder",
        "cover",
        "credit",
        "dedup",
        "device",
        "delete_missing",
        "diversity",
        "encoder",
        "engine",
        "exclude_key",
        "fetch_urls",
        "fit",
        "guidance",
        "guidance_interval",
        "guidance_scale",
        "ids",
        "image",
        "image_encoder",
        "language",
        "kb",
        "keep",
        "key",
        "kinds",
        "layers",
        "lora",
        "mask",
        "max_pixels",
        "max_similarity",
        "memory",
        "min_score",
        "metrics",
        "mode",
        "negative_prompt",
        "neighbor_scale",
        "offload",
        "packages",
        "private_urls",
        "patches",
        "pool",
        "preservation",
        "prompt",
        "proposal",
        "reference",
        "rerank",
        "root_path",
        "sampler",
        "registry",
        "scale",
        "search_mode",
        "steps_from",
        "styles",
        "steps_to",
        "temperature",
        "text_mode",
        "text_ratio",
        "text_scale",
        "tokens",
        "top_k",
        "top_p",
        "min_p",
        "patch_weight",
        "patch_neighbors",
        "patch_temperature",
        "unconditional",
        "where",
        "workers",
        "structure",
        "phrases",
        "max_passes",
        "critic",
    )
} | {"class_name": "--class", "filter_fn": "--filter", "form": "--format", "k": "-k", "metadata": "--set"}
"""The flag of a parameter of the library, for errors: those name parameters, as a Python user has no flags."""


def with_flags(message: str) -> str:
    """An error of the library in the words of the command line: `` `where` `` becomes --where, and `` `mode=dense` ``
    --mode dense. A name that is no parameter of a command stays as it is."""

    def flag(found: re.Match[str]) -> str:
        name, value = FLAGS.get(found[1]), found[2]
        return found[0] if name is None else name if value is None else f"{name} {value}"

    return re.sub(r"`([a-z_0-9]+)(?:=([^`]*))?`", flag, message)


def bar_progress(bar: ProgressBar, description: str) -> Progress:
    """A `Progress` that moves `bar`: a line for each stage, the one without a name called `description`."""
    tasks: dict[str, TaskID] = {}

    def progress(done: int, total: int | None = None, stage: str = "") -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage or description, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    return progress


@contextmanager
def show_progress(description: str, quiet: bool = False, total: int | None = None) -> Iterator[Progress]:
    """A `Progress` for one piece of work, shown on stderr as `progress_bar` is; `total` where it is known before."""
    with progress_bar(quiet) as bar:
        progress = bar_progress(bar, description)
        if not quiet:
            progress(0, total)
        yield progress


LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[ProgressBar]:
    """A rich progress bar on stderr; where that is no terminal, a line a minute, and nothing when `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Lines(Progress):
        """For logs."""

        last = time.monotonic()

        def update(self, task_id: TaskID, **changes: Any) -> None:
            super().update(task_id, **changes)
            if time.monotonic() - self.last >= LINE_EVERY:
                self.last = time.monotonic()
                task = next(task for task in self.tasks if task.id == task_id)
                of = "" if task.total is None else f" of {task.total:,.0f}"
                say(f"{task.description}: {task.completed:,.0f}{of}")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal or quiet
    with Progress(*columns, console=console, disable=quiet) if shown else Lines(disable=True) as bar:
        yield bar


def numbers(text: str | None, option: str) -> list[float]:
    """The numbers in a text such as "2,1"; none where there is no text. Raises: BowerbirdError for anything else."""
    if text is None:
        return []
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise BowerbirdError(f"{option} {text!r}: write numbers with commas between, e.g. 2,1")
    return found


def open_model(model: str, device: str, dtype: str = "float32", adapter: Adapter | None = None) -> System:
    """`load_pipeline` for the command line: on the device asked for, and without notices of other libraries."""
    from bowerbird.core.quiet import quiet_libraries
    from bowerbird.systems.loading import load_pipeline

    quiet_libraries()
    pipe = load_pipeline(model, pick_device(device), dtype, adapter)
    for lora in cast("ReferencePipeline", pipe).loras if adapter is not None and adapter.loras else ():
        say(lora.line())
    return pipe
