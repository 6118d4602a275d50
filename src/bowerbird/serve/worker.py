"""The process that holds models and encoders, on one device: generates for the web process, or embeds for whoever
searches or adds. One of each is run, so that a search waits for no picture, and goes on when a model's process ends.

Run as `python -m bowerbird.serve.worker FD ADDRESS SETTINGS`. `FD`: a socket on which orders come and events go;
when it ends, so does this process. `ADDRESS`: the Unix socket where calls are answered, beside what is being generated.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.serve import frames
from bowerbird.serve.calls import Calls
from bowerbird.serve.kinds import run
from bowerbird.serve.models import adapter_of
from bowerbird.serve.pipelines import Workbench, default_memory
from bowerbird.serve.work import Order


class Worker:
    """Orders come in one thread, are done in the main one, and each call of `ADDRESS` has a thread of its own."""

    def __init__(self, link: socket.socket, bench: Workbench) -> None:
        self.link, self.bench = link, bench
        self.orders: queue.Queue[list[Order]] = queue.Queue()
        self.at_work: dict[str, Order] = {}
        self._sending = threading.Lock()
        self.calls = Calls(bench)

    def tell(self, event: str, name: str = "", blobs: Sequence[bytes] = (), **facts: Any) -> None:
        """An event to the web process."""
        with self._sending:
            self.link.sendall(frames.pack({"event": event, "id": name, **facts}, blobs))

    def listen(self) -> None:
        """Take orders until the web process is gone; then this process is of no use."""
        try:
            with self.link.makefile("rb") as file:
                while True:
                    message, _ = frames.read_from(file)
                    if message["do"] == "run":
                        orders = [Order(**each) for each in message["orders"]]
                        self.at_work |= {order.id: order for order in orders}
                        self.orders.put(orders)
                    elif message["do"] == "cancel" and message["id"] in self.at_work:
                        self.at_work[message["id"]].cancelled.set()
        finally:
            os._exit(0)

    def work(self) -> None:
        """Do orders for ever."""
        while True:
            orders = self.orders.get()
            run(self.bench, orders, self.tell)
            for order in orders:
                self.at_work.pop(order.id, None)
            self.tell("idle", loaded=self.bench.models.names())

    # -- calls -------------------------------------------------------------------------------------------------------

    def serve(self, listening: socket.socket) -> None:
        """Answer calls for ever."""
        while True:
            link, _ = listening.accept()
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as file:
            try:
                message, blobs = frames.read_from(file)
                facts, found = self.calls.answer(message, blobs)
            except BowerbirdError as error:
                facts, found = {"error": str(error)}, []
            except frames.Broken:
                return
            try:
                link.sendall(frames.pack(facts, found))
            except OSError:
                return


def main() -> None:
    """Start, load what is wanted first, and work."""
    from bowerbird.core import lazy_imports

    lazy_imports.install()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if json.loads(sys.argv[3])["preload"]:  # who generates lets those go first who only ask
        os.nice(5)
    number, address, settings = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    sys.setswitchinterval(0.001)  # who asks beside what is being generated is not to wait for it
    from bowerbird.core.tensors import pick_device

    if settings["preload"]:
        from bowerbird.core.quiet import quiet_libraries

        quiet_libraries()
    link = socket.socket(fileno=number)
    try:
        device = pick_device(settings["device"])
        memory = settings["memory"] or default_memory(device)
        adapters = {place: adapter_of(facts) for place, facts in settings["adapters"].items()}
        bench = Workbench(device, settings["dtype"], memory, adapters)
        worker = Worker(link, bench)
        for name, fingerprint in settings["encoders"]:
            bench.encoder(name, fingerprint)
        facts = {name: worker.calls.model(name) for name in settings["preload"]}
    except BowerbirdError as error:
        link.sendall(frames.pack({"event": "refused", "id": "", "message": str(error)}))
        sys.exit(2)
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(256)
        threading.Thread(target=worker.listen, daemon=True).start()
        threading.Thread(target=worker.serve, args=(listening,), daemon=True).start()
        worker.tell("ready", device=device, models=facts, loaded=bench.models.names())
        worker.work()


if __name__ == "__main__":
    main()
