"""Ablations: one setting with several values, a run for each, and a table of what came out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.training.losses import read_losses
from bowerbird.training.recipe import Recipe, with_settings

RECENT = 50
"""Last steps whose mean loss stands in the table."""
TABLE = "sweep.csv"
DATA = ("name", "size", "where", "limit", "transparency")


@dataclass(frozen=True)
class Run:
    """One value of a sweep: its text, the recipe with it, and the run's folder."""

    value: str
    recipe: Recipe
    out: Path


def parse(text: str) -> tuple[str, list[str]]:
    """`k=1,4` as key and values. Raises: BowerbirdError when it is not of that form, or names a value twice."""
    key, equals, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",")]
    if not (key and equals and all(values)) or len(set(values)) < len(values):
        raise BowerbirdError(f"sweep {text!r}: write key=value,value with each value once, for example k=1,4")
    return key.strip(), values


def full_key(recipe: Recipe, key: str) -> str:
    """The dotted key of a setting that may be given by its last name: `k` is `system.k`, `steps` is `train.steps`.

    Raises: BowerbirdError when the recipe has no such setting.
    """
    if "." in key:
        return key
    places = (("", recipe), ("system.", recipe.system), ("train.", recipe.train))
    for prefix, settings in places:
        if key in type(settings).model_fields:
            return prefix + key
    raise BowerbirdError(
        f"sweep: the recipe has no setting {key!r}; it has"
        f" {', '.join(name for _, settings in places for name in type(settings).model_fields)}"
    )


def runs(recipe: Recipe, key: str, values: Sequence[str], out: Path) -> list[Run]:
    """A run for each value of a setting, in `out/KEY=VALUE`. Raises: BowerbirdError for a value that it cannot take."""
    place = full_key(recipe, key)
    if place in DATA:
        raise BowerbirdError(
            f"sweep: {place} says what is trained on, and the runs of a sweep share their pictures; start one for each"
        )
    found = [
        Run(value, with_settings(recipe, [f"{place}={value}"]), out / re.sub(r"[^\w=.-]", "_", f"{key}={value}"))
        for value in values
    ]
    if len({run.out for run in found}) < len(found) or any(
        a.recipe == b.recipe for a in found for b in found if a is not b
    ):
        raise BowerbirdError(f"sweep {key}={','.join(values)}: two of these values are the same run")
    return found


def row(key: str, run: Run) -> dict[str, Any]:
    """What a finished run adds to the table."""
    losses = read_losses(run.out)
    validated = [each.validation_loss for each in losses if each.validation_loss is not None]
    recent = losses[-RECENT:]
    return {
        key: run.value,
        "steps": losses[-1].step if losses else 0,
        "loss": round(sum(each.loss for each in recent) / len(recent), 5) if recent else None,
        "validation_loss": round(validated[-1], 5) if validated else None,
        "seconds": round(sum(each.seconds for each in losses), 1),
        "model": f"{run.out.name}/model",
    }


def write_table(out: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows of a sweep, which have the same columns, to `sweep.csv` in `out`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with files.atomic_path(out / TABLE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return out / TABLE
