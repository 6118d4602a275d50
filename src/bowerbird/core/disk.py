"""What a disk refuses, said in one way: an `OSError` that names the place that was to be written.

A full disk has many voices: `write` gives an OSError that names no file, and safetensors, Arrow, LanceDB and FAISS put
the system's error into texts of errors of their own.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bowerbird.core.errors import BowerbirdError

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What concerns the disk and not one file name."""
_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)


@contextmanager
def disk_errors(place: str | Path, *also: Path) -> Iterator[None]:
    """A block that writes `place`, through temporary files `also`: what the disk refuses in it names `place`.

    An error that names another file passes, as that file is the one to look at. Raises: OSError.
    """
    try:
        yield
    except BowerbirdError:
        raise
    except Exception as error:
        code = disk_code(error)
        if code is None or not _unnamed(error, also):
            raise
        raise OSError(code, os.strerror(code), str(place)) from error


def disk_code(error: BaseException) -> int | None:
    """The number of the disk's error that `error` is or repeats; None for any other error."""
    if isinstance(error, OSError) and error.errno in CODES:
        return error.errno
    text = str(error)
    found = _NUMBER.search(text)
    if found is not None:
        return int(found[1]) if int(found[1]) in CODES else None
    return next((code for code in CODES if os.strerror(code) in text), None)


def _unnamed(error: Exception, temporary: tuple[Path, ...]) -> bool:
    """Whether `error` names no file, or one that a person does not know."""
    name = getattr(error, "filename", None)
    return not isinstance(name, (str, bytes)) or any(
        Path(os.fsdecode(name)).is_relative_to(folder) for folder in temporary
    )
