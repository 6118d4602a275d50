"""A checkpoint that `torch.save` wrote, read without running anything in it and without loading what is not asked for.

The file is a zip: one pickle that describes, and every tensor's bytes stored plainly beside it. The pickle is walked
with a restricted reader: plain containers are built, a tensor becomes a `Stored` (where its bytes lie), and every
other object becomes an empty shell whose code is never imported. Names that only an attack would write refuse the
file. `torch.load(weights_only=True)` would refuse the shells too, which checkpoints of PyTorch Lightning hold. A
safetensors file gives the same `Stored` tensors.
"""

from __future__ import annotations

import io
import lzma
import math
import operator
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json

if TYPE_CHECKING:
    import torch

DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
CONTAINERS = {"dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
ACTING = frozenset(
    {
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "runpy",
        "importlib",
        "imp",
        "pkgutil",
        "pickle",
        "_pickle",
        "marshal",
        "shutil",
        "socket",
        "ctypes",
        "_ctypes",
        "multiprocessing",
        "threading",
        "asyncio",
        "pty",
        "code",
        "codeop",
        "pdb",
        "bdb",
        "profile",
        "cProfile",
        "timeit",
        "signal",
        "tempfile",
        "http",
        "urllib",
        "ftplib",
        "smtplib",
        "ssl",
        "webbrowser",
        "commands",
        "builtins",
        "__builtin__",
    }
)
"""Modules of Python's own that do things; no object of theirs belongs in a checkpoint. (Of `builtins` only what
follows is let through.)"""
HARMLESS = frozenset(
    {
        "object",
        "type",
        "int",
        "float",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "complex",
        "slice",
        "range",
        "NoneType",
        "Ellipsis",
        "NotImplemented",
        # what pickles of protocol 2 call int, str, range and chr
        "long",
        "unicode",
        "xrange",
        "unichr",
        "basestring",
    }
)
PICKLE_LIMIT, HEADER_LIMIT, LARGEST = 16 * 2**20, 100 * 2**20, 2**48
DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    struct.error,
    OSError,
    RuntimeError,
    AssertionError,
    MemoryError,
    OverflowError,
    zlib.error,
    lzma.LZMAError,
)
"""What reading bytes that somebody broke, or made up, raises in the libraries below."""


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read: its `dtype` by name, `shape` and `stride` in elements, and where in `file` its
    first element lies, in bytes. `crc`: the checksum (CRC-32) the file gives of exactly these bytes, None where it
    gives none."""

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    crc: int | None = None

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read(self) -> torch.Tensor:
        """The tensor, in memory of its own. Raises: BowerbirdError where its bytes are not those that were written."""
        import torch

        dtype = getattr(torch, self.dtype)
        if self.numel == 0:
            return torch.empty(self.shape, dtype=dtype)
        length = _span(self.shape, self.stride) * BYTES[self.dtype]
        data = bytearray(length)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(data) != length:
                raise BowerbirdError(f"{self.file}: is truncated, it ends before its tensors do; fetch it again")
        if self.crc is not None and zlib.crc32(data) != self.crc:
            raise BowerbirdError(
                f"{self.file}: the bytes of a tensor of shape {self.shape} do not match their checksum; the file is"
                " damaged, fetch it again"
            )
        return torch.as_strided(torch.frombuffer(data, dtype=dtype), self.shape, self.stride)


@dataclass(frozen=True)
class _Storage:
    """Bytes that tensors are views of, from `start` in the file; `dtype` is None for a kind that is not known here,
    `crc` is 0 where the file gives no checksum."""

    dtype: str | None
    start: int
    length: int
    crc: int


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


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements of a storage a tensor reaches over."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if all(shape) else 0


# The unpickler written in Python, not the one in C: that one keeps an array as long as the largest number a file names.
class _Reader(pickle._Unpickler):
    """Builds what the pickle of a checkpoint says, out of plain containers, `Stored` tensors and shells."""

    def __init__(self, data: bytes, path: Path, storages: Mapping[str, tuple[int, int, int]]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path, self.storages = path, storages
        # a class of this file's own: a pickle may set attributes on the classes it names
        self.record = type("Record", (dict,), {})

    def find_class(self, module: str, name: str) -> Any:
        top = module.split(".")[0]
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *rest: data
        if (module, name) == ("collections", "OrderedDict"):
            return self.record
        if (module, name) == ("torch", "Size"):
            return tuple
        if top in ("builtins", "__builtin__") and name in CONTAINERS:
            return CONTAINERS[name]
        if top in ACTING and not (top in ("builtins", "__builtin__") and name in HARMLESS):
            raise BowerbirdError(
                f"{self.path}: asks to run {module}.{name}, which no weights need; it was not run. Do not trust this"
                " file"
            )
        return type(str(name).split(".")[-1], (_Shell,), {})

    def persistent_load(self, said: Any) -> _Storage:
        kind, dtype, key = said[0], said[1], str(said[2])
        if kind != "storage" or key not in self.storages:
            raise BowerbirdError(
                f"{self.path}: the bytes of storage {key} are missing, the file is truncated; fetch it again"
            )
        return _Storage(dtype if isinstance(dtype, str) and dtype in BYTES else None, *self.storages[key])

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Stored | None:
        """Stands in for torch's function that rebuilds a tensor; None for numbers of a kind that no weights are of."""
        if not isinstance(storage, _Storage):
            raise BowerbirdError(f"{self.path}: a tensor without bytes; the file is damaged")
        if storage.dtype is None:
            return None
        first, size, step = (
            operator.index(offset),
            tuple(map(operator.index, shape)),
            tuple(map(operator.index, stride)),
        )
        each = BYTES[storage.dtype]
        most = max((first, *size, *step))
        if (
            len(size) != len(step)
            or min((first, *size, *step)) < 0
            or most > LARGEST
            or max(first + _span(size, step), math.prod(size)) * each > storage.length
        ):
            raise BowerbirdError(f"{self.path}: a tensor of shape {size} reaches beyond its bytes; the file is damaged")
        whole = first == 0 and _span(size, step) * each == storage.length
        crc = storage.crc if whole and storage.crc else None
        return Stored(self.path, storage.start + first * each, storage.dtype, size, step, crc)


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
    try:
        if len(first) == 9 and first[8:] == b"{":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_zip(path, archive)
    except DAMAGE as error:
        raise BowerbirdError(
            f"{path}: this checkpoint is damaged ({type(error).__name__}: {str(error)[:200]}); fetch it again"
        ) from error
    raise BowerbirdError(
        f"{path}: neither a checkpoint of torch 1.6 or later nor safetensors, or it is truncated; convert an older one"
        " that you trust by torch.load and torch.save"
    )


def _read_zip(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise BowerbirdError(f"{path}: a zip file, but not a torch checkpoint (no data.pkl in it)")
    packed = [name for name, info in entries.items() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise BowerbirdError(f"{path}: {packed[0]} in it is compressed; torch.save does not write such files")
    if entries["data.pkl"].file_size > PICKLE_LIMIT:
        raise BowerbirdError(
            f"{path}: its description alone is {entries['data.pkl'].file_size / 2**20:.0f} MiB, too large for a model"
        )
    order = entries.get("byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
        raise BowerbirdError(
            f"{path}: written on a machine of the other byte order; load it there and save it as safetensors"
        )
    storages, end = {}, path.stat().st_size
    with path.open("rb") as file:
        for name, info in entries.items():
            folder, _, key = name.partition("/")
            if folder == "data" and key:
                file.seek(info.header_offset + 26)
                name_length, extra_length = struct.unpack("<HH", file.read(4))
                start = info.header_offset + 30 + name_length + extra_length
                if start + info.file_size > end:
                    raise BowerbirdError(f"{path}: is truncated, it ends before its tensors do; fetch it again")
                storages[key] = (start, info.file_size, info.CRC)
    return _Reader(archive.read(entries["data.pkl"]), path, storages).load()


def _read_safetensors(path: Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, HEADER_LIMIT):
            raise BowerbirdError(f"{path}: this safetensors file is damaged or truncated; fetch it again")
        header = parse_json(file.read(length), str(path), "safetensors header")
    found = {
        str(name): _entry(path, 8 + length, said)
        for name, said in header.items()
        if name != "__metadata__" and said["dtype"] in SAFETENSORS_DTYPES
    }
    if any(each.start < 8 + length or each.start + each.numel * BYTES[each.dtype] > size for each in found.values()):
        raise BowerbirdError(f"{path}: is truncated, it ends before its tensors do; fetch it again")
    return found


def _entry(path: Path, base: int, said: dict[str, Any]) -> Stored:
    shape = tuple(map(operator.index, said["shape"]))
    if not all(0 <= side <= LARGEST for side in shape):
        raise ValueError(f"a shape of {shape}")
    stride = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    return Stored(
        path, base + operator.index(said["data_offsets"][0]), SAFETENSORS_DTYPES[said["dtype"]], shape, stride
    )
