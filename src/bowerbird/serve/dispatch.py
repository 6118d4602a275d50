"""The bounded queue: who waits, who is at work, what is heard of them; each end is kept in the store.

All of it runs in the event loop of the web process.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bowerbird.serve import pictures
from bowerbird.serve.errors import Public, Refused, disk_refusal
from bowerbird.serve.metrics import Metrics
from bowerbird.serve.store import Store
from bowerbird.serve.workers import Worker

ROOM = {"cpu": 4, "cuda": 32}
"""Pictures that a worker takes on together. More than go through a CPU's network at once (`generation.BATCH`): those of
equal settings are put together there, and of a few more jobs fewer batches are filled up."""
ENDS = ("done", "failed", "cancelled", "interrupted")
Event = tuple[str, dict[str, Any]]
_log = logging.getLogger("bowerbird.serve")


@dataclass
class Task:
    """A job that is not over. `key`: those of equal keys go through the network together; None: alone. `count`:
    pictures. `lane`: `device` or `ingest`. `created`, `started`: of the clock that never goes back."""

    id: str
    kind: str
    request: dict[str, Any]
    order: dict[str, Any]
    lane: str = "device"
    key: str | None = None
    count: int = 1
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    state: str = "queued"
    progress: dict[str, Any] | None = None
    listeners: list[asyncio.Queue[Event]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    worker: Worker | None = None
    run: Callable[[Task], Any] | None = None
    child: asyncio.Task[None] | None = None

    def emit(self, name: str, data: dict[str, Any]) -> None:
        """Tell whoever listens; one that does not keep up misses what is not an end."""
        for listener in self.listeners:
            if listener.full() and name not in ENDS:
                continue
            while listener.full():
                listener.get_nowait()
            listener.put_nowait((name, data))


class Dispatcher:
    """`capacity`: jobs that may wait; `root_path`: what addresses begin with."""

    def __init__(self, store: Store, metrics: Metrics, public: Public, capacity: int, *, root_path: str = "") -> None:
        self.store, self.metrics, self.public, self.capacity = store, metrics, public, capacity
        self.root_path = root_path
        self.workers: list[Worker] = []
        self.tasks: dict[str, Task] = {}
        self.waiting: deque[Task] = deque()
        self.stopping = False
        self.refusal: str | None = None
        self._seconds = 3.0  # of a job, as they were lately
        self._ingesting: Task | None = None
        self._not_kept: dict[str, dict[str, Any]] = {}  # jobs whose end the disk did not take

    # -- in and out --------------------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raises: Refused when the queue is full, or the server stops."""
        if self.stopping:
            raise Refused(503, "the server is stopping; try again soon", code="stopping", retry_after=10)
        if len(self.waiting) >= self.capacity:
            wait = self.retry_after()
            raise Refused(
                429,
                f"{len(self.waiting)} jobs wait already; try again in {wait} s",
                code="queue_full",
                retry_after=wait,
            )

    def retry_after(self) -> int:
        """Seconds until there is likely room."""
        workers = max(1, len(self.workers))
        return max(1, min(120, round(self._seconds * (1 + len(self.waiting) / 4) / workers)))

    def submit(self, task: Task) -> Task:
        """Take a job. Raises: Refused."""
        self.check_room()
        try:
            self.store.add(task.id, task.kind, task.request)
        except sqlite3.Error as error:
            raise disk_refusal() from error
        self.tasks[task.id] = task
        self.waiting.append(task)
        self.pump()
        return task

    def cancel(self, name: str) -> bool:
        """Nobody wants a job any more; whether there was one to cancel."""
        task = self.tasks.get(name)
        if task is None:
            return False
        if task.worker is not None:
            task.worker.send({"do": "cancel", "id": task.id})
        if task.child is not None:
            task.child.cancel()
        self.end(task, "cancelled")
        return True

    def end(
        self, task: Task, state: str, *, error: dict[str, Any] | None = None, images: Any = (), **facts: Any
    ) -> None:
        """A job is over: it is kept, and whoever listens hears of it."""
        if self.tasks.pop(task.id, None) is None:
            return
        if task in self.waiting:
            self.waiting.remove(task)
        if task.started is not None and state == "done" and task.lane == "device":
            self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - task.started)
        try:
            self.store.finish(task.id, state, error=error, images=images, **facts)
        except sqlite3.Error:  # the next server finds it open, and its pictures where they are whole
            state = "failed"
            self._not_kept[task.id] = disk_refusal().body(None)["error"]
            _log.exception("job %s could not be kept", task.id)
        task.state = state
        self.metrics.count("jobs_total", kind=task.kind, state=state)
        task.emit(state, self.describe(task.id) or {})
        task.over.set()
        self.pump()

    def describe(self, name: str) -> dict[str, Any] | None:
        """A job as the API shows it, None where there is none."""
        kept = self.store.job(name)
        if kept is None:
            return None
        if name in self._not_kept:
            kept |= {"state": "failed", "error": self._not_kept[name], "images": []}
        task = self.tasks.get(name)
        keys = ("id", "kind", "state", "created", "started", "finished", "request", "report", "error")
        sheet = (self.store.out(name) / "sheet.png").is_file() and kept["state"] == "done"
        return {
            **{key: kept[key] for key in keys},
            "position": None if task is None or task not in self.waiting else self.waiting.index(task) + 1,
            "progress": None if task is None else task.progress,
            "images": [pictures.public_image(row, self.root_path) for row in kept["images"]],
            "notes": kept["notes"] or [],
            "sheet": f"{self.root_path}/api/jobs/{name}/sheet" if sheet else None,
        }

    async def events(self, name: str) -> AsyncIterator[Event]:
        """What happens to a job, its present state first; ends with it."""
        task = self.tasks.get(name)
        if task is None:
            job = self.describe(name)
            if job is not None:
                yield job["state"] if job["state"] in ENDS else "interrupted", job
            return
        listener: asyncio.Queue[Event] = asyncio.Queue(256)
        task.listeners.append(listener)
        try:
            if task.state == "queued":
                yield "queued", {"position": self.waiting.index(task) + 1 if task in self.waiting else 1}
            else:
                yield "started", {}
                if task.progress is not None:
                    yield "progress", task.progress
            while True:
                name, data = await listener.get()
                yield name, data
                if name in ENDS:
                    return
        finally:
            task.listeners.remove(listener)

    # -- work --------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Give what waits to whoever is free."""
        before = len(self.waiting)
        for worker in self.workers:
            if worker.state == "ready" and (group := self._next(worker)):
                worker.state = "busy"
                for task in group:
                    self._begin(task)
                    task.worker = worker
                worker.send({"do": "run", "orders": [task.order for task in group]})
        if self._ingesting is None:
            first = next((task for task in self.waiting if task.lane == "ingest"), None)
            if first is not None and first.run is not None:
                self._ingesting = first
                self._begin(first)
                first.child = asyncio.create_task(self._ingest(first))
        if len(self.waiting) != before:
            for position, task in enumerate(self.waiting, 1):
                task.emit("queued", {"position": position})
        running = len(self.tasks) - len(self.waiting)
        self.metrics.set("queue_length", len(self.waiting))
        self.metrics.set("jobs_running", running)
        self.metrics.set("worker_up", sum(worker.state in ("ready", "busy") for worker in self.workers))

    def _next(self, worker: Worker) -> list[Task]:
        """The job that waits longest, with others that can go along."""
        mine = [task for task in self.waiting if task.lane == "device"]
        if not mine:
            return []
        room = ROOM["cpu" if worker.device == "cpu" else "cuda"]
        group, count = [mine[0]], mine[0].count
        for task in mine[1:] if mine[0].key is not None else ():
            if task.key == mine[0].key and count + task.count <= room:
                group.append(task)
                count += task.count
        return group

    def _begin(self, task: Task) -> None:
        self.waiting.remove(task)
        task.state, task.started = "running", time.monotonic()
        with suppress(sqlite3.Error):  # it is not over; its end says what there is to say
            self.store.start(task.id)
        self.metrics.observe("stage_seconds", task.started - task.created, stage="queue")
        task.emit("started", {})

    async def _ingest(self, task: Task) -> None:
        assert task.run is not None
        try:
            report = await task.run(task)
            self.end(task, "done", report=report)
        except Refused as refused:
            self.end(task, "failed", error=refused.body(None)["error"])
        except asyncio.CancelledError:
            self.end(task, "interrupted" if self.stopping else "cancelled")
        except Exception as error:
            self.end(task, "failed", error=self.public.fault(error).body(None)["error"])
        finally:
            self._ingesting = None
            self.pump()

    def hear(self, worker: Worker, message: dict[str, Any], blobs: list[bytes]) -> None:
        """An event of a worker."""
        event = message.pop("event")
        if event == "ready":
            worker.device = message["device"]
            self.pump()
            return
        if event == "refused":
            self.refusal = message["message"]
            return
        if event == "idle":
            worker.state, worker.loaded = "ready", message["loaded"]
            self.pump()
            return
        task = self.tasks.get(message.pop("id"))
        if task is None:  # it was cancelled meanwhile
            return
        if event == "step":
            done = message["step"] + (message["batch"] - 1) * message["steps"]
            task.progress = {"done": done, "total": message["steps"] * message["batches"], "stage": "steps"}
            task.emit("step", message)
        elif event == "progress":
            task.progress = message
            task.emit("progress", message)
        elif event == "preview" and task.listeners:
            picture = base64.b64encode(blobs[0]).decode()
            task.emit("preview", {**message, "image": f"data:image/png;base64,{picture}"})
        elif event == "done":
            self._done(task, message)
        elif event == "failed":
            refused = self.public.refusal(message["message"], ours=message["ours"])
            self.end(task, "failed", error=refused.body(None)["error"])
        elif event == "cancelled":
            self.end(task, "cancelled")

    def _done(self, task: Task, message: dict[str, Any]) -> None:
        rows = pictures.rows_of({"id": task.id, "kind": task.kind, "request": task.request}, message["pictures"])
        for stage, seconds in message["stages"].items():
            self.metrics.observe("stage_seconds", seconds, stage=stage)
        self.metrics.count("pictures_total", len(rows))
        report = message.get("report")
        notes = [self.public.text(line) for line in message["notes"]]
        self.end(task, "done", images=rows, notes=notes, report=None if report is None else self.public.tree(report))

    def lost(self, worker: Worker) -> None:
        """A worker has ended: what it was doing is not done."""
        if self.stopping:
            return
        self.metrics.count("worker_restarts_total")
        refused = Refused(
            503, "the worker ended while it was generating; ask again", code="worker_died", retry_after=5, again=True
        )
        for task in [task for task in self.tasks.values() if task.worker is worker]:
            self.end(task, "failed", error=refused.body(None)["error"])
        self.pump()

    async def drain(self, seconds: float) -> None:
        """Take no more, and wait so long for what was accepted; the rest is interrupted."""
        self.stopping = True
        until = time.monotonic() + seconds
        while self.tasks and time.monotonic() < until:
            await asyncio.sleep(0.05)
        message = "the server ended before this was done; ask for it again"
        error = Refused(503, message, code="interrupted", retry_after=10).body(None)["error"]
        for task in list(self.tasks.values()):
            if task.child is not None:
                task.child.cancel()
            self.end(task, "interrupted", error=error)
