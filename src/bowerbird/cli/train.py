"""`bowerbird train`: run a recipe; the same command goes on where a cut run stopped."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SystemOption,
    print_json,
    progress_bar,
    say,
    say_source,
    show_progress,
)
from bowerbird.cli.filling import CaptionOption
from bowerbird.core.errors import BowerbirdError, Terminated
from bowerbird.core.tensors import pick_device

if TYPE_CHECKING:
    from bowerbird.data.pictures import Pictures
    from bowerbird.training.recipe import Recipe
    from bowerbird.training.sweep import Run

GUIDANCE = "guidance_scale"
"""The setting of sampling that a sweep takes beside those of a recipe."""


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, file.py:function, or a recipe.json.")],
    data: Annotated[str | None, typer.Option(help="SOURCE to train on: a folder, a parquet file, emoji-font.")] = None,
    kb: Annotated[
        str | None, typer.Option(help="Train on the pictures of this knowledge base instead of --data.")
    ] = None,
    caption_column: CaptionOption = None,
    base: Annotated[
        str | None,
        typer.Option("--base", "--model", help="Base model to train from; short for --set system.base=…."),
    ] = None,
    subject: Annotated[
        Path | None,
        typer.Option("--subject", metavar="DIR", help="dreambooth: the subject's pictures; the same as --data."),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="dreambooth: class of the subject, e.g. toy.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting of the recipe, e.g. train.steps=1000; repeatable."),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Smoke test: the recipe's tiny form, which takes seconds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe, and what of it is absent, and exit.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder of the run; default runs/NAME.")] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="key=value,value: one run per value; guidance_scale=1,3: one run, evaluated at each."),
    ] = None,
    system: SystemOption = None,
    report_to: Annotated[
        list[str] | None, typer.Option("--report-to", help="Experiment tracker: tensorboard or wandb; repeatable.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="ID", help="Push the trained model to this hub repository, privately."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Override the recipe's seed.", min=0)] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int,
        typer.Option(help="Data loading processes, for a GPU; batches do not depend on it.", min=0, max=256),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on your pictures.

    Run the same command again to resume.

    Example: bowerbird train tiny-rdm --data pictures/ --set train.steps=2000 --out runs/mine
    """
    from bowerbird.training import sweep as sweeps
    from bowerbird.training.data import fit_to_columns
    from bowerbird.training.recipe import given_keys
    from bowerbird.training.recipes import NAMES, absent_networks, open_recipe
    from bowerbird.training.run import check_run
    from bowerbird.training.trackers import check_trackers

    named = {"base": base, "class_name": class_name}
    settings = [
        *(f"system.{key}={json.dumps(value)}" for key, value in named.items() if value is not None),
        *(settings or []),
    ]
    if subject is not None:
        if data is not None or kb is not None:
            raise BowerbirdError("train: --subject is what is trained on; leave --data and --kb out")
        data = str(subject)
    settings = [*settings, *([f"train.seed={seed}"] if seed is not None else [])]
    chosen = _at_the_edge_of_its_base(open_recipe(recipe, tiny=tiny, settings=settings), given_keys(settings))
    missing = absent_networks(chosen)
    if dry_run:
        print_json(chosen.model_dump(mode="json"))
        for line in missing:
            say(line)
        return
    if (data is None) == (kb is None):
        raise BowerbirdError("train: give --data SOURCE or --kb KB, one of them")
    if missing:
        raise BowerbirdError(missing[0])
    out = out or Path("runs") / chosen.name
    key, values = ("", [""]) if sweep is None else sweeps.parse(sweep)
    scales = _scales(values) if key == GUIDANCE else []
    if push_to_hub is not None and sweep is not None:
        raise BowerbirdError("train: a sweep makes several models; leave --push-to-hub out, and publish one of them")
    check_trackers(report_to or [])
    # a recipe of one's own was written for its data; of ours, what names columns is a default
    given = given_keys(settings) if recipe in NAMES else ["system", "where"]

    def runs_of(each: Recipe) -> list[Run]:
        return [sweeps.Run("", each, out)] if not key or scales else sweeps.runs(each, key, values, out)

    for run in runs_of(chosen):
        check_run(run.recipe, run.out, compared=lambda each: fit_to_columns(each, None, given)[0])
    options = _Options(pick_device(device), tuple(report_to or ()), str(data or kb), as_json, workers)
    if push_to_hub is not None:
        from bowerbird.systems import hub

        if _is_first():
            hub.reserve(push_to_hub)
    if caption_column is not None and kb is not None:
        raise BowerbirdError("train: `caption_column` is of --data; a knowledge base has its captions already")
    columns, read = _source(data, kb, chosen, caption_column)
    chosen, absent = fit_to_columns(chosen, columns, given)
    if absent and _is_first():
        say(f"{chosen.name}: this data has no {', '.join(absent)}, so what the recipe would do by it is left out")
    pictures, runs = read(chosen), runs_of(chosen)
    if _is_first() and subject is None:  # whose pictures need no captions, and what is left out of them is an error
        _say_left_out(pictures)
    for run in runs:
        check_run(run.recipe, run.out)
        if run.recipe.system.kind == "reranker":
            _collect(run, kb, pictures, options)
    results = [_run(run, pictures, options) for run in runs]
    if push_to_hub is not None and _is_first():
        say(f"published: {hub.publish(out / 'model', push_to_hub)}")
        results[0]["hub"] = push_to_hub
    if not _is_first():
        return
    if not key:
        if as_json:
            print_json(results[0])
            return
        if found := results[0].get("held_out"):
            say(_of_reranker(found))
        say(f"done: {out / 'model'}" + (f"; sheets in {out / 'sheets'}" if (out / "sheets").is_dir() else ""))
        return
    rows = [sweeps.row(key, run) for run in runs] if not scales else _measure(out, kb, data, pictures, scales, options)
    table = sweeps.write_table(out, rows)
    if as_json:
        print_json({"sweep": key, "rows": rows, "table": str(table)})
        return
    say("\t".join(rows[0]))
    for row in rows:
        say("\t".join("" if value is None else str(value) for value in row.values()))
    say(f"done: {table}")


@dataclass(frozen=True)
class _Options:
    """What all runs of a command share."""

    device: str
    report_to: tuple[str, ...]
    source: str
    as_json: bool
    workers: int


def _is_first() -> bool:
    """Whether this process is the one of a `torchrun` that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _run(run: Run, pictures: Pictures, options: _Options) -> dict[str, Any]:
    """Train one recipe to its end: a bar on a terminal, else a line a step."""
    from bowerbird.core.quiet import quiet_libraries
    from bowerbird.training.data import held_out_rows
    from bowerbird.training.losses import StepReport
    from bowerbird.training.run import train_recipe

    quiet_libraries()
    recipe, out, first = run.recipe, run.out, _is_first()
    trained, held = held_out_rows(recipe, pictures)
    steps = train_recipe(
        recipe,
        pictures,
        out,
        device=options.device,
        workers=options.workers,
        report_to=options.report_to,
        source=options.source,
        command=_command(),
    )
    if first:
        if len(trained) < len(pictures):
            say(f"{recipe.name}: {len(trained)} pictures to train on, {len(held)} held out for the validation loss")
        say(f"{recipe.name}: {len(pictures)} pictures, {recipe.train.steps} steps of {_batch(recipe)}, into {out}")
    done: StepReport | None = None
    with progress_bar(quiet=options.as_json or not first) as bar:
        task = bar.add_task("training", total=recipe.train.steps)
        try:
            for done in steps:
                line = f"loss {done.loss:.4f}"
                if done.validation_loss is not None:
                    line += f", validation loss {done.validation_loss:.4f}"
                bar.update(task, completed=done.step, description=line)
                if bar.disable and first:
                    rate = f"learning rate {done.learning_rate:.3g}"
                    say(f"step {done.step} of {recipe.train.steps}, {line}, {rate}, {done.seconds:.2f} s")
                if done.stopped is not None and first:
                    say(f"stopped at step {done.step}: {done.stopped}; the checkpoint before is kept as the model")
        except (KeyboardInterrupt, Terminated) as error:
            error.add_note(f"{out}: the last checkpoint is kept, and the same command goes on from there")
            raise
    return {
        "recipe": recipe.name,
        "steps": recipe.train.steps,
        "loss": done.loss if done else None,
        "stopped": done.stopped if done else None,
        "out": str(out / "model"),
        "source": pictures.source.facts(),
        **_measured(recipe, out / "model"),
    }


def _collect(run: Run, kb: str | None, pictures: Pictures, options: _Options) -> None:
    """Generate from the candidates of searches, and judge, for a reranker to learn from. Raises: BowerbirdError where
    there is no knowledge base to search."""
    from bowerbird.cli.common import open_model
    from bowerbird.evaluation.neighbor_labels import collect_labels
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.training.objectives.reranker import RerankerConfig

    if kb is None:
        raise BowerbirdError("train: a reranker learns from searches; give --kb KB in place of --data")
    assert isinstance(run.recipe.system, RerankerConfig)
    pipe = open_model(run.recipe.system.base, options.device)
    with show_progress("collecting", options.as_json) as progress:
        collect_labels(run.recipe, KnowledgeBase.open(kb), pipe, pictures, run.out, progress=progress)


def _measured(recipe: Recipe, model: Path) -> dict[str, Any]:
    """What a reranker does for searches that it was not trained on."""
    from bowerbird.core import files

    if recipe.system.kind != "reranker":
        return {}
    return {"held_out": files.read_json(model / "config.json", "reranker")["held_out"]}


def _of_reranker(found: dict[str, float]) -> str:
    better = found["reranked"] > found["search"]
    return (
        f"{found['queries']} searches it was not trained on, pictures of the first neighbor that the judge names"
        f" rightly: {found['search']:.0%} as the search has it, {found['reranked']:.0%} re-ranked, {found['best']:.0%}"
        f" from the best candidate{'' if better else '; it does not help here'}"
    )


def _batch(recipe: Recipe) -> str:
    times = recipe.train.gradient_accumulation
    return f"{recipe.train.batch_size}{f' x {times}' if times > 1 else ''}"


def _command() -> str:
    """How this run was started; of paths the last part, as the rest is this machine's business."""
    from bowerbird.core.files import last_part

    def short(word: str) -> str:
        key, equals, value = word.partition("=")
        if equals and "/" in value:
            return f"{key}={short(value)}"
        return last_part(word) if Path(word).exists() or word.startswith(("/", "~", ".")) else word

    return shlex.join(["bowerbird", *map(short, sys.argv[1:])])


def _say_left_out(pictures: Pictures) -> None:
    say_source(pictures.source)
    for line in pictures.left_out[:20]:
        say(f"left out: {line}")
    if pictures.left_out:
        say(f"{len(pictures.left_out)} of {len(pictures) + len(pictures.left_out)} items were left out")


def _source(
    data: str | None, kb: str | None, recipe: Recipe, caption_column: str | None
) -> tuple[Collection[str], Callable[[Recipe], Pictures]]:
    """The columns of what is trained on, and what gives the pictures that a recipe, fitted to them, takes of it."""
    from bowerbird.data.pictures import load_pictures, pictures_of

    if kb is not None:
        from bowerbird.knowledge.base import KnowledgeBase

        base = KnowledgeBase.open(kb)
        return base.info()["metadata"], lambda r: pictures_of(base, size=r.size, where=r.where, limit=r.limit)
    limit = None if recipe.where else recipe.limit
    everything = load_pictures(
        str(data), size=recipe.size, limit=limit, transparency=recipe.transparency, caption_column=caption_column
    )
    return everything.columns, lambda r: everything.filter(r.where, r.limit)


def _at_the_edge_of_its_base(recipe: Recipe, given: Collection[str]) -> Recipe:
    """A subject's pictures are read at the edge of its base, unless another is given."""
    from bowerbird.models.weights import bundled
    from bowerbird.systems.grounded.bases import edge_of_folder

    base = getattr(recipe.system, "base", None)
    if recipe.system.kind != "dreambooth" or base is None or "size" in given:
        return recipe
    edge = edge_of_folder(bundled(base) or Path(base))
    return recipe if edge is None else recipe.model_copy(update={"size": edge})


def _scales(values: list[str]) -> list[float]:
    try:
        found = [float(value) for value in values]
    except ValueError:
        found = []
    if not found or not all(0 <= scale <= 100 for scale in found):
        raise BowerbirdError(f"--sweep {GUIDANCE}={','.join(values)}: give numbers from 0 to 100, for example 1,3")
    return found


def _measure(
    out: Path, kb: str | None, data: str | None, pictures: Pictures, scales: list[float], options: _Options
) -> list[dict[str, Any]]:
    """The trained model of a run at several guidance scales, with the knowledge base it was trained from, or one that
    is made of the data in the run's folder."""
    from bowerbird import encoders
    from bowerbird.cli.common import open_model
    from bowerbird.evaluation.guidance_sweep import measure
    from bowerbird.knowledge.base import KnowledgeBase

    pipe = open_model(str(out / "model"), options.device)
    if kb is not None:
        base = KnowledgeBase.open(kb)
    elif (out / "kb").is_dir():
        base = KnowledgeBase.open(out / "kb")
    else:
        name, fingerprint = (getattr(pipe.config, f"encoder_{each}", "") for each in ("name", "fingerprint"))
        encoder = encoders.load_recorded(name, fingerprint) if name else encoders.load("small")
        base, _ = KnowledgeBase.build(out / "kb", str(data), encoder=encoder)
    with show_progress("measuring", options.as_json) as progress:
        return measure(pipe, base, pictures, scales, progress=progress)
