"""A recipe is one frozen, strict object: what is trained, on which rows, for how long. It is stored as `recipe.json`.

What can be trained is registered by `kind`, by the systems and by `training.objectives`: the settings of a recipe are
found by it, and `build_objective` turns a recipe and pictures into the `Objective` that `training.train` runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.systems import registry
from bowerbird.systems.objective import Objective, ObjectiveConfig, Preview, RunContext
from bowerbird.systems.registry import ObjectiveEntry
from bowerbird.training import objectives
from bowerbird.training.loop import StepReport, TrainConfig, train

FILE = "recipe.json"


def objective_entries() -> dict[str, ObjectiveEntry]:
    """What can be trained, by `kind`: ours, then the systems, of which a later one wins."""
    return {**objectives.REGISTRATION.objectives, **registry.objectives()}


class Recipe(BaseModel):
    """`system`: what; `train`: how long; `where`: which rows of the data (SQL over its metadata; None for all)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    system: SerializeAsAny[ObjectiveConfig]
    train: TrainConfig
    size: int = 64
    where: str | None = None
    limit: int | None = None

    @field_validator("system", mode="before")
    @classmethod
    def _by_kind(cls, value: object) -> object:
        """The settings in the class that is registered for their `kind`; nothing else is imported."""
        if not isinstance(value, dict):
            return value
        kind, entries = value.get("kind"), objective_entries()
        if kind not in entries:
            raise PydanticCustomError(
                "kind",
                "kind {kind} is nothing that can be trained here; it is one of {known}",
                {"kind": repr(kind), "known": ", ".join(sorted(entries))},
            )
        return registry.load(entries[kind].config).model_validate(value)

    def fingerprint(self) -> str:
        """A hash of every setting that shapes the weights; trainings are cached by it."""
        return hashlib.sha256(self.model_dump_json(exclude={"train": {"compile"}}).encode()).hexdigest()[:16]


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the file at `path`. Raises: BowerbirdError when it has unknown or wrong settings."""
    return _validate(files.read_json(path, "recipe"), str(path))


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """`recipe` with `key=value` settings, keys dotted (`train.steps=100`), values JSON or plain text.

    Raises: BowerbirdError for an unknown key or a value of the wrong kind.
    """
    values: dict[str, Any] = recipe.model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BowerbirdError(f"setting {setting!r}: write key=value, for example train.steps=100")
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None  # type: ignore[assignment]
        if not isinstance(place, dict) or last not in place:
            raise BowerbirdError(
                f"setting {setting!r}: the recipe has no {key}; it has"
                f" {', '.join(place if isinstance(place, dict) else values)}"
            )
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return _validate(values, "settings " + " ".join(settings))


def _validate(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BowerbirdError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def read_pictures(recipe: Recipe, source: str | Path) -> Pictures:
    """The rows of `source` this recipe trains on."""
    return load_pictures(source, size=recipe.size, where=recipe.where, limit=recipe.limit)


def build_objective(
    recipe: Recipe, pictures: Pictures, out: Path, *, device: str = "cpu", caches: Path | None = None
) -> Objective[Any]:
    """What `recipe` trains, over `pictures`.

    Latents are kept in `out`, or in the folder `caches`, where trainings that differ in other things share them.
    Raises: BowerbirdError when a network that the recipe names is not there.
    """
    run = RunContext(recipe.train.seed, out, device, caches)
    objective: Objective[Any] = registry.load(_entry(recipe).build)(recipe.system, pictures, run)
    return objective


def preview(recipe: Recipe) -> Preview[Any] | None:
    """What draws the sample sheets of a training of `recipe`; None where there is nothing to see."""
    place = _entry(recipe).preview
    return None if place is None else registry.load(place)


def frozen_fingerprints(recipe: Recipe) -> list[str]:
    """Fingerprints of the frozen networks that a training of `recipe` stands on."""
    place = _entry(recipe).frozen
    return [] if place is None else list(registry.load(place)(recipe.system))


def check_run(recipe: Recipe, out: Path) -> None:
    """Raises: BowerbirdError when a run with other settings than those of `recipe` is in the folder `out`."""
    if (out / FILE).is_file() and load_recipe(out / FILE) != recipe:
        raise BowerbirdError(
            f"{out}: a run with other settings is there; name another folder, or go on with it: train {out / FILE}"
        )


def train_recipe(
    recipe: Recipe,
    pictures: Pictures,
    out: str | Path,
    *,
    device: str = "cpu",
    caches: Path | None = None,
    sheets: bool = True,
) -> Iterator[StepReport]:
    """Train `recipe` on `pictures` in the folder `out`: its `recipe.json`, checkpoint, sample sheets and `model`.

    Yields after every step; the same call goes on where a cut one stopped.

    `device`: a torch device; `caches`: see `build_objective`; `sheets`: whether to draw sample sheets.
    Raises: BowerbirdError when a run with other settings is in `out`.
    """
    out = Path(out)
    check_run(recipe, out)
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / FILE, recipe.model_dump(mode="json"))
    objective = build_objective(recipe, pictures, out, device=device, caches=caches)
    yield from train(objective, recipe.train, out, device=device, preview=preview(recipe) if sheets else None)


def _entry(recipe: Recipe) -> ObjectiveEntry:
    """Raises: BowerbirdError when the recipe's kind is not registered."""
    entries = objective_entries()
    if recipe.system.kind not in entries:
        raise BowerbirdError(
            f"kind {recipe.system.kind!r} is nothing that can be trained here; register it:"
            " bowerbird.systems.registry.register(Registration(objectives={…}))"
        )
    return entries[recipe.system.kind]
