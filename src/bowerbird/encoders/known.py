"""Where an encoder's directory lies on this machine, by its fingerprint.

What is recorded elsewhere (a knowledge base, a model, a picture) goes to other people, so it holds the last part of the
path; this list stays here, beside other things that can be made again.
"""

from __future__ import annotations

import re
from pathlib import Path

from bowerbird.core import cache, files
from bowerbird.core.errors import BowerbirdError

_OPENED: dict[str, Path] = {}


def remember(fingerprint: str, path: Path) -> None:
    """Keep that the encoder with this `fingerprint` lies at `path`, for this process and, where there is a cache that
    can be written, for later ones."""
    path = path.absolute()
    if _OPENED.get(fingerprint) != path and place_of(fingerprint) != path:
        try:
            files.write_json(_file(fingerprint), {"path": str(path)})
        except (OSError, BowerbirdError):  # later ones are given it again
            pass
    _OPENED[fingerprint] = path


def place_of(fingerprint: str) -> Path | None:
    """Where the encoder with this `fingerprint` was last opened, if something is there still."""
    place = _OPENED.get(fingerprint)
    if place is None and re.fullmatch(r"[0-9a-f]{16}", fingerprint):  # of a stranger's file it may be anything
        try:
            place = Path(str(files.read_json(_file(fingerprint), "place of an encoder").get("path")))
        except (OSError, BowerbirdError):
            return None
    return place if place is not None and place.is_dir() else None


def _file(fingerprint: str) -> Path:
    return cache.directory("encoders") / f"{fingerprint}.json"
