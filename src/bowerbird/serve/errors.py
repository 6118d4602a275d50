"""What goes wrong, in one shape, for every route: OpenAI's, as its clients read it.

Messages of the library name files; `Public` leaves nothing of them but a last name.
"""

from __future__ import annotations

import getpass
import re
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError, ConditionError, MismatchError, PictureError
from bowerbird.core.text import shorten

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
AGAIN = frozenset({408, 429, 503})
"""Where trying again helps."""
_PATH = re.compile(r"(?<![\w/.:])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"()]+[/\\])+(?P<last>[^\s/\\:;,'\"()]*)")
_PIECES = re.compile(r"(; |, or |: (?=bowerbird ))")
_COMMAND = re.compile(
    r"\bbowerbird (?:check-copies|datasets|demo|doctor|edit|evaluate|generate|import|kb|models|reproduce|search"
    r"|train)\b"
)
_FLAG = re.compile(r"(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)")
_PARAMETER = re.compile(r"`(?P<name>[a-z_]+)(?P<value>=[^`]*)?`")
API_NAMES = {
    "class": "class_name",
    "image": "uploads",
    "images": "uploads",
    "items": "neighbors",
    "kb": "knowledge_base",
    "num_images": "n",
    "num_neighbors": "k",
    "reference": "neighbors",
    "references": "neighbors",
}
"""What the API calls a parameter of the library, or a flag of the command line, where it is called otherwise."""
OPERATORS = ("max_pixels",)
"""Parameters of the library that no request has."""


def for_clients(message: str) -> str:
    """An error of the library as whoever uses the API can act on it: parameters by the names of requests, and no
    commands, which are for those at the server's terminal."""
    pieces = _PIECES.split(message)
    kept = pieces[0]
    for mark, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if not _COMMAND.search(piece) and not any(f"`{name}`" in piece for name in OPERATORS):
            kept += mark + piece

    def name(found: re.Match[str]) -> str:
        word = found["name"].replace("-", "_")
        return API_NAMES.get(word, word)

    kept = _PARAMETER.sub(lambda found: name(found) + (found["value"] or ""), kept)
    return _FLAG.sub(name, kept)


class Refused(HTTPException):
    """A request that is not done, as its client hears it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
        again: bool | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after, self.again = retry_after, status in AGAIN if again is None else again

    def body(self, request_id: str | None) -> dict[str, Any]:
        """The JSON of the answer."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": TYPES.get(self.status, "server_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error if request_id is None else {**error, "request_id": request_id}}

    def answer_headers(self) -> dict[str, str]:
        """The headers of the answer."""
        found = {"x-should-retry": "true" if self.again else "false"}
        return found if self.retry_after is None else {**found, "Retry-After": str(self.retry_after)}


def disk_refusal() -> Refused:
    """The disk takes nothing more, which those who run the server have to see to."""
    text = "the server's disk is full, or cannot be written: nothing was kept; delete pictures, or ask who runs it"
    return Refused(507, text, code="disk_full", again=False)


def missing(what: str, name: str) -> Refused:
    """There is none of that id."""
    return Refused(404, f"there is no {what} {shorten(name, 80)!r} here", code=f"{what.replace(' ', '_')}_not_found")


class Public:
    """Makes messages fit to be sent: `paths` gives places by the id that a client knows them by."""

    def __init__(self, paths: Callable[[], Mapping[str, str]], folder: Path) -> None:
        self.paths, self.folder = paths, folder
        try:
            self.user = getpass.getuser()
        except (OSError, KeyError):
            self.user = ""

    def text(self, message: str) -> str:
        """`message` without places of this machine."""
        places = [(path, name) for name, path in self.paths().items()]
        places += [(str(Path(path).absolute()), name) for path, name in places if "://" not in path]
        for path, name in sorted(places, key=lambda pair: -len(pair[0])):
            if len(path) > 1:
                message = message.replace(path, name)
        for root in (str(self.folder.absolute()), str(self.folder)):
            message = message.replace(f"{root}/", "")
        message = re.sub(r"\bstaging/\w+/(?:pictures/)?", "", message)
        message = _PATH.sub(lambda found: found["last"] or "…", message)
        if len(self.user) > 3 and self.user != "root":
            message = re.sub(rf"\b{re.escape(self.user)}\b", "…", message)
        return shorten(message, 2000)

    def tree(self, value: Any) -> Any:
        """Every text within `value` so."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.tree(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(each) for each in value]
        return value

    def refusal(self, message: str, *, ours: bool) -> Refused:
        """What a worker said went wrong: `ours`, or the request's."""
        if ours and disk_code(RuntimeError(message)) is not None:
            return disk_refusal()
        if ours:
            return Refused(500, self.text(message), code="worker_failed", again=False)
        return Refused(422, self.text(for_clients(message)), code="invalid_request")

    def of(self, error: BowerbirdError) -> Refused:
        """What the library refuses."""
        message, code = self.text(for_clients(str(error))), "invalid_request"
        if isinstance(error, MismatchError):
            return Refused(409, message, code="mismatch")
        if isinstance(error, ConditionError):
            return Refused(400, message, code="invalid_value", param="where")
        if isinstance(error, PictureError):
            code = "unreadable_picture"
        if "no item with id" in message:
            return Refused(404, message, code="item_not_found")
        if "has changed since version" in message:
            return Refused(409, message, code="changed")
        return Refused(422, message, code=code)

    def fault(self, error: Exception) -> Refused:
        """What is nobody's request's fault."""
        if isinstance(error, BowerbirdError):
            return self.of(error)
        if isinstance(error, sqlite3.OperationalError) or disk_code(error) is not None:
            return disk_refusal()
        if isinstance(error, ConnectionError):
            return Refused(503, "the worker is starting; try again in a moment", code="worker_starting", retry_after=3)
        return Refused(500, f"the server failed ({type(error).__name__})", code="server_failed", again=False)
