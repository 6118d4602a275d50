"""A recipe is one frozen, strict object: what is trained, on which rows, for how long. It is stored as `recipe.json`.

What can be trained is registered by `kind`, by the systems and by `training.objectives`: the settings of a recipe are
found by it, and `build_objective` turns a recipe and pictures into the `Objective` that `training.train` runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from bowerbird.core import files, plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.encoders.load import ENTRY_POINTS
from bowerbird.models.weights import bundled
from bowerbird.systems import registry
from bowerbird.systems.objective import Objective, ObjectiveConfig, Preview, RunContext
from bowerbird.systems.registry import ObjectiveEntry
from bowerbird.systems.settings import first_fault, with_names
from bowerbird.systems.settings import names as settings_named
from bowerbird.training import objectives
from bowerbird.training.config import TrainConfig

FILE = "recipe.json"
LATER: tuple[dict[str, Any], dict[str, Any]] = (
    {"split_column": "split", "held_out": 0.0, "transparency": False},
    {"gradient_accumulation": 1, "schedule": "cooldown"},
)
"""Settings that a recipe and its `train` had not always, with the values that change nothing."""
LATER_OF: dict[str, dict[str, Any]] = {"rdm": {"base": None}, "rarm": {"base": None}, "racm3": {"varied_views": 0}}
"""The same of systems, by their `kind`."""
HUB_ID = r"[\w.-]+(/[\w.-]+)?"


def objective_entries() -> dict[str, ObjectiveEntry]:
    """What can be trained, by `kind`: ours, then the systems, of which a later one wins."""
    return {**objectives.REGISTRATION.objectives, **registry.objectives()}


class Recipe(BaseModel):
    """`system`: what; `train`: how long; `where`: which rows of the data (SQL over its metadata; None for all); `size`:
    edge of the pictures; `transparency`: whether their alpha is kept beside them.

    Not trained on are rows that `split_column` calls validation or test, and besides the share `held_out` of the rows
    (by a hash of their content); the loss on them is measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    system: SerializeAsAny[ObjectiveConfig]
    train: TrainConfig
    size: Annotated[int, Field(ge=8, le=4096)] = 64
    where: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    transparency: bool = False
    split_column: str | None = "split"
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, value: str) -> str:
        """A run lies in `runs/NAME` unless another folder is given, so a name leads nowhere else."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
            raise PydanticCustomError(
                "name",
                "the name is {given}; it is made of letters, digits, '.', '_' and '-', starts with a letter or digit,"
                " and has 100 characters at most",
                {"given": ascii(value[:40])},
            )
        return value

    @field_validator("system", mode="before")
    @classmethod
    def _by_kind(cls, value: object) -> object:
        """The settings in the class that is registered for their `kind`; nothing else is imported."""
        if not isinstance(value, dict):
            return value
        kind, entries = value.get("kind"), objective_entries()
        if not isinstance(kind, str) or kind not in entries:
            raise PydanticCustomError(
                "kind",
                "kind {kind} is nothing that can be trained here; it is one of {known}",
                {"kind": ascii(kind)[:60], "known": ", ".join(sorted(entries))},
            )
        return registry.load(entries[kind].config).model_validate(value)

    def fingerprint(self) -> str:
        """A hash of every setting that shapes the weights; trainings are cached by it.

        A setting that came later counts where it is not what there was before it, so that older trainings are found.
        """
        own, train = (
            {key for key, value in later.items() if getattr(settings, key) == value}
            for settings, later in zip((self, self.train), LATER, strict=True)
        )
        later = LATER_OF.get(self.system.kind, {})
        system = {key for key, value in later.items() if getattr(self.system, key) == value}
        excluded: Any = {"train": train | {"compile", "validate_every"}, "system": system} | dict.fromkeys(own, True)
        return hashlib.sha256(self.model_dump_json(exclude=excluded).encode()).hexdigest()[:16]


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in the file at `path`, with `key=value` settings over it (see `with_settings`).

    Anybody may have written the file: a network that it names is bundled, a directory or an installed encoder. One
    that would be fetched from a hub or is code (`module:Class`) is refused unless a setting gives it.
    Raises: BowerbirdError when it has unknown or wrong settings, or names such a network.
    """
    recipe = with_settings(read_recipe(path), settings) if settings else read_recipe(path)
    given = set(given_keys(settings))
    for key, name in settings_named(recipe.system, "network"):
        code = plugins.is_path(name)
        why = "is somebody's own code" if code else "does not lie here and would be fetched from a hub"
        if not is_given(key, given) and (code or _is_fetched(name)):
            raise BowerbirdError(
                f"{path}: {key} {ascii(name)[:100]} {why}, which a recipe alone may not ask for; if you trust it, give"
                f" it yourself: --set {key}=…"
            )
    return recipe


def _is_fetched(name: str) -> bool:
    """Whether `name` can only be a hub id."""
    here = bundled(name) or Path(name).exists() or re.fullmatch(r"pixels-\d", name)
    return not here and name not in plugins.entry_point_names(ENTRY_POINTS) and bool(re.fullmatch(HUB_ID, name))


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in the file at `path`, for comparing; to train it, see `load_recipe`."""
    return _validate(files.read_json(path, "recipe"), str(path))


def portable(recipe: Recipe) -> Recipe:
    """`recipe` as a run keeps it: of a directory elsewhere on this machine the last part of its path alone, so that the
    file may go to other people."""
    return recipe.model_copy(update={"system": with_names(recipe.system, "network", files.portable)})


def given_keys(settings: Sequence[str]) -> list[str]:
    """The keys of `key=value` settings."""
    return [setting.partition("=")[0] for setting in settings]


def is_given(key: str, given: Collection[str]) -> bool:
    """Whether the setting `key` is among those `given`, itself or with all that it is part of."""
    return any(key == each or key.startswith(f"{each}.") for each in given)


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
        except (ValueError, RecursionError):
            place[last] = text
    return _validate(values, "settings " + " ".join(settings))


def _validate(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise BowerbirdError(f"{source[:160]}: {first_fault(error)}") from error


def read_pictures(recipe: Recipe, source: str | Path) -> Pictures:
    """The rows of `source` this recipe trains on."""
    return load_pictures(
        source, size=recipe.size, where=recipe.where, limit=recipe.limit, transparency=recipe.transparency
    )


def build_objective(
    recipe: Recipe,
    pictures: Pictures,
    out: Path,
    *,
    device: str = "cpu",
    caches: Path | None = None,
    database: Pictures | None = None,
) -> Objective[Any]:
    """What `recipe` trains, over `pictures`; with a `database`, over pictures that are held out (see `RunContext`).

    Latents are kept in `out`, or in the folder `caches`, where trainings that differ in other things share them.
    Raises: BowerbirdError when a network that the recipe names is not there.
    """
    run = RunContext(recipe.train.seed, out, device, caches, database)
    try:
        objective: Objective[Any] = registry.load(_entry(recipe).build)(recipe.system, pictures, run)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:  # sizes that make no network, or too large a one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BowerbirdError(f"{recipe.name}: its settings do not fit these pictures ({reason})") from error
    return objective


def preview(recipe: Recipe) -> Preview[Any] | None:
    """What draws the sample sheets of a training of `recipe`; None where there is nothing to see."""
    place = _entry(recipe).preview
    return None if place is None else registry.load(place)


def frozen_fingerprints(recipe: Recipe) -> dict[str, str]:
    """Fingerprints of the frozen networks that a training of `recipe` stands on, by what they are."""
    place = _entry(recipe).frozen
    return {} if place is None else dict(registry.load(place)(recipe.system))


def _entry(recipe: Recipe) -> ObjectiveEntry:
    """Raises: BowerbirdError when the recipe's kind is not registered."""
    entries = objective_entries()
    if recipe.system.kind not in entries:
        raise BowerbirdError(
            f"kind {recipe.system.kind!r} is not registered for training; register it:"
            " bowerbird.systems.registry.register(Registration(objectives={…}))"
        )
    return entries[recipe.system.kind]
