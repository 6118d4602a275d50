"""What outlives the server: jobs and the pictures they made, in SQLite; the pictures themselves lie beside it as files.

A finished job and its pictures are written in one transaction. What was not finished when a server ended is found by
the next one (`recover`), which says so, or takes over what was written whole.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bowerbird.core.text import json_ready

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
OPEN = ("queued", "running")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    request TEXT NOT NULL, report TEXT, error TEXT, notes TEXT);
CREATE INDEX IF NOT EXISTS jobs_created ON jobs (created);
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, job TEXT NOT NULL, position INTEGER NOT NULL,
    variant INTEGER, kind TEXT NOT NULL, created REAL NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    prompt TEXT NOT NULL, model TEXT NOT NULL, kb TEXT, seed TEXT NOT NULL, starred INTEGER NOT NULL DEFAULT 0,
    near_copy INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS images_job ON images (job);
"""


def new_id(kind: str) -> str:
    """A name that nobody guesses, as `job_…`."""
    return f"{kind}_{secrets.token_hex(12)}"


class Store:
    """`folder`: where `jobs.db` and the folders `jobs`, `uploads`, `staging` and `knowledge-bases` lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("jobs", "uploads", "staging", "knowledge-bases"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._turn = threading.RLock()
        self._db = sqlite3.connect(folder / "jobs.db", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # a process may die at any time, the machine seldom does
        self._db.executescript(_SCHEMA)
        self.key = self._key()

    def _key(self) -> bytes:
        """What addresses of pictures are signed with."""
        file = self.folder / "key"
        if not file.is_file():
            file.touch(mode=0o600)
            file.write_bytes(secrets.token_bytes(32))
        return file.read_bytes()

    def close(self) -> None:
        """Close the database."""
        with self._turn:
            self._db.close()

    def out(self, job: str) -> Path:
        """The folder of a job's files."""
        return self.folder / "jobs" / job

    # -- jobs --------------------------------------------------------------------------------------------------------

    def add(self, job: str, kind: str, request: dict[str, Any]) -> None:
        """A new job, queued."""
        with self._turn:
            self._db.execute(
                "INSERT INTO jobs (id, kind, state, created, request) VALUES (?, ?, 'queued', ?, ?)",
                (job, kind, time.time(), _json(request)),
            )

    def start(self, job: str) -> None:
        """It is being done."""
        with self._turn:
            self._db.execute("UPDATE jobs SET state = 'running', started = ? WHERE id = ?", (time.time(), job))

    def finish(
        self,
        job: str,
        state: str,
        *,
        images: Iterable[dict[str, Any]] = (),
        report: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """It has ended, with its pictures; nothing is changed of one that had ended before."""
        facts = (state, time.time(), _json(report), _json(error), _json(list(notes)), job)
        with self._turn, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            changed = self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, report = ?, error = ?, notes = ?"
                " WHERE id = ? AND state IN ('queued', 'running')",
                facts,
            )
            for image in images if changed.rowcount else ():
                names = ", ".join(image)
                marks = ", ".join("?" * len(image))
                self._db.execute(f"INSERT INTO images ({names}) VALUES ({marks})", tuple(image.values()))

    def job(self, job: str) -> dict[str, Any] | None:
        """One job with its images, None where there is none."""
        with self._turn:
            row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is None:
                return None
            images = self._db.execute("SELECT * FROM images WHERE job = ? ORDER BY position", (job,)).fetchall()
        return {**_job(row), "images": [dict(image) for image in images]}

    def jobs(self, state: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest jobs."""
        where, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        with self._turn:
            rows = self._db.execute(f"SELECT id FROM jobs {where} ORDER BY rowid DESC LIMIT ?", (*values, limit))
            names = [row["id"] for row in rows.fetchall()]
        return [found for name in names if (found := self.job(name)) is not None]

    def unfinished(self) -> list[dict[str, Any]]:
        """Jobs that an earlier server did not end."""
        with self._turn:
            rows = self._db.execute("SELECT * FROM jobs WHERE state IN ('queued', 'running')").fetchall()
        return [_job(row) for row in rows]

    # -- images ------------------------------------------------------------------------------------------------------

    def image(self, image: str) -> dict[str, Any] | None:
        """One picture's facts."""
        with self._turn:
            row = self._db.execute("SELECT * FROM images WHERE id = ?", (image,)).fetchone()
        return None if row is None else dict(row)

    def image_file(self, facts: dict[str, Any]) -> Path:
        """Where its PNG lies."""
        return self.out(facts["job"]) / f"{facts['position']:03d}.png"

    def history(
        self,
        *,
        words: str = "",
        starred: bool | None = None,
        model: str | None = None,
        kb: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """The newest pictures whose prompt has all these words."""
        terms: list[tuple[str, Any]] = [
            ("prompt LIKE ? ESCAPE '\\'", f"%{_like(word)}%") for word in words.split()[:20]
        ]
        terms += [("starred = ?", int(starred))] if starred is not None else []
        terms += [("model = ?", model)] if model is not None else []
        terms += [("kb = ?", kb)] if kb is not None else []
        terms += [("number < ?", before)] if before is not None else []
        where = " AND ".join(term for term, _ in terms) or "1"
        with self._turn:
            rows = self._db.execute(
                f"SELECT * FROM images WHERE {where} ORDER BY number DESC LIMIT ?", (*(v for _, v in terms), limit)
            ).fetchall()
        return [dict(row) for row in rows]

    def star(self, image: str, starred: bool) -> None:
        """Mark a picture, or not."""
        with self._turn:
            self._db.execute("UPDATE images SET starred = ? WHERE id = ?", (int(starred), image))

    def forget(self, image: str) -> None:
        """Remove a picture, its file too."""
        facts = self.image(image)
        if facts is not None:
            with self._turn:
                self._db.execute("DELETE FROM images WHERE id = ?", (image,))
            self.image_file(facts).unlink(missing_ok=True)


def _like(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(json_ready(value), ensure_ascii=False)


def _job(row: sqlite3.Row) -> dict[str, Any]:
    facts = dict(row)
    for name in ("request", "report", "error", "notes"):
        facts[name] = None if facts[name] is None else json.loads(facts[name])
    return facts
