"""Where a `milvus://` address leads, and talking to what is there: every error of the client library becomes
one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell

if TYPE_CHECKING:
    from pymilvus import MilvusClient

SCHEME = "milvus://"
COLLECTION, PICTURES = "bowerbird", "_pictures"
TOKEN = "MILVUS_TOKEN"
"""Environment variable with the server's token or `user:password`: an address is written into pictures, and no place
for it."""


@dataclass(frozen=True)
class Address:
    """A server or a Milvus Lite file, and the collection there."""

    uri: str
    collection: str

    @property
    def embedded(self) -> bool:
        """Whether it is a file of Milvus Lite."""
        return "://" not in self.uri


def is_address(place: object) -> bool:
    """Whether `place` is meant for Milvus."""
    return str(place).startswith(SCHEME)


def address_of(place: str) -> Address:
    """What `milvus://HOST:PORT/COLLECTION` or `milvus://FILE.db[#COLLECTION]` names. Raises: BowerbirdError for
    anything else."""
    rest, _, fragment = place.removeprefix(SCHEME).partition("#")
    if rest.endswith(".db"):
        found = Address(rest, fragment or COLLECTION)
    else:
        server, _, collection = rest.partition("/")
        found = Address(f"http://{server}", collection or COLLECTION)
        named = re.fullmatch(r"[\w.\-]+(?::(\d{1,5}))?", server, re.ASCII)
        if named is None or int(named[1] or 0) > 65_535 or fragment:
            raise BowerbirdError(f"{place}: not an address; give milvus://HOST:PORT/COLLECTION or milvus://FILE.db")
    if not re.fullmatch(r"[A-Za-z_]\w{0,200}", found.collection, re.ASCII) or found.collection.endswith(PICTURES):
        raise BowerbirdError(
            f"{place}: a collection's name is letters, digits and _, begins with no digit and does not end in"
            f" {PICTURES}"
        )
    return found


def connect(place: str, address: Address, *, make: bool) -> MilvusClient:
    """A client; of a file that is not there only to `make` it. Raises: BowerbirdError when pymilvus is not installed,
    or nothing answers there."""
    if address.embedded and not make and not Path(address.uri).exists():
        raise BowerbirdError(
            f"{place}: no knowledge base here; make one: bowerbird kb build {in_shell(place)} FOLDER_OF_PICTURES"
        )
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")  # the library would read any .env file above itself
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise BowerbirdError(f"{place}: needs the Milvus client: pip install 'bowerbird[milvus]'") from error
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is said once, by us
    with one_line_errors(place):
        if address.embedded:
            Path(address.uri).absolute().parent.mkdir(parents=True, exist_ok=True)
        return MilvusClient(uri=address.uri, token=os.environ.get(TOKEN, ""))


def release(address: Address) -> None:
    """Give a Milvus Lite file back: it is one process's at a time."""
    if address.embedded:
        from milvus_lite import server_manager_instance

        server_manager_instance.release_server(address.uri)


@contextmanager
def one_line_errors(place: str) -> Iterator[None]:
    """Turns what the client library raises into a BowerbirdError."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError, TypeError, ValueError, OSError) as error:
        reason = str(getattr(error, "message", "") or error).strip().splitlines()
        hint = (
            "; a Milvus Lite file is open in one process at a time" if "Open local milvus failed" in str(error) else ""
        )
        raise BowerbirdError(f"{place}: Milvus says: {(reason or [type(error).__name__])[0][:200]}{hint}") from error
