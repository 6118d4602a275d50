"""From settings to a server whose parts are made, and running it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import uvicorn

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.serve import recovery
from bowerbird.serve.app import create_app
from bowerbird.serve.context import Server, Settings
from bowerbird.serve.decoding import Decoders
from bowerbird.serve.dispatch import Dispatcher
from bowerbird.serve.errors import Public
from bowerbird.serve.metrics import Metrics
from bowerbird.serve.models import facts_of, served
from bowerbird.serve.protocol import PatientProtocol
from bowerbird.serve.ray_workers import ray_workers
from bowerbird.serve.shelf import Shelf
from bowerbird.serve.store import Store
from bowerbird.serve.workers import Worker


def build(settings: Settings, sockets: Path) -> Server:
    """The parts of a server; `sockets`: a folder of this process alone. What an earlier server left open is ended.

    Raises: BowerbirdError for a knowledge base or model that is not there.
    """
    models = served(settings.models, settings.adapters)
    lock = _lock(settings.data)
    store = Store(settings.data)
    recovery.clean(store)
    recovery.recover(store)
    metrics = Metrics()
    address = str(sockets / "worker-0")
    shelf = Shelf(settings.kbs, store.folder / "knowledge-bases", str(sockets / "encoders"))
    public = Public(shelf.paths, store.folder)
    dispatcher = Dispatcher(store, metrics, public, settings.queue, root_path=settings.root_path)
    encoders = []
    for name in shelf.ids()[:1]:
        facts = shelf.get(name).manifest["encoder"]  # one that cannot be opened is refused here
        encoders.append([str(facts["name"]), str(facts["fingerprint"])])
    for name in shelf.ids()[1:]:
        shelf.get(name)
    first = next(iter(models.values())).place
    usual: dict[str, Any] = {
        "dtype": settings.dtype,
        "memory": settings.memory,
        "adapters": {each.place: facts_of(each.adapter) for each in models.values() if each.adapter is not None},
    }
    embeds = {**usual, "device": settings.devices[0], "preload": [], "encoders": encoders}
    embedding = Worker(settings.devices[0], shelf.address, embeds, dispatcher.hear, dispatcher.lost)
    if settings.ray is not None:
        there = {**usual, "device": settings.devices[0], "preload": [first], "encoders": []}
        dispatcher.workers += ray_workers(settings.ray, settings.replicas, there, dispatcher.hear, dispatcher.lost)
    for number, device in enumerate(settings.devices if settings.ray is None else ()):
        wanted = {**usual, "device": device, "preload": [first], "encoders": encoders}
        dispatcher.workers.append(
            Worker(device, str(sockets / f"worker-{number}"), wanted, dispatcher.hear, dispatcher.lost)
        )
    decoders = Decoders(settings.limits)
    return Server(settings, store, shelf, models, dispatcher, decoders, metrics, public, address, embedding, lock)


def listener(server: Server) -> uvicorn.Server:
    """What listens for a server at its address, and runs until it is asked to exit."""
    settings = server.settings
    protocol = type("Protocol", (PatientProtocol,), {"header_seconds": settings.limits.header_seconds})
    config = uvicorn.Config(
        create_app(server),
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        limit_concurrency=settings.limits.connections,
        backlog=512,
    )
    return _Uvicorn(config, server)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, which ends well after SIGTERM: nothing is raised again."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and open the page where that is wanted."""
        await super().startup(sockets)
        settings = self.server.settings
        if self.started and settings.open_page:
            await asyncio.to_thread(webbrowser.open, f"http://{_shown_host(settings.host)}:{settings.port}/")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop it; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take no more jobs from now on."""
        self.server.dispatcher.stopping = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """A worker that refuses to start ends the server."""
        if self.server.dispatcher.refusal is not None:
            self.server.dispatcher.stopping = True
            return True
        return bool(await super().on_tick(counter))


def run(settings: Settings, on_message: OnMessage) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted is finished first, for `drain_seconds`.

    Raises: BowerbirdError where it cannot start.
    """
    _check_address(settings.host, settings.port)
    folder = Path(tempfile.mkdtemp(prefix="bowerbird-serve-"))  # of this user alone
    try:
        server = build(settings, folder)
        log_lines()
        running = listener(server)
        name = _shown_host(settings.host)
        on_message(f"serving http://{name}:{settings.port}/ (Ctrl-C ends it)")
        asyncio.run(running.serve())
        if server.dispatcher.refusal is not None:
            raise BowerbirdError(server.dispatcher.refusal)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_address(host: str, port: int) -> None:
    """Raises: BowerbirdError where nothing can listen there; uvicorn would log it and leave, with a code of its own."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise BowerbirdError(
            f"{_shown_host(host)}:{port} cannot be listened at ({error.strerror}); give another --port or --host, or"
            " end what listens there"
        ) from error


def _shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _lock(folder: Path) -> IO[str]:
    """One server keeps one folder; held as long as the file is open. Raises: BowerbirdError where another does."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise BowerbirdError(f"{folder}: another server keeps its jobs there; give another --data") from error
    return handle


def log_lines() -> None:
    """Lines of the log go to stderr as they are; a request's is JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("bowerbird.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
