"""A server to test: whole, as its own processes; or its web process alone, with a worker that does nothing."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bowerbird.serve import build
from bowerbird.serve.context import Server, Settings
from bowerbird.serve.workers import Worker

ENDS = ("done", "failed", "cancelled", "interrupted")


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal, in the one shape that all have."""
        error = self.json["error"]
        assert set(error) >= {"message", "type", "param", "code"}, error
        return str(error["code"])


@dataclass
class Client:
    """Speaks to a port of this machine."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        kind = {} if data is None else {"Content-Type": "application/json"}
        try:
            link.request(method, path, data, {**kind, **self.headers, **(headers or {})})
            found = link.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            link.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.ask("POST", path, body)

    def form(self, path: str, files: Sequence[tuple[str, str, bytes]], **fields: str | list[str]) -> Answer:
        """`files`: (field, file name, bytes)."""
        mark, parts = "bowerbird-form", []
        for name, values in fields.items():
            for value in [values] if isinstance(values, str) else values:
                parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
        for name, file, data in files:
            head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\n'
            parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data)
        body = b"".join(f"--{mark}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{mark}--\r\n".encode()
        return self.ask("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={mark}"})

    def events(self, job: str) -> Iterator[tuple[str, Any]]:
        """Everything that happens to a job until its end."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            link.request("GET", f"/api/jobs/{job}/events", headers=self.headers)
            found, name = link.getresponse(), ""
            assert found.status == 200, found.read()
            for line in iter(found.readline, b""):
                text = line.decode().strip()
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    yield name, json.loads(text.removeprefix("data: "))
        finally:
            link.close()

    def end(self, accepted: Answer) -> Any:
        """The job that an answer accepted, when it is over."""
        assert accepted.status == 202, accepted.body
        name, job = list(self.events(accepted.json["id"]))[-1]
        assert name == job["state"]
        assert name in ENDS
        return job


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


@dataclass
class Process(Client):
    """`bowerbird serve` as its own process."""

    process: subprocess.Popen[str] = field(kw_only=True)
    log: Path = field(kw_only=True)

    def wait_until_ready(self) -> None:
        """Until a worker can generate."""
        pause = threading.Event()
        for _ in range(4000):  # on a busy machine it takes minutes
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.get("/ready").status == 200:
                    return
            except OSError:
                pass
            pause.wait(0.05)
        raise AssertionError(self.log.read_text())

    def children(self, module: str) -> list[int]:
        """Its processes that run `module`."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes().split(b"\0")
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and module.encode() in command:
                found.append(int(place.name))
        return found

    @property
    def worker(self) -> int:
        """The process that generates."""
        return next(pid for pid in self.children("bowerbird.serve.worker") if self._address(pid).endswith("worker-0"))

    def _address(self, process: int) -> str:
        return (Path("/proc") / str(process) / "cmdline").read_bytes().split(b"\0")[-3].decode()

    def lines(self) -> list[dict[str, Any]]:
        """The log, a line a request."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Process]:
    """`bowerbird serve` with these arguments, ready; its log and jobs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "log.txt"
    command = [sys.executable, "-m", "bowerbird", "serve", "--port", str(port), "--data", str(folder / "data")]
    with log.open("a") as out:
        process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out, text=True, cwd=folder)
    server = Process(port, process=process, log=log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        for child in [*server.children("bowerbird.serve.worker"), process.pid]:
            end_process(child)
        process.wait()


def end_process(process: int) -> None:
    """End a process that may be gone."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


class IdleWorker(Worker):
    """Is ready, and refuses every order at once; `answers` False: never says anything."""

    answers = True

    def start(self) -> None:
        self.state = "ready"

    async def stop(self) -> None:
        return None

    def send(self, message: dict[str, Any]) -> None:
        if message["do"] == "run" and self.answers:
            import asyncio

            loop = asyncio.get_running_loop()
            for order in message["orders"]:
                event = {"event": "failed", "id": order["id"], "message": "no model here", "ours": False}
                loop.call_soon(self.hear, self, event, [])
            loop.call_soon(self.hear, self, {"event": "idle", "id": "", "loaded": []}, [])


CAPABILITIES: dict[str, Any] = {
    "without_neighbors": False,
    "needs_images": False,
    "edits": True,
    "starts_from_image": True,
}
CAPABILITIES |= {"takes_references": False, "sizes": [64], "any_size": True, "multiple_of": 8}
CAPABILITIES |= {"samplers": ["dpmsolver++", "ddim"]}


@contextmanager
def web_alone(settings: Settings, sockets: Path, *, answers: bool = True) -> Iterator[tuple[Client, Server]]:
    """The web process' part in this one, on a port of its own, with a worker that does nothing."""
    settings = replace(settings, port=free_port())
    sockets.mkdir(parents=True, exist_ok=True)
    server = build.build(settings, sockets)
    made = server.dispatcher.workers[0]
    idle = IdleWorker(made.device, made.address, made.settings, made.hear, made.lost)
    idle.answers = answers
    idle.models = {
        each.place: {"capabilities": CAPABILITIES, "defaults": {}, "batch": 4} for each in server.models.values()
    }
    server.dispatcher.workers[:] = [idle]
    server.embedding = IdleWorker("cpu", server.shelf.address, {}, idle.hear, idle.lost)
    running = build.listener(server)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not running.started:
        assert thread.is_alive()
        pause.wait(0.01)
    try:
        yield Client(settings.port), server
    finally:
        running.should_exit = True
        thread.join(30)
        if server.lock is not None:
            server.lock.close()
