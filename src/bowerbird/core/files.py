"""Files that are either whole or absent: temporary name, fsync, rename; a directory's manifest is written last.

Tensors are safetensors only. Reading never runs code from the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import leftovers
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError, Terminated
from bowerbird.core.lock import lock
from bowerbird.core.text import MOST_CHARACTERS, json_ready, parse_json

if TYPE_CHECKING:
    import numpy as np
    import torch


SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SEAL = "seal"
MAKING = "making.json"
"""What a directory in the making says of itself; gone when it is made."""


def fsync_path(path: Path) -> None:
    """Make a file, or a directory's list of names, durable.

    Windows (no `os.O_DIRECTORY`) opens no directory, and keeps its list of names itself; a file must be open for
    writing there to be flushed.
    """
    windows = not hasattr(os, "O_DIRECTORY")
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_paths(paths: Iterable[Path]) -> None:
    """`fsync_path` of each, side by side: the disk then writes them together, where one after the other waits as often
    as there are files."""
    every = list(paths)
    with ThreadPoolExecutor(min(8, max(1, len(every)))) as pool:
        for _ in pool.map(fsync_path, every):  # which raises what one of them raised
            pass


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it, where they are not there, and their entries durable."""
    fresh = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in fresh:
        fsync_path(folder.parent)


def check_name(path: str | Path) -> Path:
    """`path`, unless it is empty or ends in no name of its own, as `.` and `..` do: nothing can be made beside these
    and renamed. Raises: BowerbirdError."""
    path = Path(path)
    if path.name in ("", ".."):
        raise BowerbirdError(f"{str(path)!r}: names no file or folder to make; give it a name, as in {path / 'new'}")
    return path


def last_part(path: str) -> str:
    """The name at the end of a path or address: where a file lies says who made it, and is nobody's business."""
    return re.split(r"[/\\]", str(Path(path).resolve()) if path in (".", "..") else path.rstrip("/\\"))[-1]


def portable(path: str) -> str:
    """A name or `path` as it may be recorded and go to other people: a relative one as it is, of one elsewhere on the
    machine the last part."""
    outside = re.match(r"[/\\~]|[A-Za-z]:[/\\]", path) is not None or ".." in Path(path).parts
    return last_part(path) if outside else path


def _follow(path: Path) -> Path:
    """What `path` is a link to: a directory takes the place of that, and the link stays."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; renamed onto `path` when the block ends well, removed when it does
    not. Within a directory that is in the making itself, that makes it durable with all else."""
    path = check_name(path)
    alone = not any(leftovers.is_temporary(folder.name) for folder in path.absolute().parents)
    if alone:
        leftovers.clear_once(path.parent)
    temporary = leftovers.temporary_name(path, "tmp")
    try:
        with disk_errors(path, temporary):
            make_folder(path.parent)
            yield temporary
            if alone:
                fsync_path(temporary)
            temporary.replace(path)
            if alone:
                fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A temporary sibling directory that takes the place of `path`, or of what `path` is a link to, when the block ends
    well.

    Where `path` exists it is moved aside first, so a kill at that instant leaves neither: use this for what is new or
    can be made again, and `atomic_path` for what cannot.
    """
    path = _follow(check_name(path))
    leftovers.clear_once(path.parent)
    temporary = leftovers.temporary_name(path, "tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(path, temporary):
            make_folder(path.parent)
            temporary.mkdir()
            yield temporary
            _take_the_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def resumable_directory(
    path: str | Path, tag: Mapping[str, Any], *, worth: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """As `atomic_directory`, but what a killed or interrupted block leaves is there again for the next block with the
    same `tag`.

    An error of ours or of the disk leaves nothing, unless what is there is `worth` keeping. Raises: BowerbirdError
    when another process makes the same path at this moment.
    """
    path = _follow(check_name(path))
    temporary = path.with_name(f".{path.name}.making")
    with disk_errors(path, temporary), _lock_of_making(path):
        mark = temporary / MAKING
        if not mark.is_file() or read_json(mark, "mark") != json.loads(json.dumps(tag)):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            write_json(mark, tag)
        try:
            with disk_errors(path, temporary):
                yield temporary
        except (BowerbirdError, OSError):
            if not worth(temporary):
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        except (KeyboardInterrupt, Terminated) as error:
            error.add_note(f"{path}: what is done is kept, and the same command goes on from there")
            raise
        _take_the_place(temporary, path)
        (path / MAKING).unlink()


@contextmanager
def _lock_of_making(path: Path) -> Iterator[None]:
    make_folder(path.parent)
    guard = path.with_name(f".{path.name}.making.lock")
    with lock(guard, f"{path}: another process is making this at the moment; wait for it", 0):
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no file that is open; it goes with the lock there
                guard.unlink(missing_ok=True)


def _take_the_place(made: Path, path: Path) -> None:
    """Make everything in `made` durable and rename it to `path`, which is moved aside and removed where it exists."""
    fsync_paths([*made.rglob("*"), made])
    old = leftovers.temporary_name(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    made.rename(path)
    fsync_path(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(_json(value), encoding="utf-8")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(json_ready(value), indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """The object in the JSON file at `path`, which anybody may have written (`text.parse_json`).

    Raises: BowerbirdError naming `what` when it is missing, damaged, out of range, or not an object.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise BowerbirdError(f"{path}: no {what} here ({error.strerror})") from error
    value = parse_json(content, str(path), what)
    if not isinstance(value, dict):
        raise BowerbirdError(f"{path}: this {what} is not a JSON object")
    return value


def write_sealed(path: str | Path, value: Mapping[str, Any]) -> None:
    """`write_json` with a short hash of every entry beside them, so that a flipped bit does not pass for a fact."""
    ready = json_ready(value)  # what is hashed is what is read back
    write_json(path, {**ready, SEAL: {key: _hash(entry) for key, entry in ready.items()}})


def read_sealed(path: str | Path, what: str, *, trust: Collection[str] = (), exactly: bool = False) -> dict[str, Any]:
    """`read_json` of what `write_sealed` wrote; the entries of `trust` may have been edited. `exactly`: to the last
    blank.

    Raises: BowerbirdError naming `what` and the entry that is not as it was written.
    """
    value = read_json(path, what)
    if exactly and Path(path).read_text(encoding="utf-8") != _json(value):
        raise BowerbirdError(f"{path}: this {what} is damaged (it is not written as it was); restore it from a copy")
    seal = value.pop(SEAL, None)
    if not isinstance(seal, dict) or set(seal) != set(value):
        raise BowerbirdError(
            f"{path}: this {what} is damaged (its entries are not those that were written); restore it from a copy"
        )
    for key, entry in value.items():
        if key not in trust and seal[key] != _hash(entry):
            raise BowerbirdError(
                f"{path}: this {what} is damaged ({key!r} is not as it was written); restore it from a copy"
            )
    return value


def _hash(entry: Any) -> str:
    return hashlib.sha256(
        json.dumps(entry, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    ).hexdigest()[:16]


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` (and text `metadata`) as one safetensors file, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=dict(metadata or {})
        )


def stream_tensors(
    path: str | Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], read: Callable[[str], torch.Tensor]
) -> None:
    """Write a safetensors file one tensor at a time, so that no more than one is in memory: `entries` says the dtype
    (`float32`) and shape of each.

    `read(name)` gives it, and must give just that. Atomic, as everything here. Raises: ValueError when `read` gives
    another dtype or shape than was announced.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in entries.items():
        start, end = end, end + math.prod(shape) * getattr(torch, dtype).itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    coded = json.dumps(header, separators=(",", ":")).encode()
    coded += b" " * (-len(coded) % 8)  # tensors start at a multiple of 8 bytes
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(coded).to_bytes(8, "little") + coded)
        for name, (dtype, shape) in entries.items():
            tensor = read(name).contiguous()
            if tensor.dtype != getattr(torch, dtype) or tuple(tensor.shape) != tuple(shape):
                raise ValueError(
                    f"{name}: {tensor.dtype} {tuple(tensor.shape)} where {dtype} {tuple(shape)} was announced"
                )
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def read_tensor_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a safetensors file. Raises: BowerbirdError when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise BowerbirdError(f"{path}: cannot be read as safetensors ({error})") from error


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises: BowerbirdError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BowerbirdError(f"{path}: cannot be read as safetensors ({error})") from error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as numpy's, without torch. Raises: BowerbirdError when it is missing or
    damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: of a type that numpy does not have
        raise BowerbirdError(f"{path}: cannot be read as safetensors ({error})") from error
