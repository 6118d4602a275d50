"""Files that come in a form: each goes to disk as it comes, under a name of ours."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from bowerbird.core.files import atomic_path
from bowerbird.core.text import printable
from bowerbird.serve.context import Server
from bowerbird.serve.errors import Refused
from bowerbird.serve.recovery import drop_old_uploads
from bowerbird.serve.store import new_id

LONGEST_FIELD = 64 * 1024
WHOLE = (".zip", ".parquet")
"""Files that are a collection of their own."""


@asynccontextmanager
async def read_form(request: Request, server: Server) -> AsyncIterator[FormData]:
    """The form of a request, closed afterwards. Raises: Refused for what is none, or too much."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(422, "send a form: Content-Type: multipart/form-data", code="not_a_form")
    server.check_disk()
    most = server.settings.limits.files
    try:
        form = await request.form(max_files=most, max_fields=most + 50, max_part_size=LONGEST_FIELD)
    except Refused:
        raise
    except (HTTPException, ValueError, KeyError) as error:
        message = str(getattr(error, "detail", "")) or "it cannot be read"
        many = "Too many files" in message
        text = f"more than {most} files in one form; send them in several" if many else f"the form: {message}"
        raise Refused(400, text[:300], code="too_many_files" if many else "invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


def field(form: FormData, name: str, *, longest: int = 1000) -> str | None:
    """A text of the form, None where it is not there. Raises: Refused."""
    values = form.getlist(name)
    if not values or values[0] == "":
        return None
    if len(values) > 1 or not isinstance(values[0], str):
        raise Refused(422, f"{name}: one text is wanted", code="invalid_value", param=name)
    if len(values[0]) > longest:
        raise Refused(400, f"{name}: {len(values[0])} characters; at most {longest}", code="invalid_value", param=name)
    return values[0]


def files(form: FormData, *names: str) -> list[UploadFile]:
    """The files of the form under these names. Raises: Refused where one of them is no file."""
    found = [value for name in names for value in form.getlist(name)]
    if any(not isinstance(value, UploadFile) for value in found):
        raise Refused(422, f"{names[0]}: files are wanted", code="invalid_value", param=names[0])
    return [value for value in found if isinstance(value, UploadFile)]


async def one_picture(file: UploadFile, server: Server, param: str) -> bytes:
    """The bytes of one file. Raises: Refused for one that is too long."""
    most = server.settings.limits.picture_bytes
    data = await file.read(most + 1)
    if len(data) > most:
        raise Refused(
            413, f"{param}: longer than {most:,} bytes; send a smaller picture", code="too_large", param=param
        )
    return data


def plain_name(name: str | None) -> str:
    """The last part of a name that a client gave, of harmless characters."""
    last = re.split(r"[/\\]", printable(name or ""))[-1]
    kept = re.sub(r"[^\w .()+-]", "_", last).strip(" .")[-100:]
    return kept or "picture"


async def keep_upload(server: Server, data: bytes, name: str) -> dict[str, Any]:
    """Keep one picture, read by the decoder, as an upload. Raises: BowerbirdError for what is none."""
    facts, blobs = await server.decoders.ask("picture", data, plain_name(name))
    upload = new_id("upl")
    path = server.store.folder / "uploads" / f"{upload}.png"
    await asyncio.to_thread(_write, path, blobs[0])
    await asyncio.to_thread(drop_old_uploads, server.store)
    return {"id": upload, **facts, "url": server.at(f"/api/uploads/{upload}")}


async def stage(server: Server, uploads: Sequence[UploadFile], captions: Sequence[str]) -> tuple[Path, list[str]]:
    """The files of an `add` in a folder of their own, and the sources they make. Raises: Refused."""
    if not uploads:
        raise Refused(422, "files: send at least one", code="missing_required_parameter", param="files")
    names = [plain_name(file.filename) for file in uploads]
    whole = [name for name in names if name.lower().endswith(WHOLE)]
    if whole and len(names) > 1:
        raise Refused(422, "files: one zip or parquet alone, or pictures", code="invalid_value", param="files")
    if captions and (whole or len(captions) != len(names)):
        text = f"captions: {len(captions)} for {len(names)} pictures; give one each, empty where there is none"
        raise Refused(422, text, code="invalid_value", param="captions")
    folder = server.store.folder / "staging" / new_id("stg")
    try:
        place = await _stage(folder / "pictures", list(zip(uploads, names, strict=True)), captions)
    except BaseException:  # a full disk, or a client that has gone
        await asyncio.to_thread(shutil.rmtree, folder, True)
        raise
    return folder, [str(place / names[0])] if whole else [str(place)]


async def _stage(place: Path, uploads: Sequence[tuple[UploadFile, str]], captions: Sequence[str]) -> Path:
    place.mkdir(parents=True)
    taken: set[str] = set()
    rows = []
    for number, (file, name) in enumerate(uploads, 1):
        own = name if name.casefold() not in taken else f"{number}-{name}"
        taken.add(own.casefold())
        await asyncio.to_thread(_copy, file, place / own)
        if captions:
            rows.append(json.dumps({"file_name": own, "text": captions[number - 1]}))
    if rows:
        (place / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return place


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(file.file, out)
