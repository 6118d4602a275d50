"""Workers on a Ray cluster: queue, page and API stay as they are, and each group of orders goes to a replica of a Ray
Serve deployment instead of a process of this machine.

Replicas read knowledge bases and uploads, and write pictures, under the same paths as the server: on several machines
these are on a file system that all of them see, or knowledge bases are on Milvus.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.serve import frames
from bowerbird.serve.workers import Hear, Worker

NAME = "bowerbird"
CALLS_AT_ONCE = 16
"""Of a replica: one group of orders, and calls beside it."""
RETRY_SECONDS = 1.0


@dataclass
class Cluster:
    """One deployment of `replicas` replicas, with what each opens; started when the first worker wants it."""

    address: str
    replicas: int
    settings: dict[str, Any]
    _handle: Any = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def handle(self) -> Any:
        """What requests go through. Raises: BowerbirdError where there is no Ray, or no cluster."""
        async with self._turn:
            if self._handle is None:
                self._handle = await asyncio.to_thread(self._start)
            return self._handle

    def _start(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # type: ignore[import-not-found, unused-ignore]
            from ray import serve  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise BowerbirdError("serve --ray needs Ray Serve: pip install 'bowerbird[ray]'") from error
        from bowerbird.serve.replica import Replica

        kept = {
            key: value for key in ("PYTHONPATH", "BOWERBIRD_CACHE", "OMP_NUM_THREADS") if (value := os.environ.get(key))
        }
        try:
            ray.init(
                address=None if self.address == "local" else self.address,
                include_dashboard=False if self.address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": kept},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BowerbirdError(f"--ray {self.address}: no cluster answers there ({type(error).__name__})") from error
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        gpus = float(self.settings["device"].startswith("cuda"))
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            Replica,
            name=NAME,
            num_replicas=self.replicas,
            max_ongoing_requests=CALLS_AT_ONCE,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        )
        return serve.run(deployment.bind(self.settings), name=NAME, route_prefix=None)

    async def stop(self) -> None:
        """Take the deployment away; a cluster of others stays."""
        async with self._turn:
            if self._handle is not None:
                self._handle = None
                await asyncio.to_thread(_shut_down)


def _shut_down() -> None:
    import ray
    from ray import serve

    with suppress(Exception):  # whatever ended before is ended
        serve.delete(NAME)
    ray.shutdown()


@dataclass
class RayWorker(Worker):
    """One place in the queue for a group of orders that a replica does."""

    cluster: Cluster = field(kw_only=True)
    _running: dict[str, tuple[set[str], Any]] = field(default_factory=dict)
    _groups: set[asyncio.Task[None]] = field(default_factory=set)

    def send(self, message: dict[str, Any]) -> None:
        """An order, or that nobody wants one any more: a group ends when that is so of all of it."""
        if message["do"] == "run":
            task = asyncio.create_task(self._run(message["orders"]))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)
        elif message["id"] in self._running:
            wanted, stream = self._running[message["id"]]
            wanted.discard(message["id"])
            if not wanted:
                stream.cancel()

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """A call of any replica. Raises: BowerbirdError, frames.Broken."""
        try:
            answer: dict[str, Any] = await (await self.cluster.handle()).answer.remote(message)
        except BowerbirdError:
            raise
        except Exception as error:  # Ray has many, and all mean that nobody answered
            raise frames.Broken(f"the cluster does not answer ({type(error).__name__})") from error
        if "error" in answer:
            raise BowerbirdError(answer["error"])
        return answer

    async def stop(self) -> None:
        """End it for good."""
        for task in (*self._groups, *([self._task] if self._task is not None else [])):
            task.cancel()
        await self.cluster.stop()

    async def _keep(self) -> None:
        """Wait until a replica answers."""
        while True:
            try:
                facts = await (await self.cluster.handle()).facts.remote()
                break
            except BowerbirdError as error:
                self.hear(self, {"event": "refused", "id": "", "message": str(error)}, [])
                return
            except Exception:  # it is starting, or starts again
                await asyncio.sleep(RETRY_SECONDS)
        self.state, self.models, self.loaded = "ready", self.models | facts["models"], facts["loaded"]
        self.hear(self, {"event": "ready", "id": "", **facts}, [])

    async def _run(self, orders: list[dict[str, Any]]) -> None:
        wanted = {order["id"] for order in orders}
        stream = (await self.cluster.handle()).options(stream=True).run.remote(orders)
        self._running |= dict.fromkeys(tuple(wanted), (wanted, stream))
        try:
            async for message, blobs in stream:
                self.hear(self, dict(message), blobs)
        except asyncio.CancelledError:
            if wanted:  # the server stops
                raise
            self.hear(self, {"event": "idle", "id": "", "loaded": self.loaded}, [])
        except Exception:  # of Ray, when a replica ends: what it was doing is not done
            if not wanted:
                self.hear(self, {"event": "idle", "id": "", "loaded": self.loaded}, [])
                return
            self.state = "down"
            self.restarts += 1
            self.lost(self)
            self._task = asyncio.create_task(self._keep())
        finally:
            for order in orders:
                self._running.pop(order["id"], None)


def ray_workers(
    address: str, count: int, settings: dict[str, Any], hear: Hear, lost: Callable[[Worker], None]
) -> list[Worker]:
    """A worker for each replica."""
    cluster = Cluster(address, count, settings)
    return [RayWorker(str(settings["device"]), "", settings, hear, lost, cluster=cluster) for _ in range(count)]
