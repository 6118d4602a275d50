"""`load(name)`: from a bundled name, a directory, a hub id or a class of one's own to an `Encoder`, or one line that
says what would work.

An encoder of ours is one line of `BUILT_IN`. What an encoder must do is written in `core.types.Encoder`; a class of
somebody else's joins as the name `module:Class`, or for good by an entry point of a package in the group
`bowerbird.encoders`, under the entry point's name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.core import files, plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import printable
from bowerbird.core.types import Encoder
from bowerbird.encoders import engines, known
from bowerbird.encoders.clip import load_clip
from bowerbird.models.weights import bundled

BUILT_IN: Mapping[str, str] = {
    "bowerbird-small-encoder": "bowerbird.encoders.small:load_small",
    "bowerbird-patch-encoder": "bowerbird.encoders.small:load_small",
    "clip": "bowerbird.encoders.clip:load_clip",
    "siglip": "bowerbird.encoders.clip:load_clip",
    "clip_vision_model": "bowerbird.encoders.clip_vision:load_clip_vision",
}
"""By what the `config.json` of a directory says it is (`type` or `model_type`): the function `(path, *, name, device)`
that opens it."""
ENTRY_POINTS = "bowerbird.encoders"
MEMBERS = ("dim", "shared_dim", "fingerprint", "embed_text", "embed_images")


def load(name: str | Path = "small", *, device: str = "cpu") -> Encoder:
    """The encoder called `name`: `small` (bundled), a directory (ours, CLIP, its vision half or SigLIP in transformers
    layout), a hub id, an installed encoder, or `module:Class` (a class of one's own, made with `device=` where it takes
    that); with `@onnx`, `@openvino` or `@bfloat16` behind it (`encoders.engines`).

    For a name that a person gave; see `load_recorded` for others. Its own `name` says nothing of the machine: of a
    directory elsewhere it is the last part. Raises: BowerbirdError when there is no such encoder or the directory
    holds something else.
    """
    text, engine = engines.split(str(name))
    if engine is not None:
        return _with_engine(load(text, device=engines.device_of(engine, device)), engine)
    if plugins.is_path(text):
        return _instance(plugins.load_object(text, "encoder"), text, device)
    return _named(text, device) or load_clip(text, name=text, device=device, fetch=True)


def _with_engine(encoder: Encoder, engine: str) -> Encoder:
    """The encoder in another engine; where it lies stays known."""
    made = engines.with_engine(encoder, engine)
    place = known.place_of(encoder.fingerprint)
    if place is not None and not bundled(encoder.name):
        known.remember(made.fingerprint, place)
    return made


def load_recorded(name: str, fingerprint: str, *, device: str = "cpu") -> Encoder:
    """The encoder that a file calls `name`, a knowledge base or a model, which may be anybody's: one that is on this
    machine. Nothing is fetched, and no code runs but that of installed encoders, which whoever installed them chose.

    With `fingerprint` a directory is found where it was last opened, too. Raises: BowerbirdError when it is not here.
    """
    name, engine = engines.split(name)
    if plugins.is_path(name):
        raise BowerbirdError(
            f"encoder {name!r} is somebody's own code, and a name that is recorded runs none; give it yourself:"
            f" `encoder={name}`"
        )
    for place in (known.place_of(fingerprint), Path(name)):
        if place is not None and bundled(name) is None and place.is_dir():
            found = _directory(place, name, device)
            found = found if engine is None else _with_engine(found, engine)
            if found.fingerprint == fingerprint:
                return found
    try:
        here = _named(name, device) or load_clip(name, name=name, device=device)
        return here if engine is None else _with_engine(here, engine)
    except BowerbirdError as error:
        raise BowerbirdError(
            f"encoder {ascii(name)[:100]} ({fingerprint[:16]}) is recorded, and a recorded name fetches nothing; it is"
            f" not on this machine. If you trust it, give it yourself: `encoder={printable(name)[:100]}`, or the"
            " directory it lies in"
        ) from error


def place_of(encoder: Encoder) -> str:
    """What another process on this machine gives `load` to get this `encoder`."""
    name, engine = engines.split(encoder.name)
    place = None if bundled(name) else known.place_of(encoder.fingerprint)
    return encoder.name if place is None else engines.named(str(place), engine or engines.TORCH)


def _named(text: str, device: str) -> Encoder | None:
    """The encoder called `text` that is on this machine; None for what may be a hub id. Raises: BowerbirdError for what
    can be nothing."""
    path = bundled(text) or Path(text)
    if path.is_dir():
        return _directory(path, text, device)
    if text in plugins.entry_point_names(ENTRY_POINTS):
        return _instance(plugins.entry_point(ENTRY_POINTS, text), text, device)
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise BowerbirdError(
            f"encoder {text!r}: not a bundled name (small), a directory, a hub id such as openai/clip-vit-base-patch32,"
            " an installed encoder or module:Class"
        )
    return None


def _directory(path: Path, text: str, device: str) -> Encoder:
    """The encoder in the directory `path`, which was given as `text`."""
    config = files.read_json(path / "config.json", "encoder configuration")
    kind = config.get("type") or config.get("model_type") or config.get("_class_name", "something else")
    if not isinstance(kind, str) or kind not in BUILT_IN:
        raise BowerbirdError(
            f"encoder {text!r}: its config.json says {ascii(kind)[:60]}; bowerbird reads its own small encoders, clip"
            " and siglip"
        )
    if bundled(text):
        return _open(BUILT_IN[kind], path, text, device)
    found = _open(BUILT_IN[kind], path, files.last_part(text), device)
    known.remember(found.fingerprint, path)
    return found


def _open(loader: str, path: str | Path, name: str, device: str) -> Encoder:
    module, _, function = loader.partition(":")
    encoder: Encoder = getattr(importlib.import_module(module), function)(path, name=name, device=device)
    return encoder


def _instance(found: Any, name: str, device: str) -> Encoder:
    """An encoder of somebody else's, made when it is a class. It is called by the name it was given by, so that a
    worker process finds it too.

    Raises: BowerbirdError when something of an encoder is missing.
    """
    if isinstance(found, type):
        found = found(device=device) if "device" in inspect.signature(found).parameters else found()
    missing = plugins.missing_members(found, MEMBERS)
    if missing:
        raise BowerbirdError(
            f"encoder {name!r}: has no {', '.join(missing)}; see bowerbird.core.types.Encoder for what it must have"
        )
    found.name = name
    encoder: Encoder = found
    return encoder
