"""A base model of diffusers with an adapter, served: what `bowerbird generate` takes, the API takes too."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import doubles
import openai
import pytest
from PIL import Image

from tests.serving import Process, serving

KB = "/api/knowledge-bases/kb"


@pytest.fixture(scope="module")
def server(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("serve-base")
    shutil.copytree(small_kb_path, folder / "kb")
    base = doubles.sd()
    base.save_pretrained(folder / "sd")
    adapter = doubles.ip_adapter(folder / "ip", base)
    how = ["--model", str(folder / "sd"), "--adapter", str(adapter)]
    with serving(folder, "--kb", str(folder / "kb"), *how) as running:
        yield running


def test_a_base_generates_with_its_adapter_and_says_which_reference_serves_which_phrase(server: Process) -> None:
    (model,) = server.get("/api/models").json["models"]
    assert model["adapter"] == "any name.safetensors"
    asked = {
        "prompt": "a red apple beside a green car",
        "phrases": "rules",
        "scale": 0.8,
        "steps": 2,
        "seed": 4,
        "n": 2,
    }
    rows = server.post(f"{KB}/neighbors", {"prompt": asked["prompt"], "phrases": "rules"}).json["neighbors"]
    assert [row["phrase"] for row in rows] == ["a red apple", "a green car"]
    accepted = server.post("/api/generate", asked)
    events = list(server.events(accepted.json["id"]))
    job = events[-1][1]
    assert job["state"] == "done", job
    assert {data["index"] for name, data in events if name == "preview"} == {0, 1}
    image = job["images"][0]["id"]
    near = server.get(f"/api/images/{image}/neighbors").json["neighbors"]
    assert [(row["id"], row["phrase"]) for row in near] == [(row["item"]["id"], row["phrase"]) for row in rows]
    # its settings back, which name the neighbors themselves: the same pixels
    request = server.get(f"/api/images/{image}/record").json["request"]
    assert request["scale"] == 0.8
    assert server.get("/api/models").json["models"][0]["defaults"]["scale"] == 0.6
    again = server.end(server.post("/api/generate", request))
    assert [pixels(server, each["images"][0]["id"]) for each in (job, again)] == [pixels(server, image)] * 2


def pixels(server: Process, image: str) -> bytes:
    return Image.open(io.BytesIO(server.get(f"/api/images/{image}").body)).tobytes()


def test_scale_references_and_a_critic(server: Process) -> None:
    asked = {"prompt": "a red apple", "steps": 2, "seed": 1, "k": 2}
    jobs = [server.end(server.post("/api/generate", {**asked, "scale": scale})) for scale in (0.0, 1.0)]
    plain = server.end(server.post("/api/generate", {**asked, "retrieval": False}))
    made = [pixels(server, job["images"][0]["id"]) for job in (*jobs, plain)]
    assert made[0] == made[2] != made[1]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    upload = server.form("/api/uploads", [("file", "mine.png", buffer.getvalue())]).json["id"]
    item = server.get(f"{KB}/items?limit=1").json["items"][0]["id"]
    both = {**asked, "k": None, "neighbors": [{"upload": upload}, {"item": item, "weight": 2.0}]}
    job = server.end(server.post("/api/generate", both))
    near = server.get(f"/api/images/{job['images'][0]['id']}/neighbors").json["neighbors"]
    assert [row["present"] for row in near] == [False, True]
    looked = server.end(
        server.post("/api/generate", {"prompt": "a red apple", "steps": 2, "critic": "encoder", "seed": 1})
    )
    record = server.get(f"/api/images/{looked['images'][0]['id']}/record").json["record"]
    assert 1 <= len(record["refinement"]["passes"]) <= 3
    refused = server.post("/api/generate", {**both, "phrases": "rules"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "phrases")


def test_the_openai_client_gives_the_scale(server: Process) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    more = {"scale": 1.0, "negative_prompt": "blue", "phrases": "brackets", "steps": 2}
    out = client.images.generate(prompt="a [red apple]", extra_body=more)
    assert out.data is not None
    assert Image.open(io.BytesIO(base64.b64decode(out.data[0].b64_json or ""))).size == (16, 16)
    assert (out.data[0].model_extra or {})["neighbors"][0]["phrase"] == "red apple"
