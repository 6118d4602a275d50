"""`bowerbird train`: run a recipe; the same command goes on where a cut run stopped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, pick_device, print_json, progress_bar, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.training.recipe import Recipe


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, file.py:function, or a recipe.json.")],
    data: Annotated[str | None, typer.Option(help="SOURCE to train on: a folder, a parquet file, emoji-font.")] = None,
    kb: Annotated[
        str | None, typer.Option(help="Train on the pictures of this knowledge base instead of --data.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe, e.g. train.steps=1000.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="The recipe's tiny form: seconds, to see that everything runs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(help="Over the recipe's seed.", min=0)] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on your pictures.

    Run the same command again to resume.

    Example: bowerbird train tiny-rdm --data pictures/ --set train.steps=2000 --out runs/mine
    """
    chosen = _recipe(recipe, tiny)
    from bowerbird.training.recipe import FILE, build_objective, load_recipe, read_pictures, with_settings

    if settings:
        chosen = with_settings(chosen, settings)
    if seed is not None:
        chosen = with_settings(chosen, [f"train.seed={seed}"])
    if dry_run:
        print_json(chosen.model_dump(mode="json"))
        return
    if (data is None) == (kb is None):
        raise BowerbirdError("train: give --data SOURCE or --kb KB, one of them")
    out = out or Path("runs") / chosen.name
    if (out / FILE).is_file() and load_recipe(out / FILE) != chosen:
        raise BowerbirdError(
            f"{out}: a run with other settings is there; give another --out, or run it with --set as in {out / FILE}"
        )
    from bowerbird.core import files
    from bowerbird.training.loop import train as run

    pictures = read_pictures(chosen, data) if data is not None else _from_kb(chosen, str(kb))
    say(f"{chosen.name}: {len(pictures)} pictures, {chosen.train.steps} steps of {chosen.train.batch_size}, into {out}")
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / FILE, chosen.model_dump(mode="json"))
    target = pick_device(device)
    objective = build_objective(chosen, pictures, out, device=target)
    losses: list[float] = []
    with progress_bar(quiet=as_json) as bar:
        task = bar.add_task("training", total=chosen.train.steps)
        for report in run(objective, chosen.train, out, device=target):
            losses.append(report.loss)
            recent = sum(losses[-50:]) / len(losses[-50:])
            bar.update(task, completed=report.step, description=f"loss {recent:.4f}")
            if bar.disable and (report.step % 50 == 0 or report.step == chosen.train.steps):
                say(f"step {report.step} of {chosen.train.steps}, loss {recent:.4f}")
    result = {
        "recipe": chosen.name,
        "steps": chosen.train.steps,
        "loss": losses[-1] if losses else None,
        "out": str(out / "model"),
    }
    if as_json:
        print_json(result)
    else:
        say(f"done: {out / 'model'}; sheets in {out / 'sheets'}")


def _recipe(name: str, tiny: bool) -> Recipe:
    """A recipe by name, from `file.py:function`, or from a recipe.json."""
    if name.endswith(".json"):
        from bowerbird.training.recipe import load_recipe

        return load_recipe(name)
    path, colon, function = name.rpartition(":")
    if not colon:
        from bowerbird.training.recipes import recipe

        return recipe(name, tiny=tiny)
    if not Path(path).is_file():
        raise BowerbirdError(f"{path}: no such file; a recipe of your own is file.py:function")
    spec = importlib.util.spec_from_file_location("bowerbird_user_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise BowerbirdError(f"{path}: it has no function {function!r}")
    made: Any = getattr(module, function)()
    return made


def _from_kb(recipe: Recipe, path: str) -> Any:
    from bowerbird.data.pictures import pictures_of
    from bowerbird.knowledge.base import KnowledgeBase

    return pictures_of(KnowledgeBase.open(path), size=recipe.size, where=recipe.where, limit=recipe.limit)
