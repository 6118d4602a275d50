"""After a server that ended otherwise than it should: what it left open is ended now, what it left behind removed."""

from __future__ import annotations

import shutil
import time
from typing import Any

from bowerbird.core import provenance
from bowerbird.core.errors import BowerbirdError
from bowerbird.serve.pictures import rows_of
from bowerbird.serve.store import Store

UPLOAD_SECONDS = 24 * 3600.0


def clean(store: Store) -> None:
    """Remove what was staged for jobs that are over, and uploads of more than a day ago."""
    shutil.rmtree(store.folder / "staging", ignore_errors=True)
    (store.folder / "staging").mkdir(exist_ok=True)
    for left in (store.folder / "knowledge-bases").glob(".*.making"):
        shutil.rmtree(left, ignore_errors=True)
    drop_old_uploads(store)


def drop_old_uploads(store: Store) -> None:
    """Remove uploads of more than a day ago."""
    for upload in (store.folder / "uploads").iterdir():
        try:
            if upload.stat().st_mtime < time.time() - UPLOAD_SECONDS:
                upload.unlink()
        except FileNotFoundError:  # another request did it
            continue


def recover(store: Store) -> list[str]:
    """End every job that an earlier server left open: as done where its folder is whole, else as interrupted."""
    ended = []
    for job in store.unfinished():
        folder = store.out(job["id"])
        images: list[dict[str, Any]] = []
        if (folder / "generation.jsonl").is_file():  # it is written last
            try:
                records = [provenance.read_png(path) for path in sorted(folder.glob("[0-9]*.png"))]
                images = rows_of(job, [_facts(record) for record in records])
            except (BowerbirdError, KeyError, TypeError):
                images = []
        if images:
            store.finish(job["id"], "done", images=images)
            continue
        message = "the server ended before this was done; ask for it again"
        error = {"message": message, "type": "server_error", "param": None, "code": "interrupted"}
        store.finish(job["id"], "interrupted", error=error)
        ended.append(job["id"])
    return ended


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    copy = record.get("copy")
    near = copy is not None and copy["score"] > copy["threshold"]
    return {"width": record["size"][0], "height": record["size"][1], "seed": record["seed"], "near_copy": near}
