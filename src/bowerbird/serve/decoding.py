"""Asking the decoder: a few processes, each with one picture at a time, ended and started again when one takes too
long."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from bowerbird.core.errors import PictureError
from bowerbird.serve import frames
from bowerbird.serve.limits import Limits

IDLE_CALLS = 2000
"""After so many pictures a process is replaced: what libraries leak stays little."""


class Decoders:
    """`count` decoders, started when they are first needed."""

    def __init__(self, limits: Limits, count: int = 2) -> None:
        self.limits = limits
        self._free: asyncio.Queue[_Decoder] = asyncio.Queue()
        self._all = [_Decoder() for _ in range(count)]
        for each in self._all:
            self._free.put_nowait(each)

    async def ask(self, do: str, data: bytes, name: str = "the picture", **more: Any) -> frames.Frame:
        """The answer of `decoder.TASKS[do]`. Raises: PictureError when the picture is none, or too much."""
        decoder = await self._free.get()
        try:
            answer, blobs = await decoder.ask({"do": do, "name": name, **more}, [data], self.limits.decode_seconds)
        except TimeoutError as error:
            raise PictureError(f"{name}: took longer than {self.limits.decode_seconds:g} s to read") from error
        except frames.Broken as error:
            raise PictureError(f"{name}: cannot be read (reading it ended the process that reads)") from error
        finally:
            self._free.put_nowait(decoder)
        if "error" in answer:
            raise PictureError(answer["error"])
        return answer, blobs

    async def close(self) -> None:
        """End them."""
        for each in self._all:
            await each.end()


class _Decoder:
    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.calls = 0

    async def ask(self, message: dict[str, Any], blobs: Sequence[bytes], seconds: float) -> frames.Frame:
        if self.calls >= IDLE_CALLS:
            await self.end()
        done = False
        try:
            async with asyncio.timeout(seconds + (0 if self.process else 10)):
                answer = await self._ask(message, blobs)
            done = True
            return answer
        except ConnectionError as error:
            raise frames.Broken(str(error)) from error
        finally:
            if not done:  # it may still be at it, or be gone
                await asyncio.shield(self.end())

    async def _ask(self, message: dict[str, Any], blobs: Sequence[bytes]) -> frames.Frame:
        if self.process is None:
            pipe = asyncio.subprocess.PIPE
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bowerbird.serve.decoder", stdin=pipe, stdout=pipe, start_new_session=True
            )
            self.calls = 0
        self.calls += 1
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(frames.pack(message, blobs))
        await self.process.stdin.drain()
        return await frames.read(self.process.stdout)

    async def end(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
