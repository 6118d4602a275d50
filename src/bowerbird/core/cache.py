"""Results that can be made again: where they are kept (`$BOWERBIRD_CACHE`, else the user's cache directory), and the
one way of keeping them.

    file = cache.directory("views") / f"{(key := cache.key(extractor.fingerprint, *pixels))[:32]}.safetensors"
    views = cache.memoize(file, key, lambda: {"views": describe(pictures)})["views"]
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def directory(*parts: str) -> Path:
    """The folder for one kind of cached thing, made when it is not there. Deleting it loses time only."""
    path = _base().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _base() -> Path:
    if root := os.environ.get("BOWERBIRD_CACHE"):
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bowerbird"
    except RuntimeError as error:  # no HOME, and the system knows no such user: in a container, say
        raise BowerbirdError(
            "there is no home directory to keep a cache in; set BOWERBIRD_CACHE to a folder that can be written"
        ) from error


def key(*parts: str | int | float | bytes | np.ndarray | None) -> str:
    """64 hex digits that change with any part, with its type and, for an array, with its dtype and shape."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str | int | float | None):
            name, content = type(part).__name__, str(part).encode()
        elif isinstance(part, bytes):
            name, content = "bytes", part
        else:
            name, content = f"{part.dtype} {part.shape}", part.tobytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def memoize(path: Path, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `make` returns: read from the safetensors file `path` where that was written under `key`, else
    made and written there, whole or not at all. A damaged file counts as none."""
    if path.is_file():
        try:
            if files.read_tensor_metadata(path).get("key") == key:
                return files.load_tensors(path)
        except BowerbirdError:
            pass
    # laid out as they are read again: sums over other strides round otherwise, and a run that goes on would differ
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    files.save_tensors(path, made, {"key": key})
    return made
