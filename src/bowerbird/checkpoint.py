"""Files that are either whole or absent: temporary name, fsync, rename; a directory's manifest is written last.

Tensors are safetensors only. Reading never runs code from the file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    import torch


def fsync_path(path: Path) -> None:
    """Make a file, or a directory's list of names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; renamed onto `path` when the block ends well, removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A temporary sibling directory that takes the place of `path` when the block ends well.

    Where `path` exists it is moved aside first, so a kill at that instant leaves neither: use this for what is new or can be
    made again, and `atomic_path` for what cannot.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            fsync_path(file)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """The object in the JSON file at `path`. Raises: BowerbirdError naming `what` when it is missing or not an object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BowerbirdError(f"{path}: no {what} here ({error.strerror})") from error
    except ValueError as error:
        raise BowerbirdError(f"{path}: this {what} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise BowerbirdError(f"{path}: this {what} is not a JSON object")
    return value


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` (and text `metadata`) as one safetensors file, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=dict(metadata or {}))


def read_tensor_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises: BowerbirdError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BowerbirdError(f"{path}: cannot be read as safetensors ({error})") from error
