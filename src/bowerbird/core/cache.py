"""Where results that can be made again are kept: `$BOWERBIRD_CACHE`, else the user's cache directory."""

from __future__ import annotations

import os
from pathlib import Path


def directory(*parts: str) -> Path:
    """The folder for one kind of cached thing, made when it is not there. Deleting it loses time only."""
    root = os.environ.get("BOWERBIRD_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bowerbird"
    path = base.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
