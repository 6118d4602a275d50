"""The page, the session, and what those who run a server look at."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse

from bowerbird.core.version import __version__
from bowerbird.knowledge.rerank.registry import NAMES as RERANKERS
from bowerbird.serve import answers, gate, schemas
from bowerbird.serve.context import Server, server_of
from bowerbird.serve.errors import Refused
from bowerbird.serve.metrics import resident_bytes
from bowerbird.serve.routes.shared import PAGE

router = APIRouter(tags=["operation"])
Here = Annotated[Server, Depends(server_of)]
MONTH = 30 * 24 * 3600


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request, server: Here, token: Annotated[str | None, Query(max_length=1000)] = None) -> Response:
    """The page; `token` signs in, and is gone from the address."""
    if token is not None and server.settings.token is not None:
        answer = RedirectResponse(server.at("/"), 303)
        if hmac.compare_digest(token.encode(), server.settings.token.encode()):
            _sign_in(answer, request, server)
        return answer
    return _page("index.html")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The API, to read."""
    return _page("docs.html")


@router.get("/favicon.ico", include_in_schema=False)
async def icon() -> Response:
    """Ours, in place of a 404 in the browser's console."""
    return FileResponse(PAGE / "icon.svg", media_type="image/svg+xml")


def _page(name: str) -> Response:
    return FileResponse(PAGE / name, media_type="text/html", headers={"Cache-Control": "no-cache"})


def _sign_in(answer: Response, request: Request, server: Server) -> None:
    """The cookie; where a proxy in front says that it came by https, a browser never sends it by http."""
    secure = request.url.scheme == "https"
    answer.set_cookie(
        gate.COOKIE,
        gate.session(server),
        max_age=MONTH,
        httponly=True,
        samesite="strict",
        path=server.at("/"),
        secure=secure,
    )


@router.get("/api/session", response_model=answers.Session)
async def session(request: Request, server: Here) -> Any:
    """Whether a token is wanted, and was given."""
    headers = {key.lower(): value for key, value in request.headers.items()}
    return {"token_required": server.settings.token is not None, "signed_in": gate.is_signed_in(server, headers)}


@router.post("/api/session", status_code=204, response_class=Response)
async def sign_in(body: schemas.SessionRequest, request: Request, server: Here) -> Response:
    """Give the token once, for a cookie."""
    token = server.settings.token
    if token is None or not hmac.compare_digest(body.token.encode("utf-8", "replace"), token.encode()):
        raise Refused(401, "this is not the token", code="invalid_api_key", param="token")
    answer = Response(status_code=204)
    _sign_in(answer, request, server)
    return answer


@router.delete("/api/session", status_code=204, response_class=Response)
async def sign_out(server: Here) -> Response:
    """Give the cookie back."""
    answer = Response(status_code=204)
    answer.delete_cookie(gate.COOKIE, path=server.at("/"))
    return answer


@router.get("/api/status", response_model=answers.Status)
async def status(server: Here) -> Any:
    """What there is, and how busy it is."""
    dispatcher, own = server.dispatcher, server.edit_model()
    waiting = len(dispatcher.waiting)
    return {
        "version": __version__,
        "models": list(server.models),
        "default_model": server.model(None).id,
        "edit_model": None if own is None else own.id,
        "knowledge_bases": server.shelf.ids(),
        "queue": {"waiting": waiting, "running": len(dispatcher.tasks) - waiting, "capacity": dispatcher.capacity},
        "workers": [{"device": w.device, "state": w.state, "restarts": w.restarts} for w in dispatcher.workers],
        "rerankers": list(RERANKERS),
        "limits": server.settings.limits.public(),
    }


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=answers.Health)
async def health() -> Any:
    """Whether the process answers."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=answers.Health)
async def ready(server: Here) -> Any:
    """Whether a worker can generate."""
    if server.dispatcher.stopping:
        raise Refused(503, "the server is stopping", code="stopping", retry_after=10)
    workers = server.dispatcher.workers
    if server.embedding.state != "ready" or not any(worker.state in ("ready", "busy") for worker in workers):
        raise Refused(503, "the worker is starting", code="worker_starting", retry_after=3)
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(server: Here) -> Response:
    """Prometheus' text form."""
    import os

    server.metrics.set("memory_bytes", resident_bytes(os.getpid()), process="web")
    named = {f"worker-{number}": worker for number, worker in enumerate(server.dispatcher.workers)}
    for name, worker in {**named, "encoders": server.embedding}.items():
        if worker.process is not None:
            server.metrics.set("memory_bytes", resident_bytes(worker.process.pid), process=name)
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
