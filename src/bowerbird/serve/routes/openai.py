"""The OpenAI images API, as its official clients speak it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, TypeAdapter, ValidationError
from starlette.datastructures import FormData

from bowerbird.serve import forms, orders, schemas
from bowerbird.serve.context import Server, server_of
from bowerbird.serve.dispatch import Task
from bowerbird.serve.errors import Refused
from bowerbird.serve.limits import LIMITS
from bowerbird.serve.pictures import signed_path
from bowerbird.serve.routes.jobs import event, stream
from bowerbird.serve.routes.shared import form_body

router = APIRouter(prefix="/v1", tags=["OpenAI images API"])
Here = Annotated[Server, Depends(server_of)]
Form = Literal["png", "jpeg", "webp"]
GONE_SECONDS = 0.5
_TEXT = {"type": "string"}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}


class ImagesRequest(schemas.Strict):
    """What both routes take. `quality`, `style`, `moderation`, `user` and `input_fidelity` change nothing."""

    prompt: schemas.Prompt
    model: schemas.Name | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[0-9]{2,4}x[0-9]{2,4})$")] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Form | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    background: Literal["auto", "opaque"] | None = None
    quality: Annotated[str, Field(max_length=40)] | None = None
    style: Annotated[str, Field(max_length=40)] | None = None
    moderation: Annotated[str, Field(max_length=40)] | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None
    knowledge_base: schemas.Name | None = None
    k: schemas.Neighbors | None = None
    neighbors: Annotated[list[schemas.ItemWeight], Field(max_length=64)] | None = None
    search_mode: schemas.SearchMode | None = None
    where: schemas.Where | None = None
    rerank: schemas.Rerank | None = None
    seed: schemas.Seed | None = None
    steps: schemas.Steps | None = None
    guidance_scale: schemas.Scale | None = None
    text_ratio: schemas.Share | None = None
    scale: schemas.ReferenceScale | None = None
    negative_prompt: schemas.Prompt | None = None
    phrases: schemas.Parser | None = None

    @property
    def form(self) -> Form:
        """The format of the answer's pictures."""
        return self.output_format or "png"

    def edges(self) -> tuple[int | None, int | None]:
        """Height and width. Raises: Refused for one that is out of bounds."""
        if self.size in (None, "auto"):
            return None, None
        width, height = map(int, str(self.size).split("x"))
        if not LIMITS.least_edge <= min(width, height) <= max(width, height) <= LIMITS.edge:
            text = f"size {self.size}: edges are {LIMITS.least_edge} to {LIMITS.edge} pixels; give less, or auto"
            raise Refused(400, text, code="invalid_value", param="size")
        return height, width


class EditForm(ImagesRequest):
    """An edit's own: how much is kept."""

    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    preservation: schemas.Share | None = None
    input_fidelity: Annotated[str, Field(max_length=40)] | None = None


@router.get("/models")
async def models(server: Here) -> dict[str, Any]:
    """The models that are served."""
    return {"object": "list", "data": [_model(server, name) for name in server.models]}


@router.get("/models/{model}")
async def one_model(model: str, server: Here) -> dict[str, Any]:
    """One model."""
    return _model(server, server.model(model).id)


def _model(server: Server, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(server.started), "owned_by": "bowerbird"}


@router.post("/images/variations")
async def variations() -> Response:
    """Not in OpenAI's API any more."""
    text = "variations are gone; generate from a picture with POST /api/generate and uploads, or edit it"
    raise Refused(404, text, code="route_not_found")


@router.post("/images/generations", responses={200: {"content": {"text/event-stream": {}}}})
async def generations(body: ImagesRequest, request: Request, server: Here) -> Response:
    """Generate from a prompt."""
    height, width = body.edges()
    chosen = [schemas.Chosen(item=each.id, weight=each.weight) for each in body.neighbors or ()]
    own = {name: getattr(body, name) for name in ("text_ratio", "scale", "negative_prompt", "phrases")}
    own |= {} if body.rerank is None else {"rerank": body.rerank}
    wanted = schemas.GenerateRequest(**_common(body), **own, height=height, width=width, neighbors=chosen or None)
    try:
        task = await orders.generate(server, wanted)
    except Refused as refused:
        refused.param = "size" if refused.param in ("height", "width") else refused.param
        raise
    return await _answer(request, server, task, body, "image_generation")


@router.post(
    "/images/edits",
    responses={200: {"content": {"text/event-stream": {}}}},
    openapi_extra=form_body(["image", "prompt"], image=_FILES, prompt=_TEXT, model=_TEXT, n=_TEXT, size=_TEXT),
)
async def edits(request: Request, server: Here) -> Response:
    """Edit one picture or several."""
    async with forms.read_form(request, server) as form:
        pictures = forms.files(form, "image", "image[]")
        if not 1 <= len(pictures) <= 16:
            raise Refused(400, "image: send 1 to 16 pictures", code="invalid_value", param="image")
        if "mask" in form:
            raise Refused(
                400, "mask: none is needed, say in the prompt what changes", code="invalid_value", param="mask"
            )
        body = _edit_form(form)
        if body.size not in (None, "auto"):
            raise Refused(400, "size: an edit has the model's own; leave it out", code="invalid_value", param="size")
        datas = [await forms.one_picture(file, server, "image") for file in pictures]
        names = [file.filename or "image" for file in pictures]
    uploads = [await forms.keep_upload(server, data, name) for data, name in zip(datas, names, strict=True)]
    wanted = schemas.EditRequest(
        **_common(body), image=uploads[0]["id"], strength=body.strength, preservation=body.preservation
    )
    task = await orders.edit(server, wanted, images=[each["id"] for each in uploads])
    return await _answer(request, server, task, body, "image_edit")


def _edit_form(form: FormData) -> EditForm:
    """The values of the form, which are all texts. Raises: Refused."""
    values: dict[str, Any] = {}
    for name in {key for key in form if key not in ("image", "image[]")}:
        text = forms.field(form, name, longest=LIMITS.prompt)
        if text is not None:
            values[name] = text
    try:
        if "neighbors" in values:
            values["neighbors"] = json.loads(values["neighbors"])
        return TypeAdapter(EditForm).validate_python(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"]))
        raise Refused(400, f"{param}: {first['msg']}"[:500], code="invalid_value", param=param[:200]) from error
    except ValueError as error:
        raise Refused(400, "neighbors: write JSON", code="invalid_value", param="neighbors") from error


def _common(body: ImagesRequest) -> dict[str, Any]:
    names = ("prompt", "model", "knowledge_base", "k", "search_mode", "where", "seed", "steps", "guidance_scale")
    previews = (body.partial_images or False) if body.stream else False
    return {**{name: getattr(body, name) for name in names}, "n": body.n or 1, "previews": previews}


async def _answer(request: Request, server: Server, task: Task, body: ImagesRequest, kind: str) -> Response:
    server.dispatcher.submit(task)
    if body.stream:
        return StreamingResponse(_stream(request, server, task, body, kind), media_type="text/event-stream")
    await _wait(request, server, task)
    job = _ended(server, task)
    pictures = [await _picture(request, server, image, body) for image in job["images"]]
    return JSONResponse({**_facts(job, body), "data": pictures})


async def _wait(request: Request, server: Server, task: Task) -> None:
    """Until the job is over; nobody is kept busy for a client that has gone."""
    while not task.over.is_set():
        try:
            await asyncio.wait_for(task.over.wait(), GONE_SECONDS)
        except TimeoutError:
            if await request.is_disconnected():
                server.dispatcher.cancel(task.id)


def _ended(server: Server, task: Task) -> dict[str, Any]:
    """A job that is done. Raises: Refused with what happened otherwise."""
    job = server.job(task.id)
    if job["state"] == "done":
        return job
    error = job["error"] or {"message": "it was cancelled", "code": "cancelled"}
    status = {"worker_died": 503, "interrupted": 503, "cancelled": 409, "worker_failed": 500, "mismatch": 409}
    status |= {"disk_full": 507}
    code = str(error["code"])
    raise Refused(
        status.get(code, 422), error["message"], code=code, retry_after=5 if status.get(code) == 503 else None
    )


def _facts(job: dict[str, Any], body: ImagesRequest) -> dict[str, Any]:
    first = job["images"][0]
    return {
        "created": int(job["finished"] or time.time()),
        "size": f"{first['width']}x{first['height']}",
        "output_format": body.form,
        "background": "opaque",
        "quality": body.quality or "auto",
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        },
        "job": job["id"],
    }


async def _coded(server: Server, image: dict[str, Any], body: ImagesRequest) -> str:
    path = server.store.image_file(server.image(image["id"]))
    data = await asyncio.to_thread(path.read_bytes)
    if body.form != "png":
        quality = 90 if body.output_compression is None else body.output_compression
        data = (await server.decoders.ask("convert", data, image["id"], form=body.form, quality=quality))[1][0]
    return base64.b64encode(data).decode()


async def _picture(request: Request, server: Server, image: dict[str, Any], body: ImagesRequest) -> dict[str, Any]:
    """One of `data`."""
    path = server.store.image_file(server.image(image["id"]))
    record = (await server.decoders.ask("record", await asyncio.to_thread(path.read_bytes), image["id"]))[0]["record"]
    near = [
        {key: row[key] for key in ("score", "weight", "caption", "phrase") if key in row} | {"id": str(row["id"])}
        for row in record["neighbors"]
    ]
    facts = {"id": image["id"], "seed": image["seed"], "neighbors": near, "near_copy": image["near_copy"]}
    facts |= {"revised_prompt": image["prompt"]}
    if body.response_format == "url":
        address = str(request.base_url).rstrip("/") + signed_path(server.store.key, image["id"], body.form)
        return {"url": address, **facts}
    return {"b64_json": await _coded(server, image, body), **facts}


async def _stream(request: Request, server: Server, task: Task, body: ImagesRequest, kind: str) -> AsyncIterator[bytes]:
    """Partial pictures, then each that is done; what is said between is a comment."""
    wanted = body.partial_images or 0
    sent = 0
    try:
        async for piece in stream(server.dispatcher.events(task.id)):
            if piece.startswith(b":"):
                yield piece
                continue
            name, data = _parse(piece)
            if name == "preview" and data["index"] == 0 and sent < wanted:
                facts = {"partial_image_index": sent, "b64_json": data["image"].partition(",")[2]}
                yield event(f"{kind}.partial_image", {"type": f"{kind}.partial_image", **_shape(body), **facts})
                sent += 1
        job = _ended(server, task)
        for image in job["images"]:
            picture = await _picture(request, server, image, body.model_copy(update={"response_format": "b64_json"}))
            facts = {key: value for key, value in _facts(job, body).items() if key != "created"}
            name = f"{kind}.completed"
            yield event(name, {"type": name, **_shape(body), **facts, **picture})
    except Refused as refused:
        yield event("error", {"type": "error", **refused.body(request.scope["state"]["request_id"])})
    finally:
        if not task.over.is_set():
            server.dispatcher.cancel(task.id)


def _parse(piece: bytes) -> tuple[str, dict[str, Any]]:
    head, _, data = piece.decode().strip().partition("\ndata: ")
    return head.removeprefix("event: "), json.loads(data)


def _shape(body: ImagesRequest) -> dict[str, Any]:
    return {
        "created_at": int(time.time()),
        "size": body.size or "auto",
        "quality": body.quality or "auto",
        "background": "opaque",
        "output_format": body.form,
    }
