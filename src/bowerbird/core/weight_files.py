"""Reading other people's weight files without running what they may hide."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from torch import Tensor


def file_fingerprint(path: str | Path) -> str:
    """The first 16 hex digits of the file's SHA-256. Raises: BowerbirdError when it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise BowerbirdError(f"{path}: cannot be read ({error.strerror}); give the path of a weights file") from error


def folder_fingerprint(folder: str | Path) -> str:
    """16 hex digits of all safetensors files in `folder`, whatever they are called. Raises: BowerbirdError when one
    cannot be read."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise BowerbirdError(f"{file}: cannot be read ({error.strerror}); fetch it again") from error
    return digest.hexdigest()[:16]


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a torch file, by torch's restricted reader. Raises: BowerbirdError when it holds anything else."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BowerbirdError(f"{path}: cannot be read as plain weights ({str(error).splitlines()[0][:120]})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BowerbirdError(f"{path}: holds more than named tensors; save its state_dict as safetensors")
    return state


def load_script(path: str | Path) -> Any:
    """A TorchScript archive, for evaluation on the CPU. It is a program in torch's own language: open only what you
    trust.

    Raises: BowerbirdError when it is none.
    """
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as error:
        raise BowerbirdError(f"{path}: not a TorchScript archive ({str(error).splitlines()[0][:120]})") from error
