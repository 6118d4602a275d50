"""Which systems there are: one line each, read without importing any network.

A system is a folder: its `__init__` says in a `Registration` what it holds, and its name in `SYSTEMS` is
the one line that makes it known to the library, the command line and the server. A system of somebody else's package
joins by an entry point in the group `bowerbird.systems` that names its `Registration`, or for one run by
`register`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bowerbird.core import plugins
from bowerbird.core.errors import BowerbirdError

SYSTEMS = ("rdm", "rarm", "knn", "reimagen", "racm3", "stable_diffusion", "grounded", "instruct", "dreambooth")
"""Folders of `bowerbird.systems`, in the order they are listed."""
ENTRY_POINTS = "bowerbird.systems"
PIPELINE = ("capabilities", "retrieve", "condition", "predict", "from_pretrained")
"""What the class of a pipeline has."""


@dataclass(frozen=True)
class ObjectiveEntry:
    """Something a recipe can train; every value is `module:name`, imported when it is first used.

    `config`: its `systems.objective.ObjectiveConfig`; `build`: its `Build`; `frozen`: from a configuration to the
    fingerprints of the frozen networks it stands on, by what each is called in an error (None: none); `preview`: its
    `Preview` (None: no sheets).
    """

    config: str
    build: str
    frozen: str | None = None
    preview: str | None = None


@dataclass(frozen=True)
class Registration:
    """What a system's folder holds; every value is `module:name`, imported when it is first used.

    `pipelines`: by the class name that stands in `model_index.json`, a `systems.base.System`.
    `objectives`: by the `kind` of a recipe's `system`.
    """

    pipelines: Mapping[str, str] = field(default_factory=dict)
    objectives: Mapping[str, ObjectiveEntry] = field(default_factory=dict)


_JOINED: list[Registration] = []


def register(registration: Registration) -> None:
    """Make a system known to this process."""
    _JOINED.append(registration)


def register_named(place: str) -> None:
    """Make the system that `module:name` names known to this process: a `Registration`, or a pipeline's class alone.

    Its module is run. Raises: BowerbirdError when it cannot be imported, or is neither.
    """
    if not plugins.is_path(place):
        raise BowerbirdError(f"system {place!r}: give module:name, of a module in this directory or installed")
    found = plugins.load_object(place, "system")
    if isinstance(found, type):
        missing = plugins.missing_members(found, PIPELINE)
        if missing:
            raise BowerbirdError(f"system {place!r}: the class has no {', '.join(missing)}; see systems.base.System")
        found = Registration(pipelines={found.__name__: place})
    if not isinstance(found, Registration):
        raise BowerbirdError(f"system {place!r} is {type(found).__name__}; name a Registration or a pipeline's class")
    register(found)


def registrations() -> list[Registration]:
    """Ours, those of installed packages, and those that joined in this process; a later one wins over an earlier."""
    return [*_installed(), *_JOINED]


@cache
def _installed() -> tuple[Registration, ...]:
    ours = [importlib.import_module(f"bowerbird.systems.{name}").REGISTRATION for name in SYSTEMS]
    others = (plugins.entry_point(ENTRY_POINTS, name) for name in plugins.entry_point_names(ENTRY_POINTS))
    return (*ours, *(found for found in others if found is not None))


def objectives() -> dict[str, ObjectiveEntry]:
    """What systems can train, by `kind`."""
    return {kind: entry for each in registrations() for kind, entry in each.objectives.items()}


def load(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def pipeline_names() -> dict[str, str]:
    """Where the class is that a model's `model_index.json` calls by each name; none of them is imported."""
    return {key: place for each in registrations() for key, place in each.pipelines.items()}


def pipeline_class(name: str) -> Any:
    """The pipeline class that a model's `model_index.json` calls `name`. Raises: BowerbirdError when there is none."""
    known = pipeline_names()
    if name not in known:
        raise BowerbirdError(
            f"a model of class {name!r} is not one that bowerbird generates with; choose one of"
            f" {', '.join(sorted(known))}"
        )
    return load(known[name])
