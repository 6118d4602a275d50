"""What ended a change of a directory, and why, in few words."""

from __future__ import annotations

import os
from pathlib import Path

from bowerbird.core.disk import disk_code


def is_of_disk(error: BaseException, place: Path) -> bool:
    """Whether what ended a change is that `place` could not be written, and not a file of a source, say."""
    name = getattr(error, "filename", None)
    if isinstance(name, (str, bytes)) and not Path(os.fsdecode(name)).is_relative_to(place):
        return False
    if isinstance(error, RuntimeError) and "lance" in str(error).lower():
        return True
    return isinstance(error, OSError) or (isinstance(error, Exception) and disk_code(error) is not None)


def reason_of(error: BaseException) -> str:
    """What the system said, in few words."""
    number = disk_code(error)
    return os.strerror(number) if number is not None else first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of what it says, cut, or its kind where it says nothing."""
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
