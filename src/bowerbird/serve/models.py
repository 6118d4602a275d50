"""The models that are served: by an id, each with its card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.models.cards import CARDS
from bowerbird.models.weights import ADAPTERS, DESCRIPTIONS, bundled
from bowerbird.systems import hub
from bowerbird.systems.grounded.bases import BASES
from bowerbird.systems.reference_settings import Adapter, parse_lora
from bowerbird.systems.registry import pipeline_names

MOST_README = 100_000
FILES = ("adapter", "image_encoder", "lora")
"""Options that name a file or folder."""


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
            "loras": []
            if self.adapter is None
            else [f"{lora.path.name} {lora.scale:g}" for lora in self.adapter.loras],
            "bytes": sum(path.stat().st_size for path in files),
            "card": self.card(),
        }


BUNDLED = (
    "reimagen-drawings",
    "tiny-rdm",
    "tiny-rdm-fast",
    "tiny-reimagen",
    "tiny-knn",
    "tiny-instruct",
    "tiny-racm3",
    "tiny-sd",
)
"""What is served where no model is named, the first by default."""


def served(names: Sequence[str], adapters: Mapping[str, Adapter] | None = None) -> dict[str, Served]:
    """The models called `names`, all bundled ones that generate where there are none, by id; `adapters` by name.

    Raises: BowerbirdError for one that is not bundled, no directory of a model, and no hub id; of a class that is not
    known; or an adapter of one that takes none.
    """
    adapters = adapters or {}
    if stray := [name for name in adapters if name not in names]:
        raise BowerbirdError(f"an adapter is for {stray[0]!r}, which is not served; give it as --model too")
    if not names:
        adapters = {base: Adapter(adapter=Path(adapter)) for base, adapter in ADAPTERS.items()}
    found: dict[str, Served] = {}
    for name in names or [name for name in BUNDLED if bundled(name)]:
        folder = bundled(name) or Path(name)
        hub.check_no_file(str(folder))
        is_folder = (folder / "model_index.json").is_file()
        if not is_folder and (name.count("/") != 1 or name.startswith((".", "/")) or folder.exists()):
            raise BowerbirdError(
                f"model {name!r}: not bundled ({', '.join(CARDS)}), no directory of a model, and no hub id"
            )
        own = _id(name, folder if is_folder else None)
        if own in found:
            raise BowerbirdError(f"model {name!r}: another model is called {own!r} too; rename the directory")
        found[own] = Served(own, name, folder if is_folder else None, adapters.get(name))
        _check_class(found[own])
    return found


def _check_class(served: Served) -> None:
    """What a worker would refuse when somebody first asks for it, refused before anybody can; nothing is opened.

    Raises: BowerbirdError.
    """
    kind = served.class_name
    if served.folder is None:
        return
    if kind not in pipeline_names():
        raise BowerbirdError(
            f"model {served.place!r} is of class {kind!r}, which is not one that bowerbird generates with; it knows"
            f" {', '.join(sorted(pipeline_names()))}"
        )
    others = not pipeline_names()[kind].startswith("bowerbird.")  # whose own class says what it takes
    if served.adapter is not None and kind not in BASES and not others:
        raise BowerbirdError(
            f"model {served.place!r} is a {kind}, which takes no --adapter, --image-encoder, --fit, --offload or"
            " --lora: these are for base models of diffusers, see docs/your-model.md"
        )


def read_adapters(names: Sequence[str], **options: Sequence[str]) -> dict[str, Adapter]:
    """How base models among `names` take references; each of `options`, the fields of `Adapter`, is `VALUE` for the
    first model, or `MODEL=VALUE`; LoRAs are added up. Raises: BowerbirdError for a file or folder that is not there."""
    found: dict[str, dict[str, Any]] = {}
    for field, values in options.items():
        for text in values:
            name, mark, value = text.partition("=")
            if not mark or name not in names:
                name, value = next(iter(names), ""), text
            file = parse_lora(value).path if field == "lora" else Path(value)
            if field in FILES and not (file.exists() or bundled(str(file))):
                raise BowerbirdError(f"--{field.replace('_', '-')} {value}: there is no such file or folder")
            if field == "lora":
                found.setdefault(name, {}).setdefault("loras", []).append(value)
            else:
                found.setdefault(name, {})[field] = value
    if "" in found:
        raise BowerbirdError("an adapter is a base model's: give the base as --model too")
    return {name: adapter_of(facts) for name, facts in found.items()}


def adapter_of(facts: Mapping[str, Any]) -> Adapter:
    """An adapter of JSON fields."""
    paths = {key: Path(facts[key]) for key in ("adapter", "image_encoder") if facts.get(key)}
    return Adapter(**{**facts, **paths, "loras": tuple(map(parse_lora, facts.get("loras", ())))})


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """An adapter as JSON fields."""
    names = ("adapter", "image_encoder", "fit", "offload")
    plain = {name: str(value) for name in names if (value := getattr(adapter, name))}
    loras = [f"{lora.path}:{lora.scale!r}" for lora in adapter.loras]
    return {**plain, "loras": loras} if loras else plain


def _id(name: str, folder: Path | None) -> str:
    if bundled(name) or folder is None:
        return name.replace("/", "--")
    whole = folder.resolve()
    last = whole.parent.name if (whole.parent / "recipe.json").is_file() else whole.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
