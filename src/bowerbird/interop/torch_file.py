"""A checkpoint that `torch.save` wrote, read without running anything in it and without loading what is not asked for.

The file is a zip: one pickle that describes, and every tensor's bytes stored plainly beside it. The pickle is walked with a restricted
reader: plain containers are built, a tensor becomes a `Stored` (where its bytes lie), objects of the programs that train such models become
empty shells whose code is never imported, and any other name refuses the file. `torch.load(weights_only=True)` would refuse the shells too,
which checkpoints of PyTorch Lightning hold. A safetensors file gives the same `Stored` tensors.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError

if TYPE_CHECKING:
    import torch

DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
SHELLS = (
    "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "ldm", "rdm", "taming", "main", "__main__", "numpy", "torch", "typing", "argparse",
    "pathlib", "collections", "functools", "enum", "datetime", "copyreg", "copy_reg", "_codecs",
)  # fmt: skip
"""Packages whose objects in a checkpoint say nothing of its weights: training settings, callbacks, counters."""
PLAIN = {
    "dict": dict,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "complex": complex,
}
PICKLE_LIMIT = 256 * 2**20
HEADER_LIMIT = 100 * 2**20


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read: its `dtype` by name, `shape` and `stride` in elements, and where in `file` its first element lies, in bytes."""

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def read(self) -> torch.Tensor:
        """The tensor, in memory of its own."""
        import torch

        dtype = getattr(torch, self.dtype)
        if self.numel == 0:
            return torch.empty(self.shape, dtype=dtype)
        length = _span(self.shape, self.stride) * BYTES[self.dtype]
        data = bytearray(length)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(data) != length:
                raise BowerbirdError(f"{self.file}: ends before its tensors do; it was cut off, fetch it again")
        return torch.as_strided(torch.frombuffer(data, dtype=dtype), self.shape, self.stride)


class _Shell:
    """Stands for an object of a training program; takes whatever it is given and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...
    def add(self, value: Any) -> None: ...


class _Record(dict[Any, Any]):
    """A mapping that may carry attributes, as the state of a network does."""


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements of a storage a tensor reaches over."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if all(shape) else 0


class _Reader(pickle.Unpickler):
    """Builds what the pickle of a checkpoint says, out of plain values, `Stored` tensors and shells."""

    def __init__(self, data: bytes, path: Path, storages: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path, self.storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        if (module, name) == ("collections", "OrderedDict"):
            return _Record
        if (module, name) == ("torch", "Size"):
            return tuple
        if module in ("builtins", "__builtin__") and name in PLAIN:
            return PLAIN[name]
        if module.split(".")[0] in SHELLS:
            return type(name.split(".")[-1], (_Shell,), {})
        raise BowerbirdError(f"{self.path}: asks to run {module}.{name}, which no weights need; it was not run. Do not trust this file")

    def persistent_load(self, said: Any) -> tuple[str, int, int]:
        kind, dtype, key = said[0], said[1], str(said[2])
        if kind != "storage" or dtype not in BYTES:
            raise BowerbirdError(f"{self.path}: holds a storage of a kind that is not known here ({dtype})")
        if key not in self.storages:
            raise BowerbirdError(f"{self.path}: the bytes of storage {key} are missing; it was cut off, fetch it again")
        return (dtype, *self.storages[key])

    def tensor(self, storage: tuple[str, int, int], offset: int, shape: Any, stride: Any, *rest: Any) -> Stored:
        """Stands in for torch's function that rebuilds a tensor."""
        dtype, start, length = storage
        size, step = tuple(map(int, shape)), tuple(map(int, stride))
        if min((offset, *size, *step), default=0) < 0 or (offset + _span(size, step)) * BYTES[dtype] > length:
            raise BowerbirdError(f"{self.path}: a tensor of shape {size} reaches beyond its bytes; the file is damaged")
        return Stored(self.path, start + offset * BYTES[dtype], dtype, size, step)


def read_torch_file(path: str | Path) -> Any:
    """What the checkpoint at `path` (of `torch.save`, or safetensors) holds, with a `Stored` in place of every tensor.

    Raises: BowerbirdError for a file that is damaged, of the format before torch 1.6, or asks for code to be run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError as error:
        raise BowerbirdError(f"{path}: cannot be read ({error.strerror}); give a checkpoint file") from error
    if len(first) == 9 and first[8:] == b"{":
        return _read_safetensors(path)
    if not zipfile.is_zipfile(path):
        how = "python -c \"import torch; torch.save(torch.load('OLD', weights_only=True), 'NEW')\""
        raise BowerbirdError(f"{path}: no checkpoint of torch 1.6 or later and no safetensors (or it was cut off); an older one is written anew by: {how}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(path, archive)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, struct.error) as error:
        raise BowerbirdError(f"{path}: this checkpoint is damaged ({type(error).__name__}: {error}); fetch it again") from error
    except (RecursionError, MemoryError, OverflowError) as error:
        raise BowerbirdError(f"{path}: this checkpoint describes more than a model can hold ({type(error).__name__})") from error


def _read_zip(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise BowerbirdError(f"{path}: a zip, but no checkpoint of torch (no data.pkl in it)")
    if entries["data.pkl"].file_size > PICKLE_LIMIT:
        raise BowerbirdError(f"{path}: its description alone is {entries['data.pkl'].file_size / 2**20:.0f} MiB; that is no model's")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise BowerbirdError(f"{path}: written on a machine of the other byte order; load it there and save it as safetensors")
    storages = {}
    with path.open("rb") as file:
        for name, info in entries.items():
            folder, _, key = name.partition("/")
            if folder == "data" and key:
                if info.compress_type != zipfile.ZIP_STORED:
                    raise BowerbirdError(f"{path}: its tensors are compressed; torch.save does not write such files")
                file.seek(info.header_offset + 26)
                name_length, extra_length = struct.unpack("<HH", file.read(4))
                storages[key] = (info.header_offset + 30 + name_length + extra_length, info.file_size)
    return _Reader(archive.read(entries["data.pkl"]), path, storages).load()


def _read_safetensors(path: Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, HEADER_LIMIT):
            raise BowerbirdError(f"{path}: this safetensors file is damaged or cut off; fetch it again")
        try:
            header = json.loads(file.read(length))
            found = {name: _entry(path, 8 + length, said) for name, said in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BowerbirdError(f"{path}: this safetensors file is damaged ({type(error).__name__}: {error})") from error
    if any(each.start < 0 or each.start + each.numel * BYTES[each.dtype] > size for each in found.values()):
        raise BowerbirdError(f"{path}: ends before its tensors do; it was cut off, fetch it again")
    return found


def _entry(path: Path, base: int, said: dict[str, Any]) -> Stored:
    shape = tuple(int(side) for side in said["shape"])
    stride, step = [], 1
    for side in reversed(shape):
        stride.append(step)
        step *= side
    if min(shape, default=0) < 0:
        raise ValueError("a negative side")
    return Stored(path, base + int(said["data_offsets"][0]), SAFETENSORS_DTYPES[said["dtype"]], shape, tuple(reversed(stride)))
