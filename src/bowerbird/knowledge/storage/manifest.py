"""`kb.json`, the manifest of a directory: read, and compared with what an open reader started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError, MismatchError

MANIFEST = "kb.json"
Lie = tuple[int, ...]
"""Which file lies at a path, and when it was written."""


def read_manifest(path: Path, *, same_as: dict[str, Any] | None = None) -> dict[str, Any]:
    """The manifest in the folder `path`; a person may have given the encoder another name.

    Raises: BowerbirdError when it is damaged, or of another knowledge base than the manifest `same_as`; MismatchError
    when more of the encoder was changed than its name.
    """
    manifest = files.read_sealed(path / MANIFEST, "knowledge base", trust=("encoder",))
    encoder, embeddings = manifest.get("encoder"), manifest.get("embeddings")
    if isinstance(embeddings, dict) and (
        not isinstance(encoder, dict)
        or not isinstance(encoder.get("name"), str)
        or embeddings != {key: encoder.get(key) for key in embeddings}
    ):
        raise MismatchError(
            f"{path}: made with encoder {embeddings.get('fingerprint')} (embedding dimension {embeddings.get('dim')}),"
            f" and {MANIFEST} now says {encoder}; restore it from a copy, or build it again: bowerbird kb build NEW"
            " SOURCE"
        )
    if same_as is not None and manifest.get("id") != same_as.get("id"):
        raise BowerbirdError(_replaced(path))
    return manifest


def check_same(path: Path, opened: dict[str, Any], seen: Lie | None) -> Lie:
    """How `kb.json` lies at `path` now, where it still has the version of the manifest `opened`; it is not read again
    while it lies as it was `seen`.

    Raises: BowerbirdError when that version was dropped, or another knowledge base was put in its place: its files
    would give answers that are of neither.
    """
    now = _lie_of(path / MANIFEST)
    if now is None:
        raise BowerbirdError(f"{path}: was moved or removed since it was opened; open it where it is now")
    if now == seen:
        return now
    newest = read_manifest(path, same_as=opened)
    entry = next((entry for entry in newest["history"] if entry["version"] == opened["version"]), None)
    if entry is None:
        raise BowerbirdError(f"{path}: version {opened['version']} was forgotten since it was opened; open it again")
    if entry["token"] != opened["token"]:  # a copy of it that was changed otherwise
        raise BowerbirdError(_replaced(path))
    return now


def _replaced(path: Path) -> str:
    return f"{path}: another knowledge base was put in its place since it was opened; open it again"


def _lie_of(path: Path) -> Lie | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
