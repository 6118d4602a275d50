"""The one exception that means "what you gave does not work, and here is what would".

Anything raised as a `BowerbirdError` is the caller's to repair: the shells print it as one line and leave with
exit code
2. Everything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations


class BowerbirdError(Exception):
    """Bad input or a refused request. The message says what was given, what is allowed, and what to do next."""


class PictureError(BowerbirdError):
    """One picture could not be read; a collection reports it by name and goes on with the rest."""


class MismatchError(BowerbirdError):
    """Two things that must belong together do not: an encoder and a database, a model and its embeddings."""


class ConditionError(BowerbirdError):
    """`where` is no condition on the columns there are."""


class Terminated(BaseException):
    """The command line was asked to end (SIGINT, SIGTERM), as `signal` says. What can be gone on with adds a note (PEP
    678) that says how, as it does to a KeyboardInterrupt.

    No KeyboardInterrupt itself, which the parser of the command line would take for its own.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
