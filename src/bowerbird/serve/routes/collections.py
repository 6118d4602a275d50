"""Knowledge bases, their items, and searching them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.base import KnowledgeBase
from bowerbird.knowledge.storage.milvus.client import is_address
from bowerbird.serve import answers, forms, ingesting, schemas
from bowerbird.serve.context import Server, server_of
from bowerbird.serve.errors import Refused, missing
from bowerbird.serve.routes.jobs import accepted
from bowerbird.serve.routes.shared import form_body
from bowerbird.serve.shelf import items_of

MEASURES = ("similarity", "bm25", "caption_similarity")
router = APIRouter(prefix="/api/knowledge-bases", tags=["knowledge bases"])
Here = Annotated[Server, Depends(server_of)]
ThumbnailSize = Annotated[Literal["64", "128", "256", "512"], Query()]
PLAIN = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
KEPT_THUMBNAILS = 4000
_thumbnails: OrderedDict[tuple[str, int], bytes] = OrderedDict()

FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}


@router.get("", response_model=answers.KnowledgeBases)
async def list_all(server: Here) -> Any:
    """All that are served, the default first."""
    return {"knowledge_bases": [await asyncio.to_thread(_facts, server, name) for name in server.shelf.ids()]}


def _facts(server: Server, name: str) -> dict[str, Any]:
    """One of the list; one that cannot be opened now, as it was moved or is damaged, says so and hides no other."""
    try:
        return server.shelf.facts(name)
    except BowerbirdError as error:
        return {**server.shelf.unknown(name), "error": server.public.of(error).message}


@router.post(
    "",
    status_code=202,
    response_model=answers.Job,
    openapi_extra=form_body(["name", "files"], name={"type": "string"}, files=FILES, caption_column={"type": "string"}),
)
async def make(request: Request, server: Here) -> JSONResponse:
    """Make one of pictures, a zip or a parquet."""
    server.dispatcher.check_room()
    server.check_encoder()
    async with forms.read_form(request, server) as form:
        name = forms.field(form, "name")
        if name is None:
            raise Refused(422, "name: say what to call it", code="missing_required_parameter", param="name")
        server.shelf.new_place(name)
        options = {"caption_column": forms.field(form, "caption_column")}
        folder, sources = await forms.stage(server, forms.files(form, "files", "files[]"), [])
    return accepted(server, await ingesting.build(server, name, folder, sources, options))


@router.get("/{kb}", response_model=answers.KnowledgeBaseFacts)
async def one(kb: str, server: Here) -> Any:
    """One of them."""
    server.kb_name(kb)
    return await asyncio.to_thread(server.shelf.facts, kb)


@router.get("/{kb}/versions", response_model=answers.Versions)
async def versions(kb: str, server: Here) -> Any:
    """The versions that `restore` takes."""
    found = await asyncio.to_thread(server.kb, kb)
    return {"version": found.version, "versions": found.versions}


@router.post("/{kb}/verify", status_code=202, response_model=answers.Job)
async def verify(kb: str, server: Here) -> JSONResponse:
    """Read all of it and compare with what was written."""
    if is_address(server.shelf.place(server.kb_name(kb)).path):
        raise Refused(422, "what a Milvus server keeps is its own to verify", code="not_a_directory")
    return accepted(server, ingesting.verify(server, kb))


@router.get("/{kb}/columns", response_model=answers.Columns)
async def columns(kb: str, server: Here) -> Any:
    """What `where` can speak of, with the values there are."""
    server.kb_name(kb)
    return await asyncio.to_thread(server.shelf.columns, kb)


@router.post("/{kb}/restore", response_model=answers.Restored)
async def restore(kb: str, body: schemas.RestoreRequest, server: Here) -> Any:
    """Hold again what a version held."""

    def change() -> dict[str, int]:
        opened = server.shelf.change(server.kb_name(kb))
        version = opened.restore(body.version, expected_version=body.expected_version)
        return {"version": version, "items": len(opened)}

    return await asyncio.to_thread(change)


# -- items -----------------------------------------------------------------------------------------------------------


@router.get("/{kb}/items", response_model=answers.Items)
async def items(
    kb: str,
    server: Here,
    offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    where: Annotated[str | None, Query(min_length=1, max_length=2000)] = None,
) -> Any:
    """Some items, in the order they came."""
    found = await asyncio.to_thread(server.kb, kb)

    def page() -> dict[str, Any]:
        ids = found.ids(where)
        shown = ids[offset : offset + limit].tolist()
        return {
            "version": found.version,
            "total": len(ids),
            "offset": offset,
            "items": items_of(server.items_address(kb), found, shown),
        }

    return await asyncio.to_thread(page)


@router.post(
    "/{kb}/items",
    status_code=202,
    response_model=answers.Job,
    openapi_extra=form_body(
        ["files"],
        files=FILES,
        captions={"type": "array", "items": {"type": "string"}},
        caption_column={"type": "string"},
        dedup={"type": "string"},
    ),
)
async def add(kb: str, request: Request, server: Here) -> JSONResponse:
    """Add pictures, a zip or a parquet."""
    server.kb_name(kb)
    server.dispatcher.check_room()
    server.check_encoder()
    async with forms.read_form(request, server) as form:
        captions = [value for name in ("captions", "captions[]") for value in form.getlist(name)]
        if any(not isinstance(caption, str) or len(caption) > 2000 for caption in captions):
            raise Refused(400, "captions: texts of up to 2,000 characters", code="invalid_value", param="captions")
        options = {"caption_column": forms.field(form, "caption_column"), "dedup": _number(form, "dedup")}
        uploads = forms.files(form, "files", "files[]")
        folder, sources = await forms.stage(server, uploads, [str(caption) for caption in captions])
    return accepted(server, ingesting.add(server, kb, folder, sources, options))


def _number(form: Any, name: str) -> float | None:
    text = forms.field(form, name)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise Refused(422, f"{name}: a number is wanted", code="invalid_value", param=name) from error


def _item(item: str) -> int:
    """The number of an item. Raises: Refused for what cannot be one."""
    if not (item.isascii() and item.isdecimal() and len(item) <= 19 and int(item) < 2**63):
        raise missing("item", item)
    return int(item)


@router.get("/{kb}/items/{item}", response_model=answers.Item)
async def one_item(kb: str, item: str, server: Here) -> Any:
    """One item."""
    number = _item(item)
    found = await asyncio.to_thread(server.kb, kb)
    return (await asyncio.to_thread(items_of, server.items_address(kb), found, [number]))[0]


def _stored(kb: KnowledgeBase, item: str) -> bytes:
    """The bytes of an item's picture. Raises: Refused where it has none."""
    data = kb.store.pictures([_item(item)]).get(int(item))
    if not data:
        raise missing("picture of item", item)
    return data


@router.get("/{kb}/items/{item}/picture", response_class=Response, responses={200: {"content": {"image/*": {}}}})
async def picture(kb: str, item: str, request: Request, server: Here) -> Response:
    """An item's picture."""
    found = await asyncio.to_thread(server.kb, kb)
    data = await asyncio.to_thread(_stored, found, item)
    kind = next((kind for start, kind in PLAIN.items() if data.startswith(start)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    tag = etag(data, "picture")
    if (same := unchanged(request, tag)) is not None:
        return same
    if kind is None:
        kind, data = "image/png", (await server.decoders.ask("picture", data, item))[1][0]
    return Response(data, media_type=kind, headers=cached(tag))


@router.get("/{kb}/items/{item}/thumbnail", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
async def thumbnail(kb: str, item: str, request: Request, server: Here, size: ThumbnailSize = "256") -> Response:
    """An item's picture, small."""
    found = await asyncio.to_thread(server.kb, kb)
    data = await asyncio.to_thread(_stored, found, item)
    return await thumbnail_of(server, request, data, item, int(size))


async def thumbnail_of(server: Server, request: Request, data: bytes, name: str, size: int) -> Response:
    """A picture as a small WebP, made once while it is remembered."""
    tag = etag(data, str(size))
    if (same := unchanged(request, tag)) is not None:
        return same
    small = _thumbnails.get((tag, size))
    if small is None:
        small = (await server.decoders.ask("thumbnail", data, name, size=size))[1][0]
        _thumbnails[tag, size] = small
        while len(_thumbnails) > KEPT_THUMBNAILS:
            _thumbnails.popitem(last=False)
    return Response(small, media_type="image/webp", headers=cached(tag))


def etag(data: bytes, kind: str) -> str:
    """What changes with a picture, in the form that is asked for."""
    return f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}-{kind}"'


def cached(tag: str) -> dict[str, str]:
    """Headers of what a browser may keep."""
    return {"ETag": tag, "Cache-Control": "private, max-age=600"}


def unchanged(request: Request, tag: str) -> Response | None:
    """304 where the browser has it already."""
    given = request.headers.get("if-none-match", "")
    return Response(status_code=304, headers=cached(tag)) if tag in given or given == "*" else None


@router.post("/{kb}/remove", response_model=answers.Removed)
async def remove(kb: str, body: schemas.RemoveRequest, server: Here) -> Any:
    """Remove items; `restore` with `undo` brings them back."""

    def act(opened: KnowledgeBase, ids: list[int] | None) -> int:
        return opened.remove(ids=ids, where=body.where, expected_version=body.expected_version)

    return await _change_items(kb, body, server, "removed", act)


@router.post("/{kb}/update", response_model=answers.Updated)
async def update(kb: str, body: schemas.UpdateRequest, server: Here) -> Any:
    """Give items another caption or other metadata; `restore` with `undo` takes it back."""

    def act(opened: KnowledgeBase, ids: list[int] | None) -> int:
        return opened.update(ids=ids, where=body.where, caption=body.caption, metadata=body.metadata)

    return await _change_items(kb, body, server, "updated", act)


async def _change_items(
    kb: str,
    body: schemas.RemoveRequest | schemas.UpdateRequest,
    server: Server,
    said: str,
    act: Callable[[KnowledgeBase, list[int] | None], int],
) -> dict[str, Any]:
    """What `act` did to the items that `body` names, counted as `said`, and the version that undoes it."""
    if (body.ids is None) == (body.where is None):
        raise Refused(422, "give ids or where, one of them", code="invalid_value", param="ids")

    def change() -> dict[str, Any]:
        opened = server.shelf.change(server.kb_name(kb))
        before = opened.version
        count = act(opened, None if body.ids is None else [int(i) for i in body.ids])
        undo = before if count else None
        return {said: count, "version": opened.version, "items": len(opened), "undo": undo}

    return await asyncio.to_thread(change)


# -- searching -------------------------------------------------------------------------------------------------------


@router.post("/{kb}/search", response_model=answers.Hits)
async def search(kb: str, body: schemas.SearchRequest, server: Here) -> Any:
    """The items nearest to a text, a picture, an item, or a mix of them."""
    given = [body.text is not None, body.upload is not None, body.item is not None, body.mix is not None]
    if sum(given) != 1:
        raise Refused(422, "give one of text, upload, item, mix", code="invalid_value", param="text")
    if body.text is None or body.mode != "bm25":
        server.check_encoder()
    found = await asyncio.to_thread(server.kb, kb)
    started = time.perf_counter()
    hits, mode = await asyncio.to_thread(_search, server, kb, found, body)
    spent = time.perf_counter() - started
    server.metrics.observe("stage_seconds", spent, stage="search")
    columns = [c for c in range(hits.k) if hits.mask[0, c]]
    described = await asyncio.to_thread(
        items_of, server.items_address(kb), found, [int(hits.ids[0, c]) for c in columns]
    )
    results = [
        {
            "item": item,
            "score": round(float(hits.scores[0, c]), 6),
            **{name: _measure(hits.measures.get(name), c) for name in MEASURES},
        }
        for item, c in zip(described, columns, strict=True)
    ]
    corrected = hits.corrected[0] if hits.corrected else {}
    return {
        "version": found.version,
        "mode": mode,
        "ms": round(spent * 1000, 2),
        "corrected": corrected,
        "results": results,
    }


def _measure(values: Any, column: int) -> float | None:
    value = None if values is None else float(values[0, column])
    return None if value is None or value != value else round(value, 6)


def _search(server: Server, name: str, kb: KnowledgeBase, body: schemas.SearchRequest) -> tuple[Any, str]:
    """Neighbors, and the mode they were looked for in."""
    options: dict[str, Any] = {"k": min(body.k, max(1, len(kb))), "where": body.where, "diversity": body.diversity}
    options["min_score"] = body.min_score
    if body.text is not None:
        options["alpha"] = "auto" if body.alpha is None else body.alpha
        return kb.search(text=body.text, mode=body.mode, typos=body.typos, rerank=body.rerank, **options), body.mode
    if body.item is not None:
        return kb.search(ids=[int(body.item)], **{**options, "k": max(1, min(body.k, len(kb) - 1))}), "dense"
    if body.upload is not None:
        vectors = server.shelf.encoder(name).embed_files([server.upload(body.upload).read_bytes()])
        return kb.search(embeddings=vectors, **options), "dense"
    parts = [(_part(server, name, kb, part), part.weight) for part in body.mix or ()]
    return kb.search(query_mix=parts, **options), "dense"


def _part(server: Server, name: str, kb: KnowledgeBase, part: schemas.MixPart) -> Any:
    """A text, or the embedding of a picture or item."""
    if [part.text is not None, part.upload is not None, part.item is not None].count(True) != 1:
        raise Refused(422, "each part of mix is a text, an upload or an item", code="invalid_value", param="mix")
    if part.text is not None:
        return part.text
    if part.item is not None:
        return kb.get([int(part.item)]).embeddings[0, 0]
    assert part.upload is not None
    return server.shelf.encoder(name).embed_files([server.upload(part.upload).read_bytes()])[0]


@router.post("/{kb}/neighbors", response_model=answers.SuggestedNeighbors)
async def neighbors(kb: str, body: schemas.NeighborsRequest, server: Here) -> Any:
    """What `generate` with these settings would be given."""
    if (body.prompt is None) == (not body.uploads) or (body.prompt is not None and not body.prompt.strip()):
        raise Refused(422, "give prompt or uploads, one of them", code="invalid_value", param="prompt")
    server.check_encoder()
    served, found = server.model(body.model), await asyncio.to_thread(server.kb, kb)
    if body.where is not None:
        await asyncio.to_thread(found.ids, body.where)
    job: dict[str, Any] = {"prompt": body.prompt, "k": None if body.k is None else min(body.k, max(1, len(found)))}
    job |= {"search_mode": body.search_mode, "where": body.where, "rerank": body.rerank, "allow_no_neighbors": True}
    job |= {"images": [str(server.upload(name)) for name in body.uploads], "phrases": body.phrases}
    weights = {str(pin.item): pin.weight for pin in body.pinned}
    message: dict[str, Any] = {"call": "suggest", "model": served.place, "kb": server.shelf.place(kb).path, "job": job}
    message |= {"pinned": [int(item) for item in weights], "removed": [int(item) for item in body.removed]}
    answer = await server.ask(message)
    await server.model_facts(served)  # it is open now, so what it can do is known
    described = await asyncio.to_thread(items_of, server.items_address(kb), found, [int(i) for i in answer["ids"]])
    rows = [
        {"item": item, "score": score, "weight": weights.get(item["id"], 1.0), "pinned": number < answer["pinned"]}
        | ({"phrase": answer["phrases"][number]} if answer["phrases"] else {})
        for number, (item, score) in enumerate(zip(described, answer["scores"], strict=True))
    ]
    return {"version": answer["version"], "k": len(rows), "neighbors": rows}
