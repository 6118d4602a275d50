"""What every route of one server shares."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fastapi import Request

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.serve.decoding import Decoders
from bowerbird.serve.dispatch import Dispatcher
from bowerbird.serve.errors import Public, Refused, missing
from bowerbird.serve.limits import LIMITS, Limits
from bowerbird.serve.metrics import Metrics
from bowerbird.serve.models import Served
from bowerbird.serve.shelf import Shelf
from bowerbird.serve.store import Store
from bowerbird.serve.workers import Worker
from bowerbird.systems.reference_settings import Adapter

ROUTES = ("api", "docs", "favicon.ico", "health", "metrics", "openapi.json", "page", "ready", "v1")
"""What routes begin with."""
INSTRUCTED = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
EDITORS = ("KNNDiffusionPipeline", *INSTRUCTED)
"""Classes of models that edit, and of those that read an instruction, as far as that is known before one is open."""


@dataclass(frozen=True)
class Settings:
    """What `bowerbird serve` was started with. `data`: where jobs and pictures are kept. `adapters`: by the name of a
    base model, what it takes references by. `root_path`: the path of a site that a proxy serves this below, as in
    "/bowerbird". `token` None: nobody is asked for one. `devices`: a worker each. `ray`: the
    address of a cluster, where `replicas` generate in their place. `memory`: bytes that models may take on each, None
    for half of what there is; `keep_free`: bytes of the disk that uploads leave."""

    kbs: tuple[str, ...]
    data: Path
    models: tuple[str, ...] = ()
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    root_path: str = ""
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    queue: int = 32
    devices: tuple[str, ...] = ("auto",)
    ray: str | None = None
    replicas: int = 1
    dtype: str = "float32"
    memory: int | None = None
    allowed_hosts: tuple[str, ...] = ()
    drain_seconds: float = 30.0
    keep_free: int = 10**9
    open_page: bool = False
    limits: Limits = LIMITS


def read_root_path(text: str) -> str:
    """The path of a site, without the slash at its end; "" for a site of its own. Raises: BowerbirdError."""
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+", path):
        raise BowerbirdError(
            f"`root_path` {shorten(text, 80)!r}: write a path of letters, digits and . _ ~ -, which begins"
            " with a slash, as /bowerbird"
        )
    if path.split("/")[1:2] and path.split("/")[1] in ROUTES:
        raise BowerbirdError(f"`root_path` {path!r} begins as a route of the server's own; give another, as /bowerbird")
    return path


@dataclass
class Server:
    """The parts, each made once (`build.py`). `address`: of the first worker that generates; `embedding`: the one that
    holds the encoders."""

    settings: Settings
    store: Store
    shelf: Shelf
    models: dict[str, Served]
    dispatcher: Dispatcher
    decoders: Decoders
    metrics: Metrics
    public: Public
    address: str
    embedding: Worker
    lock: IO[str] | None = None
    started: float = field(default_factory=time.time)

    # -- looking up --------------------------------------------------------------------------------------------------

    def kb(self, name: str) -> KnowledgeBase:
        """A knowledge base by its id. Raises: Refused for none."""
        try:
            return self.shelf.get(name)
        except KeyError as error:
            raise missing("knowledge base", name) from error

    def kb_name(self, name: str | None) -> str:
        """An id that is there, the default where none is named. Raises: Refused."""
        ids = self.shelf.ids()
        if name is None:
            if not ids:
                raise Refused(404, "there is no knowledge base yet; make one", code="knowledge_base_not_found")
            return ids[0]
        if name not in ids:
            raise missing("knowledge base", name)
        return name

    def model(self, name: str | None) -> Served:
        """A model by its id, the default where none is named. Raises: Refused."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(
                404,
                f"there is no model {name[:80]!r} here; there are {', '.join(self.models)}",
                code="model_not_found",
                param="model",
            )
        return self.models[name]

    def edit_model(self) -> Served | None:
        """The first model that edits."""
        return next((served for served in self.models.values() if self.edits(served)), None)

    def edits(self, served: Served) -> bool:
        """Whether a model edits; by its class until a worker opened it."""
        known = self.known(served)
        return bool(known["capabilities"]["edits"]) if known else served.class_name in EDITORS

    def instructs(self, served: Served) -> bool:
        """Whether a model edits by an instruction; by its class until a worker opened it."""
        known = self.known(served)
        return bool(known["capabilities"].get("instructs")) if known else served.class_name in INSTRUCTED

    def known(self, served: Served) -> dict[str, Any] | None:
        """What a worker said of a model, None until it opened it."""
        return next((w.models[served.place] for w in self.dispatcher.workers if served.place in w.models), None)

    async def model_facts(self, served: Served) -> dict[str, Any]:
        """Capabilities and defaults, asked of the worker where they are not known. Raises: Refused."""
        known = self.known(served)
        if known is None:
            answer = await self.ask({"call": "model", "model": served.place})
            known = answer
            self.dispatcher.workers[0].models[served.place] = answer
        return known

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """A call of the first worker, beside what it generates. Raises: Refused, BowerbirdError."""
        return await self.dispatcher.workers[0].ask(message)

    def at(self, path: str) -> str:
        """A path of the API as a client asks for it."""
        return self.settings.root_path + path

    def items_address(self, kb: str) -> str:
        """Where the items of a knowledge base are."""
        return self.at(f"/api/knowledge-bases/{kb}/items")

    def upload(self, name: str) -> Path:
        """Where an upload lies. Raises: Refused."""
        path = self.store.folder / "uploads" / f"{name}.png"
        if not path.is_file():
            raise missing("upload", name)
        return path

    def image(self, name: str) -> dict[str, Any]:
        """A picture that was made here. Raises: Refused."""
        facts = self.store.image(name)
        if facts is None or not self.store.image_file(facts).is_file():
            raise missing("image", name)
        return facts

    def picture(self, name: str) -> Path:
        """An upload, or a picture made here. Raises: Refused."""
        return self.store.image_file(self.image(name)) if name.startswith("img_") else self.upload(name)

    def job(self, name: str) -> dict[str, Any]:
        """A job as the API shows it. Raises: Refused."""
        job = self.dispatcher.describe(name)
        if job is None:
            raise missing("job", name)
        return job

    def check_disk(self) -> None:
        """Raises: Refused when uploads would fill the disk."""
        free = shutil.disk_usage(self.store.folder).free
        if free < self.settings.keep_free:
            text = (
                f"the server's disk has {free // 10**6:,} MB left, and keeps {self.settings.keep_free // 10**6:,} free"
            )
            raise Refused(507, f"{text}; delete pictures, or ask who runs it", code="disk_full", again=False)

    def check_encoder(self) -> None:
        """Raises: Refused when no worker could embed."""
        if self.embedding.state != "ready":
            raise Refused(503, "the encoder is starting; try again in a moment", code="worker_starting", retry_after=3)


async def server_of(request: Request) -> Server:
    """The server of a request; async, as FastAPI gives anything else a thread."""
    server: Server = request.app.state.server
    return server


def refusal_of(server: Server, error: Exception) -> Refused:
    """Any error as its client hears it."""
    if isinstance(error, Refused):
        return error
    return server.public.of(error) if isinstance(error, BowerbirdError) else server.public.fault(error)
