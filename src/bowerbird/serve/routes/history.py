"""Uploads, and every picture ever made here."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from bowerbird.core.errors import BowerbirdError
from bowerbird.serve import answers, forms, orders, schemas
from bowerbird.serve.archive import zip_of
from bowerbird.serve.context import Server, server_of
from bowerbird.serve.errors import Refused, missing
from bowerbird.serve.pictures import public_image
from bowerbird.serve.routes.collections import ThumbnailSize, thumbnail_of
from bowerbird.serve.routes.jobs import FILE
from bowerbird.serve.routes.shared import form_body

router = APIRouter(prefix="/api", tags=["pictures"])
Here = Annotated[Server, Depends(server_of)]
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@router.post("/uploads", status_code=201, response_model=answers.Upload, openapi_extra=form_body(["file"], file=FILE))
async def upload(request: Request, server: Here) -> Any:
    """Send one picture, to search by it, edit it, or generate from it."""
    async with forms.read_form(request, server) as form:
        found = forms.files(form, "file")
        if len(found) != 1:
            raise Refused(422, "file: send one picture", code="missing_required_parameter", param="file")
        data = await forms.one_picture(found[0], server, "file")
        return await forms.keep_upload(server, data, found[0].filename or "")


@router.get("/uploads/{upload}", response_class=Response, responses=PNG)
async def get_upload(upload: str, server: Here) -> FileResponse:
    """A picture that was sent, as PNG."""
    return FileResponse(server.upload(_known(upload, "upl")), media_type="image/png")


def _known(name: str, kind: str) -> str:
    """`name`, which is an id of ours: nothing else becomes a path. Raises: Refused."""
    parts = name.split("_")
    if len(parts) != 2 or parts[0] != kind or len(parts[1]) != 24 or not set(parts[1]) <= set("0123456789abcdef"):
        raise missing({"upl": "upload", "img": "image"}[kind], name)
    return name


@router.get("/history", response_model=answers.History)
async def history(
    server: Here,
    q: Annotated[str, Query(max_length=500)] = "",
    starred: Annotated[bool | None, Query()] = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    knowledge_base: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """Pictures, newest first."""
    before = None if cursor is None else int(cursor)
    options: dict[str, Any] = {"starred": starred, "model": model, "kb": knowledge_base, "before": before}
    rows = await asyncio.to_thread(lambda: server.store.history(words=q, limit=limit, **options))
    more = str(rows[-1]["number"]) if len(rows) == limit else None
    return {"images": [public_image(row, server.settings.root_path) for row in rows], "next": more}


@router.post("/history/zip", response_class=Response, responses={200: {"content": {"application/zip": {}}}})
async def history_zip(body: schemas.ZipRequest, server: Here) -> Response:
    """Several pictures as one file."""
    rows = [server.image(name) for name in dict.fromkeys(body.images)]
    return zip_of([(f"{row['id']}.png", server.store.image_file(row)) for row in rows], "bowerbird.zip")


@router.get("/images/{image}", response_class=Response, responses=PNG)
async def one(image: str, server: Here) -> FileResponse:
    """The PNG, with its record."""
    path = server.store.image_file(server.image(_known(image, "img")))
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


@router.get(
    "/images/{image}/file",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}},
)
async def file(
    image: str,
    server: Here,
    format: Annotated[Literal["png", "jpeg", "webp"], Query()] = "png",
    expires: Annotated[str | None, Query(max_length=20)] = None,
    signature: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The picture in a format; an address with a signature needs no token, for an hour."""
    path = server.store.image_file(server.image(_known(image, "img")))
    if format == "png":
        return FileResponse(path, media_type="image/png")
    data = await asyncio.to_thread(path.read_bytes)
    made = (await server.decoders.ask("convert", data, image, form=format, quality=90))[1][0]
    return Response(made, media_type=TYPES[format])


@router.get("/images/{image}/thumbnail", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
async def thumbnail(image: str, request: Request, server: Here, size: ThumbnailSize = "256") -> Response:
    """The picture, small."""
    path = server.store.image_file(server.image(_known(image, "img")))
    return await thumbnail_of(server, request, await asyncio.to_thread(path.read_bytes), image, int(size))


async def _record_of(server: Server, image: str) -> tuple[dict[str, Any], list[bytes]]:
    path = server.store.image_file(server.image(_known(image, "img")))
    facts, blobs = await server.decoders.ask("record", await asyncio.to_thread(path.read_bytes), image)
    return facts["record"], blobs


@router.get("/images/{image}/record", response_model=answers.RecordFacts)
async def record(image: str, server: Here) -> Any:
    """How it was made, and the request that makes such a one again."""
    found, _ = await _record_of(server, image)
    return await asyncio.to_thread(orders.again, server, found, server.image(image)["kb"])


@router.get("/images/{image}/neighbors", response_model=answers.ImageNeighbors)
async def neighbors(image: str, server: Here) -> Any:
    """The neighbors it came from, and the nearest of them."""
    found, _ = await _record_of(server, image)
    kb = server.image(image)["kb"]
    rows = await asyncio.to_thread(_neighbors, server, kb, found.get("neighbors") or [])
    copy = found.get("copy")
    if copy is not None:
        near = copy["score"] > copy["threshold"]
        copy = {**copy, "neighbor": str(copy["neighbor"]), "near_copy": near}
    return {"neighbors": rows, "copy": copy}


def _neighbors(server: Server, kb: str | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a record; whether each is still there."""
    there: set[int] = set()
    if kb in server.shelf.ids():
        try:
            opened = server.kb(str(kb))
            there = {int(i) for i in opened.select_ids(ids=[row["id"] for row in rows if row["id"] >= 0])}
        except (BowerbirdError, Refused):
            there = set()
    base = server.items_address(str(kb))
    return [
        {
            **row,
            "id": str(row["id"]),
            "name": row.get("name", ""),
            "credit": row.get("credit", {}),
            "present": row["id"] in there,
            "thumbnail": f"{base}/{row['id']}/thumbnail" if row["id"] in there else None,
        }
        for row in rows
    ]


@router.get("/images/{image}/source", response_class=Response, responses=PNG)
async def source(image: str, server: Here) -> Response:
    """Of an edit: the picture it started from."""
    _, blobs = await _record_of(server, image)
    if not blobs:
        raise missing("source of image", image)
    return Response(blobs[0], media_type="image/png")


@router.patch("/images/{image}", response_model=answers.Image)
async def star(image: str, body: schemas.StarRequest, server: Here) -> Any:
    """Mark it, or not."""
    server.image(_known(image, "img"))
    await asyncio.to_thread(server.store.star, image, body.starred)
    return public_image(server.image(image), server.settings.root_path)


@router.delete("/images/{image}", status_code=204, response_class=Response)
async def forget(image: str, server: Here) -> Response:
    """Remove it for good."""
    server.image(_known(image, "img"))
    await asyncio.to_thread(server.store.forget, image)
    return Response(status_code=204)
