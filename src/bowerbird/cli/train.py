"""`bowerbird train`: run a recipe; the same command goes on where a cut run stopped."""

from __future__ import annotations

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
    from bowerbird.training.recipe import check_run, read_pictures, train_recipe, with_settings
    from bowerbird.training.recipes import open_recipe

    chosen = open_recipe(recipe, tiny=tiny)
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
    check_run(chosen, out)
    pictures = read_pictures(chosen, data) if data is not None else _from_kb(chosen, str(kb))
    say(f"{chosen.name}: {len(pictures)} pictures, {chosen.train.steps} steps of {chosen.train.batch_size}, into {out}")
    losses: list[float] = []
    with progress_bar(quiet=as_json) as bar:
        task = bar.add_task("training", total=chosen.train.steps)
        for report in train_recipe(chosen, pictures, out, device=pick_device(device)):
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


def _from_kb(recipe: Recipe, path: str) -> Any:
    from bowerbird.data.pictures import pictures_of
    from bowerbird.knowledge.base import KnowledgeBase

    return pictures_of(KnowledgeBase.open(path), size=recipe.size, where=recipe.where, limit=recipe.limit)
