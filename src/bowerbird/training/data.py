"""What a recipe is trained on: a recipe of ours fitted to the columns that the data has, and the data's fingerprint.

Bundled recipes name columns of the emoji they were made for. Of these defaults what other data lacks is dropped; what
a person gave stays, and is an error where it does not work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bowerbird.core import files, seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures
from bowerbird.data.sources.edit_rows import PAIR
from bowerbird.systems.settings import names, without_columns
from bowerbird.training.recipe import Recipe, is_given

FILE = "data.json"
VALIDATION = ("validation", "valid", "val", "dev")
TEST = ("test",)
LICENSES = ("license", "licence", "rights", "license_url")
"""Columns that say what a picture may be used for; the first there is."""


def fit_to_columns(
    recipe: Recipe, columns: Collection[str] | None, given: Collection[str] = ()
) -> tuple[Recipe, list[str]]:
    """`recipe` without what names columns that the data lacks, and those columns; the settings `given` stay.

    `columns` None: of data that has none at all, for comparing recipes before data is read.
    """
    there = set(columns or ())
    parts = re.split(r"\s+and\s+", recipe.where) if recipe.where and not is_given("where", given) else []
    wanted = [_columns_of(part) for part in parts]
    named = {value for key, value in names(recipe.system, "column") if not is_given(key, given)}
    absent = sorted(named.union(*wanted) - there)
    if not absent:
        return recipe, []
    where = " and ".join(part for part, of in zip(parts, wanted, strict=True) if of <= there) or None
    system = without_columns(recipe.system, absent, lambda key: is_given(key, given))
    return recipe.model_copy(update={"system": system, "where": where if parts else recipe.where}), absent


def _columns_of(condition: str) -> set[str]:
    """The columns in a simple condition of a bundled recipe: its words that stand in no quotes."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", "", condition))
    return {word for word in words if word.lower() not in ("and", "or", "not", "in", "is", "null", "like")}


def data_fingerprint(recipe: Recipe, pictures: Pictures) -> str:
    """16 hex digits that change with any picture, caption, and value of a column that the recipe names."""
    keys = sorted({value for _, value in names(recipe.system, "column")})
    labels = json.dumps([[row.get(key) for key in keys] for row in pictures.metadata], sort_keys=True, default=str)
    return hashlib.sha256(f"{pictures.fingerprint()}\0{labels}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def held_out_rows(recipe: Recipe, pictures: Pictures) -> tuple[list[int], list[int]]:
    """The rows to train on, and those to measure the loss on; see `Recipe`.

    Rows for tests are measured where there are none for validation, and trained on by nobody. A choice that would leave
    nothing to train on is none: then somebody means just those rows.
    """
    split = pictures.column(recipe.split_column) if recipe.split_column else []
    tests = [row for row, name in enumerate(split) if name.strip().lower() in TEST]
    held = [row for row, name in enumerate(split) if name.strip().lower() in VALIDATION]
    if len(tests) + len(held) == len(pictures):
        tests, held = [], []
    left = sorted(set(range(len(pictures))) - {*tests, *held})
    if recipe.held_out and len(left) > 1:
        pairs = pictures.column(PAIR)  # of a table of edits, whose rows are held out whole
        places = {row: _place(pairs[row] or pictures.ids[row]) for row in left}
        known = sorted(set(places.values()))
        count = sum(place < recipe.held_out for place in known)
        chosen = set(known[: min(max(count, 1), len(known) - 1)])  # of few one, and never all
        held = sorted([*held, *(row for row in left if places[row] in chosen)])
        left = [row for row in left if places[row] not in chosen]
    return left, held or tests


def _place(name: int | str) -> float:
    """Where an item falls from 0 to 1, by its id or pair, the same in every run."""
    return seeds.derive(0, "held out", name) / 2**63


def hold_out(recipe: Recipe, pictures: Pictures) -> tuple[Pictures, Pictures | None]:
    """The pictures to train on, and those to measure the loss on (None: there are none)."""
    left, held = held_out_rows(recipe, pictures)
    return (
        pictures if len(left) == len(pictures) else pictures.select(left),
        pictures.select(held) if held else None,
    )


def data_note(recipe: Recipe, pictures: Pictures, source: str = "") -> dict[str, Any]:
    """What a run notes of the pictures it is given: how many, their fingerprint, what they are called (the last part
    of a path), and the licenses of those that are trained on, where there is a column for that."""
    trained, held = held_out_rows(recipe, pictures)
    column = next((name for name in LICENSES if name in pictures.columns), None)
    named = pictures.column(column) if column else []
    licenses = Counter(named[row] for row in trained) if named else {}
    return {
        "pictures": len(pictures),
        "fingerprint": data_fingerprint(recipe, pictures),
        "source": source if source.startswith("hf:") else files.last_part(source),
        "trained_on": len(trained),
        "held_out": len(held),
        "licenses": dict(sorted(licenses.items())),
    }


def check_data(note: Mapping[str, Any], out: Path) -> None:
    """Raises: BowerbirdError when the run in the folder `out`, where there is one, noted other pictures than `note`, or
    other `networks` that it stands on."""
    if not (out / FILE).is_file():
        return
    there = files.read_json(out / FILE, "note on the data")
    if there.get("fingerprint") != note["fingerprint"]:
        raise BowerbirdError(
            f"{out}: a run on other pictures is there ({_count(there)}; these are {_count(note)}); give these another"
            " folder, or the run its own pictures"
        )
    now = note.get("networks", {})
    then = there.get("networks", now)
    if isinstance(then, list):  # as runs noted them before they had names
        then = dict(zip(now, then, strict=False))
    for name in now:
        if name in then and then[name] != now[name]:  # what a run of before did not note is not known
            raise BowerbirdError(
                f"{out}: this run began with another {name}, which has changed since (fingerprint"
                f" {ascii(then[name])[1:-1][:16]} then, {now[name][:16]} now); put that one back, or begin again"
                f" elsewhere: bowerbird train {out / 'recipe.json'} --data … --out {out}-2"
            )


def _count(note: Mapping[str, Any]) -> str:
    return f"{note.get('pictures')} pictures, fingerprint {note.get('fingerprint')}"
