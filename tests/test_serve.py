"""`bowerbird serve`, whole: the OpenAI client and the native API against its processes."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from bowerbird.core import provenance
from bowerbird.evaluation.claims import load
from tests.serving import Process, serving

KB = "/api/knowledge-bases/kb"
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def server(small_kb_path: Path, random_rdm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("serve")
    shutil.copytree(small_kb_path, folder / "kb")
    model = ["--model", str(random_rdm), "--model", "tiny-knn", "--model", "tiny-reimagen"]
    with serving(folder, "--kb", str(folder / "kb"), *model) as running:
        yield running


@pytest.fixture
def client(server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def png(color: str, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


# -- the official client ---------------------------------------------------------------------------------------------


def test_openai_client_generates_what_seeds_and_neighbors_say(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["model", "tiny-knn", "tiny-reimagen"]
    more = {"seed": 7, "k": 2, **QUICK}
    out = client.images.generate(prompt="red apple", n=4, user="ann", quality="standard", extra_body=more)
    assert out.data is not None
    pictures = [base64.b64decode(each.b64_json or "") for each in out.data]
    assert len(set(pictures)) == 4
    assert [Image.open(io.BytesIO(data)).format for data in pictures] == ["PNG"] * 4
    extra = out.data[1].model_extra or {}
    assert extra["seed"] == 8
    assert len(extra["neighbors"]) == 2
    # just these neighbors again, as they are named in the answer: the same pixels
    near = [{"id": each["id"], "weight": 1.0} for each in extra["neighbors"]]
    again = client.images.generate(prompt="red apple", extra_body={"seed": 8, "neighbors": near, **QUICK})
    assert again.data is not None
    made = Image.open(io.BytesIO(base64.b64decode(again.data[0].b64_json or "")))
    assert made.tobytes() == Image.open(io.BytesIO(pictures[1])).tobytes()
    url = client.images.generate(prompt="a", response_format="url", output_format="webp", extra_body=QUICK)
    assert url.data is not None
    assert str(url.data[0].url).startswith(str(client.base_url).removesuffix("/v1/"))


def test_openai_client_streams_partial_pictures(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="red apple", stream=True, partial_images=2, extra_body={"steps": 6})
    events = list(stream)
    assert [event.type for event in events] == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    sizes = {Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size for event in events}
    assert len(sizes) == 1


def test_openai_client_edits_one_picture_and_several(client: openai.OpenAI) -> None:
    one = client.images.edit(image=("a.png", png("red")), prompt="a blue square", extra_body=QUICK)
    several = client.images.edit(
        image=[("a.png", png("red")), ("b.png", png("green"))],
        prompt="a blue square",
        n=2,
        extra_body={"seed": 3, "strength": 0.8, **QUICK},
    )
    assert [len(each.data or []) for each in (one, several)] == [1, 4]


def test_openai_client_gets_typed_errors(client: openai.OpenAI) -> None:
    cases: list[tuple[type[openai.APIStatusError], int, dict[str, Any]]] = [
        (openai.BadRequestError, 400, {"prompt": "a", "n": 11}),
        (openai.BadRequestError, 400, {"prompt": "a", "size": "9000x9000"}),
        (openai.BadRequestError, 400, {"prompt": "a" * 10_000}),
        (openai.NotFoundError, 404, {"prompt": "a", "model": "gpt-image-1"}),
        (openai.UnprocessableEntityError, 422, {"prompt": "a", "extra_body": {"nonsense": 1}}),
        (openai.BadRequestError, 400, {"prompt": "a", "size": "1024x1024"}),
        (openai.BadRequestError, 400, {"prompt": "a", "extra_body": {"where": "no such ("}}),
    ]
    for kind, status, arguments in cases:
        with pytest.raises(kind) as caught:
            client.images.generate(**arguments)
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"]
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.request_id == caught.value.body["request_id"]
    with pytest.raises(openai.UnprocessableEntityError, match="not a readable picture"):
        client.images.edit(image=("a.png", b"junk"), prompt="a")


# -- the native API --------------------------------------------------------------------------------------------------


def test_a_job_from_neighbors_to_history(server: Process) -> None:
    found = server.post(f"{KB}/neighbors", {"prompt": "red apple", "k": 3}).json["neighbors"]
    ids = [each["item"]["id"] for each in found]
    pinned = {"prompt": "green leaf", "k": 3, "pinned": [{"item": ids[0], "weight": 2.0}], "removed": [ids[1]]}
    changed = server.post(f"{KB}/neighbors", pinned).json["neighbors"]
    assert [each["pinned"] for each in changed] == [True, False, False]
    assert (changed[0]["item"]["id"], changed[0]["weight"]) == (ids[0], 2.0)
    assert ids[1] not in [each["item"]["id"] for each in changed]
    chosen = [{"item": each["item"]["id"], "weight": each["weight"]} for each in changed]
    accepted = server.post(
        "/api/generate", {"prompt": "green leaf", "n": 2, "steps": 3, "neighbors": chosen, "seed": 5}
    )
    events = list(server.events(accepted.json["id"]))
    names = [name for name, _ in events]
    assert names[-1] == "done"
    assert names.count("step") <= 3
    assert [data["index"] for name, data in events if name == "preview"][:2] == [0, 1]
    job = events[-1][1]
    image = job["images"][1]
    assert (image["seed"], image["knowledge_base"], len(job["images"])) == (6, "kb", 2)
    near = server.get(f"{image['url']}/neighbors").json["neighbors"]
    assert [(each["id"], each["weight"], each["present"]) for each in near] == [
        (each["item"], each["weight"], True) for each in chosen
    ]
    with zipfile.ZipFile(io.BytesIO(server.get(f"/api/jobs/{job['id']}/zip").body)) as archive:
        assert archive.namelist() == ["000.png", "001.png", "generation.jsonl", "sheet.png"]
        assert archive.testzip() is None
    assert server.ask("PATCH", image["url"], {"starred": True}).json["starred"]
    assert [each["id"] for each in server.get("/api/history?q=LEAF&starred=true").json["images"]] == [image["id"]]
    data = server.get(image["url"]).body
    record = server.form("/api/records", [("file", "x.png", data)]).json
    assert (record["request"]["seed"], record["model_here"], record["missing_neighbors"]) == (6, True, [])
    same = server.end(server.form("/api/regenerate", [("file", "x.png", data)]))
    pixels = [Image.open(io.BytesIO(each)).tobytes() for each in (data, server.get(same["images"][0]["url"]).body)]
    assert pixels[0] == pixels[1]
    assert server.ask("DELETE", image["url"]).status == 204
    assert server.get(image["url"]).code == "image_not_found"


def test_pictures_are_added_removed_and_brought_back(server: Process) -> None:
    before = server.get(KB).json
    files = [
        ("files", "../../etc/pink.png", png("hotpink")),
        ("files", "bad.png", b"junk"),
        ("files", "c.png", png("cyan")),
    ]
    job = server.end(server.form(f"{KB}/items", files, captions=["a hot pink thing", "", ""]))
    report = job["report"]
    assert (report["added"], report["items"]) == (2, before["items"] + 2)
    assert [line.split(":")[0] for line in report["unreadable"]] == ["bad.png"]
    hit = server.post(f"{KB}/search", {"text": "hot pink", "k": 1}).json["results"][0]["item"]
    assert (hit["caption"], hit["name"]) == ("a hot pink thing", "pink.png")
    upload = server.form("/api/uploads", [("file", "q.png", png("hotpink", 200))]).json
    by_picture = server.post(f"{KB}/search", {"upload": upload["id"], "k": 1}).json["results"][0]
    assert by_picture["item"]["id"] == hit["id"]
    mix = [{"text": "thing"}, {"upload": upload["id"], "weight": 2}, {"item": hit["id"], "weight": -0.5}]
    assert server.post(f"{KB}/search", {"mix": mix, "k": 3}).status == 200
    gone = server.post(f"{KB}/remove", {"ids": [hit["id"]]}).json
    assert (gone["removed"], gone["items"]) == (1, before["items"] + 1)
    assert server.get(hit["picture"]).status == 404
    assert server.post(f"{KB}/restore", {"version": gone["undo"]}).json["items"] == before["items"] + 2
    thumbnail = server.get(hit["thumbnail"] + "?size=64")
    assert Image.open(io.BytesIO(thumbnail.body)).format == "WEBP"
    assert server.get(hit["thumbnail"] + "?size=64", **{"If-None-Match": thumbnail.headers["etag"]}).status == 304
    stale = server.post(f"{KB}/remove", {"where": "true", "expected_version": 1})
    assert (stale.status, stale.code) == (409, "changed")
    page = server.get(f"{KB}/items?limit=5&offset=1&where=class%3D'flat'").json
    assert len(page["items"]) == 5 <= page["total"]
    style = next(each for each in server.get(f"{KB}/columns").json["columns"] if each["name"] == "class")
    assert sum(value["count"] for value in style["values"]) <= before["items"]


def test_a_knowledge_base_is_made_and_compared(server: Process) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        for color in ("red", "blue"):
            out.writestr(f"{color}.png", png(color))
    made = server.end(server.form("/api/knowledge-bases", [("files", "c.zip", archive.getvalue())], name="colors"))
    assert (made["state"], made["report"]["added"]) == ("done", 2)
    again = server.form("/api/knowledge-bases", [("files", "c.zip", archive.getvalue())], name="colors")
    assert "is taken" in again.json["error"]["message"]
    assert server.end(server.post("/api/knowledge-bases/colors/verify"))["report"]["good"]
    variants = [{"label": "all"}, {"knowledge_base": "colors", "k": 1}, {"retrieval": False}]
    compared = server.end(
        server.post("/api/compare", {"request": {"prompt": "red", "seed": 4, **QUICK}, "variants": variants})
    )
    assert [(each["variant"], each["knowledge_base"], each["seed"]) for each in compared["images"]] == [
        (0, "kb", 4),
        (1, "colors", 4),
        (2, "kb", 4),
    ]
    assert len({server.get(each["url"]).body for each in compared["images"]}) == 3
    checked = server.end(server.post("/api/check", {"images": [each["id"] for each in compared["images"]]}))
    assert checked["report"]["generated"] == 3


def test_reimagen_takes_uploads_items_and_neither(server: Process) -> None:
    upload = server.form("/api/uploads", [("file", "q.png", png("orange"))]).json["id"]
    item = server.get(f"{KB}/items?limit=1").json["items"][0]["id"]
    base = {"prompt": "an orange", "model": "tiny-reimagen", **QUICK}
    mixed = [{"upload": upload, "caption": "an orange"}, {"item": item, "weight": 0.5}]
    for more, count in (({"neighbors": mixed}, 2), ({"retrieval": False}, 0)):
        job = server.end(server.post("/api/generate", {**base, **more}))
        assert job["state"] == "done", job["error"]
        assert len(server.get(f"{job['images'][0]['url']}/neighbors").json["neighbors"]) == count


def test_cancelling_frees_the_worker_within_a_step(server: Process) -> None:
    long = server.post("/api/generate", {"prompt": "a", "n": 16, "steps": 200}).json
    waits = server.post("/api/generate", {"prompt": "b", "model": "tiny-knn", **QUICK}).json
    assert (waits["state"], waits["position"]) == ("queued", 1)
    assert next(name for name, _ in server.events(long["id"]) if name in ("step", "done")) == "step"
    assert server.ask("DELETE", f"/api/jobs/{long['id']}").json["state"] == "cancelled"
    name, job = list(server.events(waits["id"]))[-1]
    assert (name, len(job["images"])) == ("done", 1)
    assert server.get(f"/api/jobs/{long['id']}").json["images"] == []


def test_the_web_process_has_no_torch_and_tells_nothing(server: Process, small_kb_path: Path) -> None:
    libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "torch" not in libraries
    assert "torch" in Path(f"/proc/{server.worker}/maps").read_text()
    prompt = "a prompt that nobody else is to read"
    server.end(server.post("/api/generate", {"prompt": prompt, **QUICK}))
    server.get(f"/api/history?q={prompt.replace(' ', '+')}")
    assert prompt not in server.log.read_text()
    assert {"request_id", "route", "status", "ms"} <= set(server.lines()[-1])
    answers = [
        server.get(path).body for path in ("/api/knowledge-bases", KB, "/api/status", "/api/models", "/v1/models")
    ]
    answers.append(server.post(f"{KB}/restore", {"version": 10**6}).body)
    answers.append(server.get(f"{KB}/items/5").body)
    assert not [each for each in answers if str(server.log.parent).encode() in each]
    metrics = server.get("/metrics").body.decode()
    for name in ("jobs_total", "pictures_total", "stage_seconds_sum", "queue_length", "requests_total", "worker_up"):
        assert f"bowerbird_{name}" in metrics


def test_models_and_claims_are_told_as_they_were_measured(server: Process) -> None:
    models = {each["id"]: each for each in server.get("/api/models").json["models"]}
    assert models["model"]["default"]
    assert models["model"]["capabilities"]["sizes"]
    assert models["tiny-knn"]["card"]["license"]
    assert (models["tiny-knn"]["edits"], models["tiny-knn"]["instructs"]) == (True, False)  # open or not
    shown = {each["name"]: each for each in server.get("/api/claims").json["claims"]}
    measured = json.loads((Path(__file__).parents[1] / "docs/claims/claims.json").read_text(encoding="utf-8"))
    for claim in measured["claims"]:
        mine = shown[claim["name"]]
        (says,) = {claim["says"], load([claim["name"]])[0].says}
        assert (mine["claim"], mine["verdict"]) == (says, claim["verdict"])
        assert [each["value"] for each in mine["effects"]] == [each["mean"] for each in claim["effects"]]


def test_a_picture_carries_its_record(server: Process, tmp_path: Path) -> None:
    job = server.end(server.post("/api/generate", {"prompt": "red apple", "seed": 11, **QUICK}))
    path = tmp_path / "made.png"
    path.write_bytes(server.get(job["images"][0]["url"]).body)
    record = provenance.read_png(path)
    assert (record["seed"], record["kb"]["path"], record["request"]["prompt"]) == (11, "kb", "red apple")
