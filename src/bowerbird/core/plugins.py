"""A user's own classes by name: an entry point of an installed package, or `module:Class` given on the command line.

A name that a file brings along (a manifest, a recipe, a picture's record) is a stranger's and never loads code:
only a name that the person at the keyboard gave goes through `load_object`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError


def is_path(name: str) -> bool:
    """Whether `name` has the form `module:Class`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_object(path: str) -> Any:
    """What `module:Class` names; modules of the current directory are found too.

    Raises: BowerbirdError when the module cannot be imported or has no such name.
    """
    module, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise BowerbirdError(f"{path!r}: module {module!r} cannot be imported ({error})") from error
    except AttributeError as error:
        raise BowerbirdError(f"{path!r}: module {module!r} has no {attribute!r}") from error


def entry_point(group: str, name: str) -> Any | None:
    """What an installed package offers under `name` in an entry-point `group`; None where none does."""
    from importlib.metadata import entry_points

    found = [point for point in entry_points(group=group) if point.name == name]
    return found[0].load() if found else None


def entry_point_names(group: str) -> list[str]:
    """The names installed packages offer in an entry-point `group`."""
    from importlib.metadata import entry_points

    return sorted(point.name for point in entry_points(group=group))
