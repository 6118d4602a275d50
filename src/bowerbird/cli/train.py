"""`bowerbird train`: run a recipe; the same command goes on where a cut run stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, pick_device, print_json, progress_bar, say, say_source
from bowerbird.core.errors import BowerbirdError, Terminated

if TYPE_CHECKING:
    from bowerbird.data.pictures import Pictures
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
    from bowerbird.training.data import fit_to_columns
    from bowerbird.training.recipe import given_keys
    from bowerbird.training.recipes import NAMES, open_recipe
    from bowerbird.training.run import check_run, train_recipe

    settings = [*(settings or []), *([f"train.seed={seed}"] if seed is not None else [])]
    chosen = open_recipe(recipe, tiny=tiny, settings=settings)
    if dry_run:
        print_json(chosen.model_dump(mode="json"))
        return
    if (data is None) == (kb is None):
        raise BowerbirdError("train: give --data SOURCE or --kb KB, one of them")
    out, used = out or Path("runs") / chosen.name, pick_device(device)
    # a recipe of one's own was written for its data; of ours, what names columns is a default
    given = given_keys(settings) if recipe in NAMES else ["system", "where"]
    check_run(chosen, out, compared=lambda each: fit_to_columns(each, None, given)[0])
    columns, read = _source(data, kb, chosen)
    chosen, absent = fit_to_columns(chosen, columns, given)
    if absent:
        say(f"{chosen.name}: this data has no {', '.join(absent)}, so what the recipe would do by it is left out")
    check_run(chosen, out)
    pictures = read(chosen)
    say_source(pictures.source)
    for line in pictures.left_out[:20]:
        say(f"left out: {line}")
    if pictures.left_out:
        say(f"{len(pictures.left_out)} of {len(pictures) + len(pictures.left_out)} items were left out")
    say(f"{chosen.name}: {len(pictures)} pictures, {chosen.train.steps} steps of {chosen.train.batch_size}, into {out}")
    losses: list[float] = []
    with progress_bar(quiet=as_json) as bar:
        task = bar.add_task("training", total=chosen.train.steps)
        try:
            for report in train_recipe(chosen, pictures, out, device=used):
                losses.append(report.loss)
                recent = sum(losses[-50:]) / len(losses[-50:])
                bar.update(task, completed=report.step, description=f"loss {recent:.4f}")
                if bar.disable and (report.step % 50 == 0 or report.step == chosen.train.steps):
                    say(f"step {report.step} of {chosen.train.steps}, loss {recent:.4f}")
        except (KeyboardInterrupt, Terminated) as error:
            error.add_note(f"{out}: the last checkpoint is kept, and the same command goes on from there")
            raise
    result = {
        "recipe": chosen.name,
        "steps": chosen.train.steps,
        "loss": losses[-1] if losses else None,
        "out": str(out / "model"),
        "source": pictures.source.facts(),
    }
    if as_json:
        print_json(result)
    else:
        say(f"done: {out / 'model'}; sheets in {out / 'sheets'}")


def _source(data: str | None, kb: str | None, recipe: Recipe) -> tuple[Collection[str], Callable[[Recipe], Pictures]]:
    """The columns of what is trained on, and what gives the pictures that a recipe, fitted to them, takes of it."""
    from bowerbird.data.pictures import load_pictures, pictures_of

    if kb is not None:
        from bowerbird.knowledge.base import KnowledgeBase

        base = KnowledgeBase.open(kb)
        return base.info()["metadata"], lambda r: pictures_of(base, size=r.size, where=r.where, limit=r.limit)
    everything = load_pictures(str(data), size=recipe.size, limit=None if recipe.where else recipe.limit)
    return everything.columns, lambda r: everything.filter(r.where, r.limit)
