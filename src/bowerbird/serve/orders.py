"""From a request to the order that a worker does: ids become places, what is left open the model's own."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any

from bowerbird.serve.context import Server
from bowerbird.serve.dispatch import Task
from bowerbird.serve.errors import Refused
from bowerbird.serve.models import Served
from bowerbird.serve.schemas import CheckRequest, CompareRequest, EditRequest, GenerateRequest
from bowerbird.serve.sizes import check_size
from bowerbird.serve.store import new_id

REFERENCES = (
    "min_score",
    "scale",
    "layers",
    "steps_from",
    "steps_to",
    "pool",
    "negative_prompt",
    "phrases",
    "structure",
    "critic",
    "max_passes",
)
"""What a request says of references and phrases."""
ALIKE = ("prompt", "seed", "n")
"""What may differ among jobs that go through the network together."""


@dataclass(frozen=True)
class Part:
    """One generate body: the fields of a library's `Job`, the place of the knowledge base and of the model."""

    fields: dict[str, Any]
    kb: str | None
    model: str


def _invalid(message: str, param: str | None) -> Refused:
    return Refused(400, message, code="invalid_value", param=param)


async def _part(server: Server, request: GenerateRequest) -> Part:
    asked = [request.prompt is not None, bool(request.uploads), request.class_name is not None, request.unconditional]
    if sum(asked) > 1 or (not any(asked) and not request.neighbors):
        raise Refused(
            422, "give one of prompt, uploads, class_name, unconditional", code="invalid_value", param="prompt"
        )
    if request.prompt is not None and not request.prompt.strip():
        raise _invalid("the prompt is empty; say what to generate", "prompt")
    _check_work(server, request.n, request.steps, request.height, request.width)
    served = server.model(request.model)
    await _check_model(server, served, request)
    kb: str | None = server.shelf.place(await _kb_name(server, request)).path
    names: tuple[str, ...] = (
        "prompt",
        "class_name",
        "unconditional",
        "n",
        "k",
        "guidance_scale",
        "search_mode",
        "text_mode",
        "image_mode",
    )
    names += (
        "where",
        "class_key",
        "top_m",
        "allow_no_neighbors",
        "rerank",
        "cover",
        "sampler",
        "eta",
        "height",
        "width",
        "guidance",
    )
    names += REFERENCES
    fields = {name: getattr(request, name) for name in names}
    fields["seed"] = request.seed
    fields["steps"] = [] if request.steps is None else [request.steps]
    fields["text_ratio"] = [] if request.text_ratio is None else [request.text_ratio]
    fields["images"] = [str(server.upload(name)) for name in request.uploads]
    if request.neighbors:
        if request.phrases or request.critic:
            raise _invalid("phrases and critic look for references themselves; leave neighbors out", "phrases")
        fields |= _chosen(server, request)
    if not request.retrieval:
        can = (await server.model_facts(served))["capabilities"]
        fields |= {"k": 0} if can["without_neighbors"] else {"guidance_scale": 0.0}
        kb = None if can["without_neighbors"] and can["needs_images"] else kb
    return Part(fields, kb, served.place)


def _chosen(server: Server, request: GenerateRequest) -> dict[str, Any]:
    """The neighbors that a person chose: uploads first, then items, with their weights."""
    chosen = request.neighbors or []
    if any((each.item is None) == (each.upload is None) for each in chosen):
        raise Refused(422, "each of neighbors is an item or an upload", code="invalid_value", param="neighbors")
    own = [each for each in chosen if each.upload is not None]
    items = [each for each in chosen if each.item is not None]
    return {
        "references": [str(server.upload(str(each.upload))) for each in own],
        "captions": [each.caption for each in own],
        "items": [int(each.item or 0) for each in items],
        "weights": [each.weight for each in (*own, *items)],
        "k": None,
    }


def _check_work(server: Server, n: int, steps: int | None, height: int | None, width: int | None) -> None:
    work = n * (steps or 20) * (height or width or 64) * (width or height or 64)
    if work > server.settings.limits.work:
        raise _invalid("n, steps, height and width together are more than is done at once; ask for less", "n")


async def _check_model(server: Server, served: Served, request: GenerateRequest) -> None:
    """Raises: Refused for a size or a sampler that the model does not have."""
    if request.height is None and request.width is None and request.sampler is None:
        return
    can = (await server.model_facts(served))["capabilities"]
    check_size(served.id, can, server.settings.limits, request.height, request.width)
    if request.sampler is not None and request.sampler not in can["samplers"]:
        there = ", ".join(can["samplers"])
        raise _invalid(f"sampler {request.sampler!r}: {served.id} has {there}; give one, or none", "sampler")


async def _kb_name(server: Server, request: GenerateRequest | EditRequest) -> str:
    """The knowledge base of a request, whose `where` is one of its conditions. Raises: Refused, ConditionError."""
    name = server.kb_name(request.knowledge_base)
    if request.where is not None:
        await asyncio.to_thread(lambda: server.kb(name).ids(request.where))
    return name


def _task(kind: str, request: dict[str, Any], order: dict[str, Any], count: int, key: str | None = None) -> Task:
    return Task(order["id"], kind, request, order, key=key, count=count)


def _order(server: Server, kind: str, model: str, **facts: Any) -> dict[str, Any]:
    name = new_id("job")
    return {"id": name, "kind": kind, "model": model, "out": str(server.store.out(name)), **facts}


def _shown(server: Server, request: GenerateRequest | EditRequest, **more: Any) -> dict[str, Any]:
    """A request as a job keeps it: with the model, knowledge base and seed that were left open."""
    name = request.model or server.model(None).id
    if isinstance(request, EditRequest) and request.model is None and (own := server.edit_model()) is not None:
        name = own.id
    open_ones = {"model": name, "knowledge_base": server.kb_name(request.knowledge_base)}
    return {**request.model_dump(mode="json"), **open_ones, **more}


def draw_seed() -> int:
    """A seed for whoever names none."""
    return secrets.randbelow(2**31)


async def generate(server: Server, request: GenerateRequest) -> Task:
    """The task of a generate body. Raises: Refused."""
    request = request.model_copy(update={"seed": draw_seed() if request.seed is None else request.seed})
    part = await _part(server, request)
    facts = {"kb": part.kb, "job": part.fields, "on_copy": request.on_copy, "previews": request.previews}
    order = _order(server, "generate", part.model, **facts)
    known = server.known(server.model(request.model))
    sized = request.height is not None or request.width is not None
    together = known is None or (known["batch"] > 1 and not (sized and known["capabilities"]["takes_references"]))
    alone = part.fields["images"] or part.fields.get("references") or not together
    alike = {key: value for key, value in part.fields.items() if key not in ALIKE}
    key = None if alone else json.dumps([part.model, part.kb, alike], sort_keys=True)
    return _task("generate", _shown(server, request), order, request.n, key)


async def edit(server: Server, request: EditRequest, *, images: list[str] | None = None) -> Task:
    """The task of an edit body; `images`: several pictures in place of its own. Raises: Refused."""
    if (request.prompt is None) == (request.reference is None):
        raise Refused(422, "give prompt or reference, one of them", code="invalid_value", param="prompt")
    if request.prompt is not None and not request.prompt.strip():
        raise _invalid("the prompt is empty; say what the picture is to show", "prompt")
    if request.img2img and request.strength >= 1:
        raise _invalid("img2img keeps nothing of the picture at strength 1; give less, as 0.6", "strength")
    request = request.model_copy(update={"seed": draw_seed() if request.seed is None else request.seed})
    served = server.model(request.model) if request.model is not None else server.edit_model()
    if served is None:
        raise Refused(422, "no model that is served edits pictures; serve one, as tiny-knn", code="cannot_edit")
    names = images or [request.image]
    if request.n * len(names) > server.settings.limits.images:
        raise _invalid(f"{request.n * len(names)} pictures; at most {server.settings.limits.images} at once", "n")
    fields: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("prompt", "n", "seed", "k", "guidance_scale", "search_mode", "where", "allow_no_neighbors")
    }
    fields["steps"] = [] if request.steps is None else [request.steps]
    fields["images"] = [] if request.reference is None else [str(server.picture(request.reference))]
    how = {"strength": request.strength, "preservation": request.preservation}
    how |= {"change_threshold": request.change_threshold, "show_source": not request.img2img}
    how |= {"image_guidance": request.image_guidance}
    order = _order(
        server,
        "edit",
        served.place,
        kb=server.shelf.place(await _kb_name(server, request)).path,
        job=fields,
        files=[str(server.picture(name)) for name in names],
        options={"edit": how},
        on_copy=request.on_copy,
        previews=request.previews,
    )
    return _task("edit", _shown(server, request), order, request.n * len(names))


async def compare(server: Server, request: CompareRequest) -> Task:
    """The task of a comparison. Raises: Refused."""
    seed = draw_seed() if request.request.seed is None else request.request.seed
    base = request.request.model_copy(update={"seed": seed})
    variants = []
    for number, variant in enumerate(request.variants, 1):
        said = {name: getattr(variant, name) for name in variant.model_fields_set if name != "label"}
        changes = {name: value for name, value in said.items() if value is not None}
        part = await _part(server, base.model_copy(update=changes))
        words = [f"{key} {value}" for key, value in changes.items() if key != "neighbors"]
        label = variant.label or ", ".join(words) or str(number)
        variants.append({"label": label, "job": part.fields, "kb": part.kb, "model": part.model})
    count = base.n * len(variants)
    if count > 4 * server.settings.limits.images:
        raise _invalid(f"{count} pictures; at most {4 * server.settings.limits.images} at once", "variants")
    order = _order(server, "compare", server.model(base.model).place, variants=variants)
    shown = {"request": _shown(server, base), "variants": [v.model_dump(exclude_unset=True) for v in request.variants]}
    return _task("compare", shown, order, count)


async def check(server: Server, request: CheckRequest) -> Task:
    """The task of a copy check. Raises: Refused."""
    place = server.shelf.place(server.kb_name(request.knowledge_base))
    files = [str(server.store.image_file(server.image(name))) for name in request.images]
    order = _order(
        server, "check", "", kb=place.path, files=files, options={"check": {"baseline": 100, "copies_per_kind": 10}}
    )
    return _task("check", request.model_dump(mode="json"), order, 0)


def regenerate(server: Server, upload: str, model: str) -> Task:
    """The task of making a record's picture again; `upload`: the PNG, kept as it came."""
    path = server.store.folder / "uploads" / f"{upload}.record.png"
    order = _order(server, "regenerate", server.model(model).place, files=[str(path)])
    return _task("regenerate", {"upload": upload, "model": model}, order, 1)


def again(server: Server, record: dict[str, Any], kb: str | None = None) -> dict[str, Any]:
    """What a record says, and the request that makes such a picture again. Anybody may have written the record."""
    asked, base = _entry(record, "request", dict), _entry(record, "kb", dict)
    model = _entry(record, "model", dict).get("name")
    name = kb or next((own for own in server.shelf.ids() if own == str(base.get("path", "")).lower()), None)
    rows = [
        row for row in _entry(record, "neighbors", list) if isinstance(row, dict) and isinstance(row.get("id"), int)
    ]
    items = [row for row in rows if 0 <= row["id"] < 2**63]
    there: set[int] = set()
    if name in server.shelf.ids():
        there = {int(i) for i in server.kb(str(name)).select_ids(ids=[row["id"] for row in items])}
    edits = isinstance(record.get("edit"), dict)
    size = _entry(record, "size", list)
    request: dict[str, Any] = {
        "prompt": asked.get("prompt"),
        "model": model,
        "knowledge_base": name,
        "seed": record.get("seed"),
        "steps": record.get("steps") if isinstance(record.get("steps"), int) else None,
        "guidance_scale": record.get("guidance_scale"),
        "sampler": record.get("sampler"),
        "eta": record.get("eta", 0.0),
        "width": size[0] if len(size) == 2 else None,
        "height": size[1] if len(size) == 2 else None,
    }
    if edits:
        request = {key: value for key, value in request.items() if key not in ("sampler", "eta", "width", "height")}
        how = record["edit"]
        request |= (
            {"image_guidance": how["image_guidance"], "change_threshold": how.get("least_change")}
            if "image_guidance" in how
            else {"strength": how.get("strength"), "preservation": how.get("fidelity")}
        )
    else:
        said = _entry(record, "references", dict)
        request |= {key: said[key] for key in REFERENCES if said.get(key) not in (None, "")}
        kept = [{"item": str(row["id"]), "weight": row.get("weight", 1.0)} for row in items if row["id"] in there]
        request["neighbors"] = kept or None
    shown = {**record, "neighbors": [{**row, "id": str(row["id"])} for row in rows]}
    if isinstance(record.get("copy"), dict):
        shown["copy"] = {**record["copy"], "neighbor": str(record["copy"].get("neighbor"))}
    return {
        "kind": "edit" if edits else "generate",
        "record": shown,
        "request": {key: value for key, value in request.items() if value is not None},
        "model_here": model in server.models,
        "knowledge_base_here": name is not None,
        "missing_neighbors": [str(row["id"]) for row in items if row["id"] not in there],
    }


def _entry(record: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """An entry of a record where it is of this kind, an empty one otherwise."""
    value = record.get(name)
    return value if isinstance(value, kind) else kind()
