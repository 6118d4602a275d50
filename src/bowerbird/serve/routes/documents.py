"""Models with their cards, and the papers' claims as they were measured."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from bowerbird.serve import answers
from bowerbird.serve.context import Server, server_of
from bowerbird.serve.models import Served
from bowerbird.serve.sizes import proposed

router = APIRouter(prefix="/api", tags=["models"])
Here = Annotated[Server, Depends(server_of)]


def _facts(server: Server, served: Served) -> dict[str, Any]:
    known = server.known(served)
    loaded = any(served.place in worker.loaded for worker in server.dispatcher.workers)
    return {
        **served.facts(),
        "default": served.id == server.model(None).id,
        "loaded": loaded,
        "edits": server.edits(served),
        "instructs": server.instructs(served),
        "capabilities": None if known is None else known["capabilities"],
        "defaults": None if known is None else known["defaults"],
        "sizes": [] if known is None else proposed(known["capabilities"], server.settings.limits),
    }


@router.get("/models", response_model=answers.Models)
def models(server: Here) -> Any:
    """The models that are served, the default first."""
    return {"models": [_facts(server, served) for served in server.models.values()]}


@router.get("/models/{model}", response_model=answers.Model)
def model(model: str, server: Here) -> Any:
    """One model."""
    return _facts(server, server.model(model))


@router.get("/claims", response_model=answers.Claims)
def claims(server: Here) -> Any:
    """What the papers say, and what we measured."""
    return {"claims": _measured()}


@cache
def _measured() -> list[dict[str, Any]]:
    path = Path(__file__).parents[1] / "claims.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
