"""The process that makes, fills or verifies a knowledge base: pictures of strangers are decoded here, with a limit on
memory.

Run as `python -m bowerbird.serve.ingest`; one request on stdin, progress and the result as frames on stdout. Encoders
are the worker's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bowerbird.core.disk import disk_code
from bowerbird.core.errors import BowerbirdError
from bowerbird.serve import frames
from bowerbird.serve.encoder import remote, remote_captions
from bowerbird.serve.limits import LIMITS, limit_memory

Say = Callable[[dict[str, Any]], None]


def run(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Do what `order` says, and report."""
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.knowledge.storage.open import open_store
    from bowerbird.knowledge.storage.verify import verify

    def progress(done: int, total: int | None = None, stage: str = "") -> None:
        say({"event": "progress", "done": done, "total": total, "stage": stage})

    kb = Path(order["kb"])
    if order["do"] == "verify":
        return verify(kb, progress=progress).facts()
    options: dict[str, Any] = {key: value for key, value in order["options"].items() if value is not None}
    encoder = remote(order["address"], order["encoder"])
    if order["do"] == "build":
        opened, report = KnowledgeBase.build(kb, order["sources"], encoder=encoder, progress=progress, **options)
        before = None
    else:
        store = open_store(kb, order["memory"], lambda line: None)
        captions = remote_captions(order["address"], store.manifest)
        opened = KnowledgeBase(store, encoder, caption_encoder=captions)
        before = opened.version
        report = opened.add(order["sources"], progress=progress, **options)
    return {
        "added": report.added,
        "already_present": report.already_present,
        "unreadable": report.unreadable,
        "filtered": report.filtered,
        "duplicates": [{"name": a, "like": b, "cosine": round(float(c), 4)} for a, b, c in report.duplicates],
        "notes": report.source.lines(),
        "version": opened.version,
        "undo": before,
        "items": len(opened),
    }


def _end_with_parent() -> None:
    """What is written to a knowledge base is whole or not there, so this can end anywhere."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Answer one request."""
    limit_memory(LIMITS.ingest_bytes)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order, _ = frames.read_from(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result: dict[str, Any] = {
            "event": "done",
            "report": run(order, lambda message: frames.write_to(answers, message)),
        }
    except BowerbirdError as error:
        result = {"event": "failed", "message": str(error)}
    except MemoryError:
        result = {"event": "failed", "message": "the pictures need more memory than is allowed; send fewer at once"}
    except OSError as error:
        if disk_code(error) is None:
            raise
        result = {"event": "failed", "message": os.strerror(disk_code(error) or 0), "ours": True}
    except frames.Broken:
        result = {"event": "failed", "message": "the worker that embeds pictures ended; send them again", "again": True}
    frames.write_to(answers, result)


if __name__ == "__main__":
    main()
