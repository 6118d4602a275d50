"""The `bowerbird` command: gathers the verbs and turns exceptions into exit codes (2 bad input, 130 interrupted, 143
terminated)."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from bowerbird.cli import (
    browse,
    bulk,
    caption,
    changes,
    datasets,
    demo,
    duplicates,
    edit,
    evaluate,
    export,
    generate,
    imports,
    inspect,
    kb,
    models,
    once,
    reproduce,
    search,
    serve,
    sync,
    train,
)
from bowerbird.cli.common import say, with_flags
from bowerbird.cli.sections import SectionedCommand
from bowerbird.core import lazy_imports
from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError, Terminated

# typer carries a click of its own in newer versions, so the class is taken from what typer itself exports
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="bowerbird",
    help=(
        "Collect pictures, search them, and generate new ones grounded in what was found.\n\nStart with: bowerbird demo"
        " --out demo"
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
for verb in (sync.sync, changes.remove, changes.update, changes.credit, changes.restore, changes.compact):
    kb.app.command(verb.__name__)(verb)
kb.app.command("list")(browse.list_items)
kb.app.command("show")(browse.show)
kb.app.command("sheet")(browse.sheet)
kb.app.command("duplicates")(duplicates.duplicates)
kb.app.command("neighbors")(bulk.neighbors)
kb.app.command("embed")(bulk.embed)
app.add_typer(kb.app, name="kb")
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("train")(train.train)
app.command("generate", cls=SectionedCommand)(generate.generate)
app.command("edit")(edit.edit)
app.command("caption")(caption.caption)
app.command("inspect")(inspect.inspect)
app.command("evaluate")(evaluate.evaluate)
app.command("check-copies")(evaluate.check_copies)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(datasets.app, name="datasets")
app.add_typer(imports.app, name="import")
app.command("export")(export.export)
app.command("models")(models.models)
app.command("doctor")(models.doctor)

once.refuse_repeated(app)


def start_lightly() -> None:
    """Settings of this process that make a short command cheap; whoever set them otherwise in the environment keeps
    that."""
    lazy_imports.install()
    gc.set_threshold(50_000, 20, 50)  # imports make objects that stay; looking through them again and again is in vain
    atexit.register(gc.freeze)  # and a last time, a second long, when the process ends
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for work spin otherwise, beside the search


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM (docker, timeout, batch systems) end the work where it is; a second one ends the process."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    # what started this process in the background may have set it to heed none
    heeded = [number for number in numbers if before[number] != signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, stop)
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def main() -> None:
    """Run the command line and leave with its exit code."""
    start_lightly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal has no character for is written as \u72d0
            stream.reconfigure(errors="backslashreplace")
    try:
        with _signals():
            code = app(standalone_mode=False)
            sys.stdout.flush()  # what a full disk refuses of it is said below
    except BowerbirdError as error:
        say(f"bowerbird: {with_flags(str(error))}")
        code = 2
    except typer.Exit as error:
        code = error.exit_code
    except UsageError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            sys.exit(0)
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "bowerbird"
        say(f"bowerbird: {message}; see {command} --help")
        code = 2
    except (KeyboardInterrupt, Terminated, typer.Abort) as error:
        number = getattr(error, "signal", signal.SIGINT)
        kept = getattr(error, "__notes__", ["nothing half-written was left"])[-1]
        say(f"bowerbird: {'interrupted' if number == signal.SIGINT else 'terminated'}; {kept}")
        code = 128 + number
    except BrokenPipeError:
        code = 0
    except Exception as error:
        line = _disk_line(error)
        if line is None:
            raise
        say(f"bowerbird: {line}")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _disk_line(error: Exception) -> str | None:
    """What the system refused, with the place; None for an error that is not the system's."""
    number = disk_code(error)
    if not isinstance(error, OSError):
        return None if number is None else f"{os.strerror(number)} (said by {type(error).__module__.split('.')[0]})"
    reason = error.strerror if number is None else os.strerror(number)
    place = error.filename2 or error.filename  # of a rename the place it was meant for
    if isinstance(place, (str, bytes)):
        return f"{os.fsdecode(place)}: {reason}; give another path, or see to this one"
    return None if number is None else f"{reason}, for what was being written; free some space and run this again"
