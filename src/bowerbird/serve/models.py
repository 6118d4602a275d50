"""The models that are served: by an id, each with its card."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.models.cards import CARDS
from bowerbird.models.weights import DESCRIPTIONS, bundled

MOST_README = 100_000


@dataclass(frozen=True)
class Served:
    """One model: `place` is what the worker opens."""

    id: str
    place: str
    folder: Path | None

    @property
    def class_name(self) -> str:
        """Of its pipeline, as its directory says; empty for one that is not here yet."""
        try:
            return str(json.loads((self.folder / "model_index.json").read_text())["_class_name"]) if self.folder else ""
        except (OSError, ValueError, KeyError):
            return ""

    def card(self) -> dict[str, Any]:
        """License, data, figures and limits; of a directory its README."""
        card: dict[str, Any] = {"license": None, "data": None, "figures": [], "limits": None, "text": None}
        card |= CARDS.get(self.id, {}) if bundled(self.place) else {}
        readme = None if self.folder is None or bundled(self.place) else self.folder / "README.md"
        if readme is not None and readme.is_file():
            card["text"] = readme.read_text(encoding="utf-8", errors="replace")[:MOST_README]
        return card

    def facts(self) -> dict[str, Any]:
        """What is known without opening it."""
        files = [] if self.folder is None else [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            "id": self.id,
            "description": DESCRIPTIONS.get(self.place, self.class_name or "a model of the hub"),
            "bytes": sum(path.stat().st_size for path in files),
            "card": self.card(),
        }


def served(names: Sequence[str]) -> dict[str, Served]:
    """The models called `names`, all bundled ones that generate where there are none, by id.

    Raises: BowerbirdError for one that is not bundled, no directory of a model, and no hub id.
    """
    found: dict[str, Served] = {}
    for name in names or [name for name in ("tiny-rdm", "tiny-rdm-fast", "tiny-reimagen", "tiny-knn") if bundled(name)]:
        folder = bundled(name) or Path(name)
        is_folder = (folder / "model_index.json").is_file()
        if not is_folder and (name.count("/") != 1 or name.startswith((".", "/")) or folder.exists()):
            raise BowerbirdError(
                f"model {name!r}: not bundled ({', '.join(CARDS)}), no directory of a model, and no hub id"
            )
        own = _id(name, folder if is_folder else None)
        if own in found:
            raise BowerbirdError(f"model {name!r}: another model is called {own!r} too; rename the directory")
        found[own] = Served(own, name, folder if is_folder else None)
    return found


def _id(name: str, folder: Path | None) -> str:
    if bundled(name) or folder is None:
        return name.replace("/", "--")
    whole = folder.resolve()
    last = whole.parent.name if (whole.parent / "recipe.json").is_file() else whole.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
