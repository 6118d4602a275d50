"""`load(name)`: from a bundled name, a local directory or a hub id to an `Encoder`, or one line that says what would
work."""

from __future__ import annotations

from pathlib import Path

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder
from bowerbird.models.weights import bundled


def load(name: str | Path = "small", *, device: str = "cpu") -> Encoder:
    """The encoder called `name`: `small` (bundled), a directory (ours, CLIP or SigLIP in transformers layout), or a
    hub id.

    Raises: BowerbirdError when there is no such encoder or the directory holds something else.
    """
    path = bundled(str(name)) or Path(name)
    if path.is_dir():
        config = files.read_json(path / "config.json", "encoder configuration")
        if config.get("type") == "bowerbird-small-encoder":
            from bowerbird.encoders.small import load_small

            return load_small(path, name=str(name), device=device)
        kind = config.get("model_type", config.get("_class_name", "something else"))
    elif str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        kind = "hub"
    else:
        raise BowerbirdError(
            f"encoder {str(name)!r}: not a bundled name (small), a directory, or a hub id such as"
            " openai/clip-vit-base-patch32"
        )
    if kind not in ("clip", "siglip", "hub"):
        raise BowerbirdError(
            f"encoder {str(name)!r}: its config.json says {kind!r}; bowerbird reads its own small encoders, clip and"
            " siglip"
        )
    from bowerbird.encoders.clip import load_clip

    return load_clip(str(path) if kind != "hub" else str(name), name=str(name), device=device)
