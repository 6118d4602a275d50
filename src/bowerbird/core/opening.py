"""Files that other libraries read for us: whatever those raise on bytes that somebody broke, or made up, is one
line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError

LONGEST = 200


@contextmanager
def opening(what: str, advice: str) -> Iterator[None]:
    """A block that opens `what`, as in "model 'mine'"; see `attempt`."""
    with attempt(f"{what} cannot be opened", advice):
        yield


@contextmanager
def attempt(failure: str, advice: str) -> Iterator[None]:
    """A block whose errors say the `failure`, why, and the `advice`. Those of ours and of the disk pass as they are.

    Raises: BowerbirdError.
    """
    try:
        yield
    except BowerbirdError:
        raise
    except Exception as error:  # loaders raise nearly anything on hostile bytes
        if disk_code(error) is not None:
            raise
        raise BowerbirdError(f"{failure} ({reason(error)}); {advice}") from error


def reason(error: Exception) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [""]
    first = lines[0].strip().rstrip(".:;, ")
    said = first if len(first) <= LONGEST else first[:LONGEST] + "…"
    plain = isinstance(error, OSError | ValueError | RuntimeError) and " " in said
    return said if plain else f"{type(error).__name__}: {said}" if said else type(error).__name__
