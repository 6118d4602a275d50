"""Starting workers, hearing them, and starting them again when they end."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bowerbird.serve import frames

LONGEST_WAIT = 30.0
"""Seconds before a worker that does not start is tried again, at most."""
Hear = Callable[["Worker", dict[str, Any], list[bytes]], None]


@dataclass
class Worker:
    """One worker process on one device. `state`: starting, ready, busy, down."""

    device: str
    address: str
    settings: dict[str, Any]
    hear: Hear
    lost: Callable[[Worker], None]
    state: str = "starting"
    restarts: int = 0
    loaded: list[str] = field(default_factory=list)
    models: dict[str, Any] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    _writer: asyncio.StreamWriter | None = None
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep one running from now on."""
        self._task = asyncio.create_task(self._keep())

    def send(self, message: dict[str, Any]) -> None:
        """An order; nothing where it is gone, which is heard otherwise."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.pack(message))

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """A call, answered beside what is being generated. Raises: BowerbirdError."""
        return (await asyncio.to_thread(frames.call, self.address, message))[0]

    async def stop(self) -> None:
        """End it for good."""
        if self._task is not None:
            self._task.cancel()
        await self._end()

    async def _keep(self) -> None:
        wait = 0.0
        while True:
            started = await self._once()
            self.state = "down"
            self.lost(self)
            wait = 0.0 if started else min(LONGEST_WAIT, 2 * wait + 1)
            await asyncio.sleep(wait)
            self.restarts += 1
            self.state = "starting"

    async def _once(self) -> bool:
        """Run it until it ends; whether it ever was ready."""
        ours, theirs = socket.socketpair()
        ready = False
        try:
            with theirs:
                arguments = [str(theirs.fileno()), self.address, json.dumps(self.settings)]
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",
                    "-m",
                    "bowerbird.serve.worker",
                    *arguments,
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            reader, self._writer = await asyncio.open_connection(sock=ours)
            while True:
                message, blobs = await frames.read(reader)
                if message["event"] == "ready":
                    ready, self.state = True, "ready"
                    self.models |= message["models"]
                    self.loaded = message["loaded"]
                self.hear(self, message, blobs)
        except frames.Broken:
            return ready
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self.process = self.process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
