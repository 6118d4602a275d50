"""What no model or knowledge base here could do is refused before a job is queued, by the name of its field: the web
process alone."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bowerbird.core.errors import BowerbirdError
from bowerbird.serve import gate
from bowerbird.serve.context import Server, Settings
from bowerbird.serve.errors import Refused
from bowerbird.serve.limits import LIMITS
from bowerbird.serve.sizes import check_size, proposed
from bowerbird.systems import common
from bowerbird.systems.loading import load_pipeline
from tests.serving import Client, web_alone

CASCADE = {"sizes": [32, 64, 128], "any_size": False, "multiple_of": 1}


@pytest.fixture(scope="module")
def web(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Server]]:
    folder = tmp_path_factory.mktemp("refusals")
    settings = Settings((str(small_kb_path),), folder / "data", ("tiny-rdm", "tiny-reimagen", "tiny-knn"))
    with web_alone(settings, folder / "sockets") as (client, server):
        models = server.dispatcher.workers[0].models
        models["tiny-reimagen"] = {
            **models["tiny-rdm"],
            "capabilities": {**models["tiny-rdm"]["capabilities"], **CASCADE},
        }
        yield client, server


def base(edge: int, step: int = 8) -> dict[str, Any]:
    return {"sizes": [edge], "any_size": True, "multiple_of": step}


def upload(client: Client) -> str:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    return str(client.form("/api/uploads", [("file", "a.png", picture.getvalue())]).json["id"])


def test_a_size_far_above_the_models_own_is_refused_with_what_it_allows(web: tuple[Client, Server]) -> None:
    """`1024x1024`, which clients of OpenAI send by habit, took a model of 64 px minutes a step."""
    client, server = web
    large = {"width": 1024, "height": 1024}
    bodies = {
        "/v1/images/generations": {"prompt": "red", "size": "1024x1024"},
        "/api/generate": {"prompt": "red", **large},
        "/api/compare": {"request": {"prompt": "red", **large}, "variants": [{"k": 1}, {"k": 2}]},
    }
    before = len(server.store.jobs())
    for path, body in bodies.items():
        answer = client.post(path, body)
        assert (answer.status, answer.code) == (400, "invalid_value"), path
        assert answer.json["error"]["param"] == ("size" if path.startswith("/v1") else "height")
        assert answer.json["error"]["message"] == (
            "size 1024x1024: tiny-rdm is made for 64x64 and generates up to 4 times its pixels, as 128x128; give such"
            " a size, or auto for its own (64x64)"
        )
    stages = client.post("/v1/images/generations", {"prompt": "red", "size": "1024x1024", "model": "tiny-reimagen"})
    assert "tiny-reimagen generates 32x32, 64x64, 128x128; give such a size, or auto" in stages.json["error"]["message"]
    odd = client.post("/v1/images/generations", {"prompt": "red", "size": "100x90"})
    assert (odd.status, "multiples of 8, as 96x88" in odd.json["error"]["message"]) == (400, True)
    variants = {"request": {"prompt": "red", "width": 128, "height": 128}, "variants": [{"model": "tiny-reimagen"}, {}]}
    assert len(server.store.jobs()) == before
    assert client.post("/api/compare", variants).status == 202
    for more in ({"width": 128}, {"width": 128, "height": 128}, {"height": 32, "model": "tiny-reimagen"}):
        assert client.post("/api/generate", {"prompt": "red", **more}).status == 202, more
    shown = {each["id"]: each["sizes"] for each in client.get("/api/models").json["models"]}
    assert shown["tiny-reimagen"] == ["32x32", "64x64", "128x128"]
    assert {"64x64", "128x128"} <= set(shown["tiny-rdm"])


def test_large_bases_keep_their_usual_sizes() -> None:
    usual = {
        512: ((512, 512), (768, 512), (512, 768), (768, 768), (1024, 512), (1024, 1024)),
        1024: ((1024, 1024), (1152, 896), (1344, 768), (640, 1536), (1536, 1024), (1024, 1792), (512, 512)),
    }
    for edge, sizes in usual.items():
        for width, height in sizes:
            check_size("a-base", base(edge), LIMITS, height, width)
        for size in proposed(base(edge), LIMITS):
            check_size("a-base", base(edge), LIMITS, *reversed([int(side) for side in size.split("x")]))
        with pytest.raises(Refused, match=f"made for {edge}x{edge}"):
            check_size("a-base", base(edge), LIMITS, 2 * edge, 2 * edge + 8)


def test_a_model_says_what_its_edges_are_multiples_of(random_rdm: Path) -> None:
    pipe: Any = load_pipeline(str(random_rdm))
    step = pipe.capabilities.multiple_of
    for size in range(step, 5 * step, step):
        common.latent_shape(pipe.unet, pipe.vae, size, size)
    with pytest.raises(BowerbirdError, match=f"multiple of {step} "):
        common.latent_shape(pipe.unet, pipe.vae, step, step + step // 2)


def test_conditions_and_samplers_that_do_not_exist_are_refused_at_once(web: tuple[Client, Server]) -> None:
    client, server = web
    picture = upload(client)
    item = client.get("/api/knowledge-bases/kb/items?limit=1").json["items"][0]["id"]
    wrong = {
        "where": [{"where": "style = "}, {"where": "no_such_column = 1"}, {"where": "  "}],
        "sampler": [{"sampler": "euler-a"}],
    }
    asked: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": "red", "n": 4},
        "/api/edit": {"image": picture, "prompt": "red", "model": "tiny-knn"},
        "/v1/images/generations": {"prompt": "red", "n": 4},
        "/api/knowledge-bases/kb/search": {"text": "red"},
        "/api/knowledge-bases/kb/neighbors": {"prompt": "red"},
        "/api/knowledge-bases/kb/remove": {},
    }
    before = len(server.store.jobs())
    for path, body in asked.items():
        fields = ("where", "sampler") if path == "/api/generate" else ("where",)
        for field in fields:
            for more in wrong[field]:
                answer = client.post(path, {**body, **more})
                assert (answer.status, answer.code) == (400, "invalid_value"), (path, more, answer.body)
                assert answer.json["error"]["param"] == field
                assert field in answer.json["error"]["message"]
                assert answer.headers["x-should-retry"] == "false"
    for more in (*wrong["where"], *wrong["sampler"], {"where": "style = ", "neighbors": [{"item": item}]}):
        for request, variant in (({"prompt": "red", **more}, {"k": 1}), ({"prompt": "red"}, more)):
            answer = client.post("/api/compare", {"request": request, "variants": [{"k": 2}, variant]})
            assert (answer.status, answer.json["error"]["param"]) == (400, next(iter(more))), (request, variant)
    fields = {"prompt": "blue", "where": "style = ", "model": "tiny-knn"}
    edit = client.form("/v1/images/edits", [("image", "a.png", server.upload(picture).read_bytes())], **fields)
    assert (edit.status, edit.json["error"]["param"]) == (400, "where")
    assert client.get("/api/knowledge-bases/kb/items?where=style%20%3D").status == 400
    assert len(server.store.jobs()) == before
    for more in ({"where": "true"}, {"sampler": "ddim"}):
        assert client.post("/api/generate", {"prompt": "red", **more}).status == 202


def test_the_servers_own_time_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand files that came in time were refused with 408, where the server was slow to take them apart."""
    now = [0.0]
    monkeypatch.setattr(gate, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pieces = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, False)]
    server: Any = SimpleNamespace(settings=SimpleNamespace(limits=LIMITS, root_path=""))
    visit = gate._Visit({"headers": [(b"content-type", b"multipart/form-data")], "path": "/api/uploads"}, server)

    async def receive() -> Any:
        for _ in range(3):  # what is there already still takes a turn of the loop
            await asyncio.sleep(0)
        return pieces.pop(0)

    async def take() -> None:
        receiving = visit.receiving(receive)
        while (await receiving())["more_body"]:
            now[0] += 1000

    asyncio.run(take())
    assert not pieces


def test_which_of_several_ids_is_wrong_is_said(web: tuple[Client, Server]) -> None:
    client, _ = web
    bodies = {"remove": {"ids": [1, "2", True]}, "neighbors": {"prompt": "red", "removed": [1, "2", "x"]}}
    for route, body in bodies.items():
        answer = client.post(f"/api/knowledge-bases/kb/{route}", body)
        field = "ids" if route == "remove" else "removed"
        assert (answer.status, answer.json["error"]["param"]) == (422, f"{field}.2")
    assert client.post("/api/knowledge-bases/kb/remove", {"ids": [str(2**63)]}).status == 422


def test_what_is_sent_as_no_json_or_compressed_is_told_so(web: tuple[Client, Server]) -> None:
    """`curl -d` without a header, and clients that compress: it was a valid dictionary that was wanted."""
    client, _ = web
    body = b'{"prompt": "red"}'
    for path in ("/api/generate", "/v1/images/generations", "/api/knowledge-bases/kb/search"):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            answer = client.ask("POST", path, body, {"Content-Type": kind})
            assert (answer.status, answer.code) == (422, "not_json"), (path, kind)
            assert "application/json" in answer.json["error"]["message"]
        packed = client.ask("POST", path, gzip.compress(body), {"Content-Encoding": "gzip"})
        assert (packed.status, packed.code) == (400, "encoded_body")
    assert client.post("/api/generate", [1]).code == "invalid_value"
    assert client.ask("POST", "/api/generate", body, {"Content-Type": "application/vnd.api+json"}).status == 202


def test_monitors_may_ask_by_head(web: tuple[Client, Server]) -> None:
    for path in ("/", "/health", "/ready"):
        answer = web[0].ask("HEAD", path)
        assert (answer.status, answer.body) == (200, b""), path


def test_an_undo_takes_nothing_of_others_away(small_kb_path: Path, tmp_path: Path) -> None:
    """A removal is undone by going back to a version, and what others changed since went with it."""
    shutil.copytree(small_kb_path, tmp_path / "kb")
    settings = Settings((str(tmp_path / "kb"),), tmp_path / "data", ("tiny-rdm",))
    with web_alone(settings, tmp_path / "sockets") as (client, _):
        base = "/api/knowledge-bases/kb"
        ids = [item["id"] for item in client.get(f"{base}/items?limit=2").json["items"]]
        mine = client.post(f"{base}/remove", {"ids": ids[:1]}).json
        theirs = client.post(f"{base}/remove", {"ids": ids[1:]}).json
        undo = {"version": mine["undo"], "expected_version": mine["version"]}
        answer = client.post(f"{base}/restore", undo)
        assert (answer.status, answer.code) == (409, "changed")
        assert "nothing was restored" in answer.json["error"]["message"]
        assert client.get(base).json["items"] == theirs["items"]
        undo = {"version": theirs["undo"], "expected_version": theirs["version"]}
        assert client.post(f"{base}/restore", undo).json["items"] == mine["items"]
