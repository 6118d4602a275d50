"""What generates on a Ray cluster: a replica of a Ray Serve deployment, which does the orders that a worker process
does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Said = tuple[dict[str, Any], list[bytes]]


class Replica:
    """Opens what `settings` say, as `worker.main` does, and stays."""

    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from bowerbird.core.quiet import quiet_libraries
        from bowerbird.core.tensors import pick_device
        from bowerbird.serve.calls import Calls
        from bowerbird.serve.models import adapter_of
        from bowerbird.serve.pipelines import Workbench, default_memory

        quiet_libraries()
        device = pick_device(settings["device"])
        adapters = {place: adapter_of(facts) for place, facts in settings["adapters"].items()}
        bench = Workbench(device, settings["dtype"], settings["memory"] or default_memory(device), adapters)
        self.bench, self.calls = bench, Calls(bench)
        self.models = {name: self.calls.model(name) for name in settings["preload"]}
        self._turn = asyncio.Lock()
        self._thread, self._others = ThreadPoolExecutor(1), ThreadPoolExecutor(4)

    async def facts(self) -> dict[str, Any]:
        """What a worker says when it is ready."""
        return {"device": self.bench.device, "models": self.models, "loaded": self.bench.models.names()}

    async def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """A call, beside what is being generated; a refusal as `error`."""
        from bowerbird.core.errors import BowerbirdError

        loop = asyncio.get_running_loop()
        try:
            return (await loop.run_in_executor(self._others, self.calls.answer, message, []))[0]
        except BowerbirdError as error:
            return {"error": str(error)}

    async def run(self, orders: list[dict[str, Any]]) -> AsyncIterator[Said]:
        """Do orders, one group at a time, and say what happens. Whoever stops listening cancels them."""
        from bowerbird.serve.kinds import run
        from bowerbird.serve.work import Order

        loop, heard = asyncio.get_running_loop(), asyncio.Queue[Said | None]()
        made = [Order(**order) for order in orders]

        def tell(event: str, name: str = "", blobs: Any = (), **facts: Any) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, ({"event": event, "id": name, **facts}, list(blobs)))

        def whole() -> None:
            try:
                run(self.bench, made, tell)
                self.bench.finishing.submit(int).result()
            finally:
                loop.call_soon_threadsafe(heard.put_nowait, None)

        async with self._turn:
            working = loop.run_in_executor(self._thread, whole)
            try:
                while (said := await heard.get()) is not None:
                    yield said
                await working
                yield {"event": "idle", "id": "", "loaded": self.bench.models.names()}, []
            finally:
                for order in made:
                    order.cancelled.set()
                await asyncio.wait([working])
