"""Running the process that makes, fills or verifies a knowledge base, as a job with progress."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
from bowerbird.serve import frames
from bowerbird.serve.context import Server
from bowerbird.serve.dispatch import Task
from bowerbird.serve.errors import Refused
from bowerbird.serve.store import new_id


def add(server: Server, kb: str, folder: Path, sources: list[str], options: dict[str, Any]) -> Task:
    """The task of adding what is staged in `folder`."""
    place = server.shelf.place(kb)
    order = {"do": "add", "kb": place.path, "sources": sources, "options": options, "memory": DEFAULT_MEMORY}
    order |= {"address": server.shelf.address, "encoder": server.kb(kb).manifest["encoder"]}
    return _task(server, "add", {"knowledge_base": kb, **options}, order, folder)


async def build(server: Server, name: str, folder: Path, sources: list[str], options: dict[str, Any]) -> Task:
    """The task of making a knowledge base of what is staged, with the encoder of the first one, or the bundled one."""
    path = server.shelf.new_place(name)
    ids = server.shelf.ids()
    if ids:
        encoder = (await asyncio.to_thread(server.kb, ids[0])).manifest["encoder"]
    else:
        asked = {"call": "named", "name": "small"}
        encoder = (await asyncio.to_thread(frames.call, server.shelf.address, asked))[0]
    order = {"do": "build", "kb": str(path), "sources": sources, "options": options, "encoder": encoder}
    return _task(
        server, "build", {"knowledge_base": name, **options}, {**order, "address": server.shelf.address}, folder
    )


def verify(server: Server, kb: str) -> Task:
    """The task of reading all of it."""
    return _task(server, "verify", {"knowledge_base": kb}, {"do": "verify", "kb": server.shelf.place(kb).path}, None)


def _task(server: Server, kind: str, request: dict[str, Any], order: dict[str, Any], folder: Path | None) -> Task:
    async def run(task: Task) -> dict[str, Any]:
        try:
            found: dict[str, Any] = server.public.tree(await _run(server, task, order))
        finally:
            if folder is not None:
                await asyncio.to_thread(shutil.rmtree, folder, True)
            if kind == "build":
                path = Path(order["kb"])
                await asyncio.to_thread(shutil.rmtree, path.with_name(f".{path.name}.making"), True)
        if kind == "build":
            server.shelf.put(request["knowledge_base"])
        return found

    return Task(new_id("job"), kind, request, order, lane="ingest", count=0, run=run)


async def _run(server: Server, task: Task, order: dict[str, Any]) -> dict[str, Any]:
    """The report of the process. Raises: Refused."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "bowerbird.serve.ingest", stdin=pipe, stdout=pipe, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(frames.pack(order))
        async with asyncio.timeout(server.settings.limits.ingest_seconds):
            while True:
                message, _ = await frames.read(process.stdout)
                event = message.pop("event")
                if event == "progress":
                    task.progress = message
                    task.emit("progress", message)
                elif event == "done":
                    report: dict[str, Any] = message["report"]
                    return report
                else:
                    raise server.public.refusal(message["message"], ours=message.get("ours", False))
    except frames.Broken as error:
        text = "reading these files ended the process that reads; nothing is lost, send fewer, or other ones"
        raise Refused(422, text, code="unreadable_files") from error
    except TimeoutError as error:
        raise Refused(422, "reading these files took too long; send fewer at once", code="too_slow") from error
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
