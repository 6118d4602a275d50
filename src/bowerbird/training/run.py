"""A run: a recipe trained on pictures in a folder, which holds its `recipe.json`, a note on the data, the checkpoint,
sample sheets and the model. The same call goes on where a cut one stopped, and nothing else goes on in that folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bowerbird.core import files, images, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.models import training_pictures
from bowerbird.training.data import FILE as DATA
from bowerbird.training.data import check_data, data_note, hold_out
from bowerbird.training.loop import train
from bowerbird.training.losses import StepReport
from bowerbird.training.model_card import write_card
from bowerbird.training.recipe import FILE, Recipe, build_objective, frozen_fingerprints, portable, preview, read_recipe
from bowerbird.training.trackers import check_trackers
from bowerbird.training.validation import Validation

LARGEST_NOTED = 128
"""The edge in pixels at which training pictures are looked at: enough for what is noted of them, and light."""


def check_run(recipe: Recipe, out: Path, *, compared: Callable[[Recipe], Recipe] = lambda recipe: recipe) -> None:
    """`compared`: what of both recipes is compared, all of them by default.

    Raises: BowerbirdError when `out` is no folder, or a run with other settings than those of `recipe` is in it.
    """
    if out.exists() and not out.is_dir():
        raise BowerbirdError(f"{out}: this is a file; name a folder for the run")
    if not (out / FILE).is_file():
        return
    different = _differences(compared(read_recipe(out / FILE)), compared(recipe))
    if different:
        raise BowerbirdError(
            f"{out}: a run with other settings is there ({different[0]}); name another folder, or go on with it: train"
            f" {out / FILE}"
        )


def _differences(there: Recipe, here: Recipe) -> list[str]:
    """The settings in which two recipes differ, each as a phrase."""
    old, new = (dict(_flat(portable(each).model_dump(mode="json"))) for each in (there, here))
    return [
        f"{key} is {ascii(old.get(key))[:60]} there and {ascii(new.get(key))[:60]} here"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]


def _flat(values: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def train_recipe(
    recipe: Recipe,
    pictures: Pictures,
    out: str | Path,
    *,
    device: str = "cpu",
    caches: Path | None = None,
    sheets: bool = True,
    report_to: Sequence[str] = (),
    source: str = "",
    command: str = "",
    workers: int = 0,
) -> Iterator[StepReport]:
    """Train `recipe` on `pictures` in the folder `out`, but for those it holds out (`data.hold_out`).

    Yields after every step; the same call goes on where a cut one stopped. What it is to train with is opened and
    checked when it is called, before the first step is asked for.

    `device`: a torch device; `caches`: see `build_objective`; `sheets`: whether to draw sample sheets; `report_to` and
    `workers`: see `loop.train`; `source` and `command`: what the model card calls the data, and how the run was
    started.
    Raises: BowerbirdError when a run with other settings or on other pictures is in `out`, or the settings do not fit
    the pictures; a new folder is gone then.
    """
    out = Path(out)
    check_run(recipe, out)
    check_trackers(report_to)
    note = data_note(recipe, pictures, source) | {"networks": frozen_fingerprints(recipe)}
    check_data(note, out)
    return _steps(
        recipe,
        pictures,
        out,
        note,
        device=device,
        caches=caches,
        sheets=sheets,
        report_to=report_to,
        command=command,
        workers=workers,
    )


def _steps(
    recipe: Recipe,
    pictures: Pictures,
    out: Path,
    note: dict[str, Any],
    *,
    device: str,
    caches: Path | None,
    sheets: bool,
    report_to: Sequence[str],
    command: str,
    workers: int,
) -> Iterator[StepReport]:
    """The steps of a run that was checked; `note`: what its folder says of the data."""
    trained, held = hold_out(recipe, pictures)
    new = not out.exists()
    try:
        objective = build_objective(recipe, trained, out, device=device, caches=caches)
        validation = None
        if held is not None:
            scored = build_objective(recipe, held, out, device=device, caches=caches, database=trained)
            made = Validation(scored, len(held), recipe.train.seed)
            validation = made if made.fits(objective) else None
    except (BowerbirdError, OSError):
        if new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / FILE, portable(recipe).model_dump(mode="json"))
    files.write_json(out / DATA, note)

    def describe(model: Path) -> None:
        write_card(out, model, command)
        note_pictures(trained, model)

    yield from train(
        objective,
        recipe.train,
        out,
        device=device,
        preview=preview(recipe) if sheets else None,
        validation=validation,
        report_to=report_to,
        on_export=describe,
        workers=workers,
    )


def note_pictures(pictures: Pictures, model: Path) -> None:
    """Keep with the model in the folder `model`, where it is one that generates, how some of the `pictures` are made
    that it was trained on: so it can say that it is asked for something unlike them. Nothing for very few."""
    if not (model / "model_index.json").is_file():
        return
    order = seeds.numpy_generator(0, "training pictures").permutation(len(pictures))[: training_pictures.MOST]
    edge = min(pictures.size, LARGEST_NOTED)
    shown = [images.square(tensors.to_pil(pictures.pixels[[row]])[0], edge) for row in sorted(order.tolist())]
    known = training_pictures.fit_own(shown)
    if known is not None:
        training_pictures.write(known, model)
