"""`files.json` of a directory: the hash of every file of its rows."""

from __future__ import annotations

from pathlib import Path

from bowerbird.core import checksums, files
from bowerbird.knowledge.storage.lance import FOLDER as ROWS_FOLDER
from bowerbird.knowledge.storage.lance import HINT

FILES = "files.json"


def record_files(path: Path) -> None:
    """Write the hashes of the rows' files, which never change once written; done before the manifest that relies on
    them."""
    known = files.read_sealed(path / FILES, "list of files") if (path / FILES).is_file() else {}
    names = [f"{ROWS_FOLDER}/{name}" for name in checksums.list_files(path / ROWS_FOLDER) if not name.endswith(HINT)]
    files.write_sealed(path / FILES, checksums.record(path, known=known, only=names, durable=True))
