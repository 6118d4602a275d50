"""Other people's classes and functions by name: `module:Name`, or the entry point of an installed package.

Importing runs code. Hand over only what a person gave (a command line, an argument of a call), never a name that was
read from a file of somebody else's.
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError

_SPEC = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_path(text: str) -> bool:
    """Whether `text` is of the form `module:Name`, and no file of that name is here."""
    return _SPEC.fullmatch(text) is not None and not Path(text).exists()


def load_object(path: str, what: str = "class") -> Any:
    """What `module:Name` names; the module may lie in the current directory.

    `what` says in the error what was looked for, as in "source". Raises: BowerbirdError when there is none.
    """
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # python -m has it there already, an installed command has not
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # another person's code runs here
        raise BowerbirdError(
            f"{what} {path!r}: cannot be imported ({type(error).__name__}: {error}); give module:Name, of a module in"
            " this directory or installed"
        ) from error


@cache
def _points(group: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def entry_point_names(group: str) -> list[str]:
    """The names that installed packages offer in an entry-point `group`; nothing is imported."""
    return sorted(_points(group))


def entry_point(group: str, name: str) -> Any | None:
    """What an installed package offers under `name` in an entry-point `group`; None where none does. Raises:
    BowerbirdError when its package cannot be imported."""
    point = _points(group).get(name)
    try:
        return None if point is None else point.load()
    except Exception as error:  # another person's code runs here
        raise BowerbirdError(
            f"{group} {name!r}: this entry point cannot be loaded ({type(error).__name__}: {error}); repair or"
            " uninstall its package"
        ) from error


def missing_members(candidate: Any, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that `candidate` has not: what is said to somebody whose class is no implementation yet."""
    return [name for name in names if not hasattr(candidate, name)]
