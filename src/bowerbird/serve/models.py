"""The models that are served: by an id, each with its card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.models.cards import CARDS
from bowerbird.models.weights import DESCRIPTIONS, bundled
from bowerbird.systems.reference_settings import Adapter

MOST_README = 100_000


@dataclass(frozen=True)
class Served:
    """One model: `place` is what the worker opens, `adapter` what a base takes references by."""

    id: str
    place: str
    folder: Path | None
    adapter: Adapter | None = None

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
            "adapter": None if self.adapter is None or self.adapter.adapter is None else self.adapter.adapter.name,
            "bytes": sum(path.stat().st_size for path in files),
            "card": self.card(),
        }


def served(names: Sequence[str], adapters: Mapping[str, Adapter] | None = None) -> dict[str, Served]:
    """The models called `names`, all bundled ones that generate where there are none, by id; `adapters` by name.

    Raises: BowerbirdError for one that is not bundled, no directory of a model, and no hub id, or an adapter of none.
    """
    adapters = adapters or {}
    if stray := [name for name in adapters if name not in names]:
        raise BowerbirdError(f"an adapter is for {stray[0]!r}, which is not served; give it as --model too")
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
        found[own] = Served(own, name, folder if is_folder else None, adapters.get(name))
    return found


def read_adapters(names: Sequence[str], **options: Sequence[str]) -> dict[str, Adapter]:
    """How base models among `names` take references; each of `options`, the fields of `Adapter`, is `VALUE` for the
    first model, or `MODEL=VALUE`. Raises: BowerbirdError for a file or folder that is not there."""
    found: dict[str, dict[str, Any]] = {}
    for field, values in options.items():
        for text in values:
            name, mark, value = text.partition("=")
            if not mark or name not in names:
                name, value = next(iter(names), ""), text
            if field in ("adapter", "image_encoder") and not Path(value).exists():
                raise BowerbirdError(f"--{field.replace('_', '-')} {value}: there is no such file or folder")
            found.setdefault(name, {})[field] = value
    if "" in found:
        raise BowerbirdError("an adapter is a base model's: give the base as --model too")
    return {name: adapter_of(facts) for name, facts in found.items()}


def adapter_of(facts: Mapping[str, Any]) -> Adapter:
    """An adapter of JSON fields."""
    paths = {key: Path(facts[key]) for key in ("adapter", "image_encoder") if facts.get(key)}
    return Adapter(**{**facts, **paths})


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """An adapter as JSON fields."""
    return {key: str(value) for key, value in asdict(adapter).items() if value}


def _id(name: str, folder: Path | None) -> str:
    if bundled(name) or folder is None:
        return name.replace("/", "--")
    whole = folder.resolve()
    last = whole.parent.name if (whole.parent / "recipe.json").is_file() else whole.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
