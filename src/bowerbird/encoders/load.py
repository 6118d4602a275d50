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
from bowerbird.core.types import Encoder
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
HUB = BUILT_IN["clip"]
"""What opens a hub id."""
ENTRY_POINTS = "bowerbird.encoders"
MEMBERS = ("dim", "shared_dim", "fingerprint", "embed_text", "embed_images")


def load(name: str | Path = "small", *, device: str = "cpu", allow_import: bool = True) -> Encoder:
    """The encoder called `name`: `small` (bundled), a directory (ours, CLIP, its vision half or SigLIP in transformers
    layout), a hub id, an installed encoder, or `module:Class` (a class of one's own, made with `device=` where it takes
    that).

    `allow_import=False` for a name that was read from a file: then `module:Class` is refused, as importing runs code.
    (An installed encoder was chosen by whoever installed it.) Raises: BowerbirdError when there is no such encoder or
    the directory holds something else.
    """
    text = str(name)
    if plugins.is_path(text):
        if not allow_import:
            raise BowerbirdError(
                f"encoder {text!r} is somebody's own code, and a name that is recorded runs none; give it yourself:"
                f" `encoder={text}`"
            )
        return _instance(plugins.load_object(text, "encoder"), text, device)
    path = bundled(text) or Path(name)
    if path.is_dir():
        config = files.read_json(path / "config.json", "encoder configuration")
        kind = config.get("type") or config.get("model_type") or config.get("_class_name", "something else")
        if kind not in BUILT_IN:
            raise BowerbirdError(
                f"encoder {text!r}: its config.json says {kind!r}; bowerbird reads its own small encoders, clip and"
                " siglip"
            )
        return _open(BUILT_IN[kind], path, text, device)
    if text in plugins.entry_point_names(ENTRY_POINTS):
        return _instance(plugins.entry_point(ENTRY_POINTS, text), text, device)
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise BowerbirdError(
            f"encoder {text!r}: not a bundled name (small), a directory, a hub id such as openai/clip-vit-base-patch32,"
            " an installed encoder or module:Class"
        )
    return _open(HUB, text, text, device)


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
