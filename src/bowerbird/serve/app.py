"""The web application: routes, and one shape for whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.version import __version__
from bowerbird.serve import frames
from bowerbird.serve.answers import Error
from bowerbird.serve.context import Server, refusal_of
from bowerbird.serve.errors import Refused
from bowerbird.serve.gate import Gate
from bowerbird.serve.routes import collections, documents, history, jobs, openai, operation
from bowerbird.serve.routes.shared import PAGE

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error} for status in (400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 503, 507)
}
RANGES = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "string_too_long",
        "string_too_short",
        "string_pattern_mismatch",
        "too_long",
        "too_short",
        "finite_number",
        "literal_error",
        "enum",
        "json_invalid",
    }
)
"""Values that are of the right kind and out of bounds: 400, as OpenAI answers; another kind is 422."""
WORDS = {"extra_forbidden": "no key of this request; /docs lists them", "missing": "is missing"}
"""What pydantic says in words of its own."""


def create_app(server: Server) -> Any:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for worker in (*server.dispatcher.workers, server.embedding):
            worker.start()
        yield
        await server.dispatcher.drain(server.settings.drain_seconds)
        for worker in (*server.dispatcher.workers, server.embedding):
            await worker.stop()
        await server.decoders.close()
        server.store.close()

    app = FastAPI(
        title="bowerbird",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=REFUSALS,
        redirect_slashes=False,  # 307 is no answer of this API, and behind a proxy it would lead to http
    )
    app.state.server = server
    for module in (collections, documents, history, jobs, openai, operation):
        app.include_router(module.router)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (BowerbirdError, frames.Broken, Exception):
        app.add_exception_handler(kind, _failed)
    return Gate(app, server)


def answer(request: Request, refused: Refused) -> JSONResponse:
    """A refusal as an answer."""
    request_id = request.scope.get("state", {}).get("request_id")
    headers = refused.answer_headers()
    if refused.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(refused.body(request_id), refused.status, headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return answer(request, error)
    messages = {404: "there is no such route; /docs lists them", 405: "this route does not take that method"}
    codes = {404: "route_not_found", 405: "method_not_allowed", 400: "invalid_request"}
    status = error.status_code
    refused = Refused(status, messages.get(status, str(error.detail)), code=codes.get(status, "refused"))
    found = answer(request, refused)
    found.headers.update(error.headers or {})
    return found


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["loc"] == ("body",) and first["type"] != "missing" and not _is_json(request):
        text = "send JSON, with its Content-Type: application/json"
        return answer(request, Refused(422, text, code="not_json"))
    place = [str(part) for part in first["loc"][1:] if not isinstance(part, int) or len(first["loc"]) > 2]
    param = ".".join(place) or None
    codes = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    status = 400 if first["type"] in RANGES else 422
    said = WORDS.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
    text = f"{param}: {said}" if param else said
    code = codes.get(first["type"], "invalid_value")
    return answer(request, Refused(status, text[:500], code=code, param=param and param[:200]))


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return answer(request, refusal_of(request.app.state.server, error))
