"""What `bowerbird serve` stands: a worker that dies, a server that is killed, or asked to end, pictures that are bombs.

`BOWERBIRD_FAULTS=full` kills as often as the design says.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import openai
import pytest
from PIL import Image

from bowerbird import KnowledgeBase
from tests.serving import Process, serving

KB = "/api/knowledge-bases/kb"
FULL = os.environ.get("BOWERBIRD_FAULTS") == "full"
TIMES = {"worker": 100, "end": 50} if FULL else {"worker": 1, "end": 1}
pytestmark = pytest.mark.timeout(3600 if FULL else 300)


@pytest.fixture(scope="module")
def folder(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(small_kb_path, folder / "kb")
    return folder


@pytest.fixture(scope="module")
def arguments(folder: Path, random_rdm: Path) -> list[str]:
    return ["--kb", str(folder / "kb"), "--model", str(random_rdm)]


@pytest.fixture(scope="module")
def server(folder: Path, arguments: list[str]) -> Iterator[Process]:
    with serving(folder / "first", *arguments) as running:
        yield running


def test_a_worker_killed_in_mid_picture_is_answered_for_and_back(server: Process) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    for _ in range(TIMES["worker"]):
        before = server.worker
        stream = client.images.generate(
            prompt="red", n=10, stream=True, partial_images=3, extra_body={"steps": 200, "guidance_scale": 2.0}
        )
        assert next(iter(stream)).type == "image_generation.partial_image"
        waits = server.post("/api/generate", {"prompt": "blue", "steps": 2})
        os.kill(before, signal.SIGKILL)
        assert server.post(f"{KB}/search", {"text": "red", "k": 1}).status == 200  # encoders live elsewhere
        with pytest.raises(openai.APIError, match="the worker ended"):
            list(stream)
        # who waited is served by the next one
        job = server.end(waits)
        assert (job["state"], len(job["images"])) == ("done", 1)
        assert server.worker != before
        assert server.get("/health").status == 200
    failed = server.get("/api/jobs?state=failed").json["jobs"]
    assert {each["error"]["code"] for each in failed} == {"worker_died"}
    assert f"bowerbird_worker_restarts_total {TIMES['worker']}" in server.get("/metrics").body.decode()


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + chunk(b"IEND", b"")
    )


def huge_tiff() -> bytes:
    """Just under the cap on pixels, in few bytes."""
    buffer = io.BytesIO()
    Image.new("1", (7000, 7000)).save(buffer, "TIFF", compression="group4")
    return buffer.getvalue()


def test_hostile_uploads_cost_one_line_each(server: Process, folder: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("../../escaped.png", bomb())
        out.writestr("zeros.png", b"\0" * 100_000_000)
        out.writestr("bomb.png", bomb())
    hostile = {
        "bomb.png": bomb(),
        "cut.png": bomb()[:60],
        "text.png": b"GIF89a\xff\xff\xff\xff",
        "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    }
    for name, data in hostile.items():
        answer = server.form("/api/uploads", [("file", name, data)])
        assert (answer.status, answer.code) == (422, "unreadable_picture"), name
        assert "\n" not in answer.json["error"]["message"]
    assert server.form("/api/uploads", [("file", "a.tiff", huge_tiff())]).status in (201, 422)
    before = server.get(KB).json["items"]
    job = server.end(server.form(f"{KB}/items", [("files", "all.zip", archive.getvalue())]))
    assert job["state"] == "done"
    assert (job["report"]["added"], server.get(KB).json["items"]) == (0, before)
    assert not list(folder.rglob("escaped.png"))
    several = [("files", name, data) for name, data in hostile.items()]
    report = server.end(server.form(f"{KB}/items", several))["report"]
    assert report["added"] == 0
    name = "<img src=x onerror=alert(1)>\x1b[31m.png"
    strange = server.end(server.form(f"{KB}/items", [("files", name, b"junk")]))
    assert "<img" not in json.dumps(strange["report"])
    assert server.form("/api/records", [("file", "x.png", bomb())]).status == 422
    assert server.get("/health").status == 200
    assert server.get("/ready").status == 200


def test_told_to_end_it_finishes_what_it_took(folder: Path, arguments: list[str]) -> None:
    for _ in range(TIMES["end"]):
        with serving(folder / "told", *arguments, "--drain", "60") as server:
            jobs = [server.post("/api/generate", {"prompt": f"{i}", "steps": 5}).json["id"] for i in range(3)]
            with ThreadPoolExecutor(1) as pool:
                stream = server.events(jobs[-1])
                first = next(stream)  # a connection that nobody has accepted yet is closed with the port
                heard = pool.submit(list, stream)
                os.kill(server.process.pid, signal.SIGTERM)
                assert server.process.wait(60) == 0
                name, _ = [first, *heard.result(10)][-1]
                assert name == "done"
            assert server.children("bowerbird.serve.worker") == []
        with serving(folder / "told", *arguments) as server:
            assert [server.get(f"/api/jobs/{job}").json["state"] for job in jobs] == ["done"] * 3
            os.kill(server.process.pid, signal.SIGTERM)
            assert server.process.wait(60) == 0


def test_killed_as_a_whole_it_loses_nothing_that_was_finished(folder: Path, arguments: list[str]) -> None:
    with serving(folder / "killed", *arguments) as server:
        done = server.end(server.post("/api/generate", {"prompt": "red", "n": 2, "steps": 2}))
        long = server.post("/api/generate", {"prompt": "blue", "n": 16, "steps": 200}).json["id"]
        queued = server.post("/api/generate", {"prompt": "green", "steps": 3}).json["id"]
        assert next(name for name, _ in server.events(long) if name == "step")
        pictures = [server.get(image["url"]).body for image in done["images"]]
        worker = server.worker
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        pause = threading.Event()
        for _ in range(200):  # a worker alone ends by itself
            if not Path(f"/proc/{worker}").exists():
                break
            pause.wait(0.05)
        assert not Path(f"/proc/{worker}").exists()
    with serving(folder / "killed", *arguments) as server:
        assert [server.get(image["url"]).body for image in done["images"]] == pictures
        states = {job: server.get(f"/api/jobs/{job}").json for job in (done["id"], long, queued)}
        assert [each["state"] for each in states.values()] == ["done", "interrupted", "interrupted"]
        assert states[long]["error"]["code"] == "interrupted"
        assert server.end(server.post("/api/generate", {"prompt": "again", "steps": 2}))["state"] == "done"
        second = Path(str(folder / "killed" / "log.txt")).read_text()
        assert "Traceback" not in second
    assert len(KnowledgeBase.open(folder / "kb"))


def test_two_servers_do_not_share_a_folder(server: Process, folder: Path, arguments: list[str]) -> None:
    with (
        pytest.raises(AssertionError, match="another server keeps its jobs there"),
        serving(folder / "first", *arguments),
    ):
        raise RuntimeError("it started")


def test_a_server_without_a_knowledge_base_makes_its_first_one(folder: Path, random_rdm: Path) -> None:
    token = "a-token-for-tests"
    with serving(folder / "empty", "--model", str(random_rdm), "--token", token) as server:
        server.headers["Authorization"] = f"Bearer {token}"
        assert server.post("/api/generate", {"prompt": "red"}).code == "knowledge_base_not_found"
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(picture, "PNG")
        made = server.end(server.form("/api/knowledge-bases", [("files", "a.png", picture.getvalue())], name="first"))
        assert (made["state"], made["report"]["items"]) == ("done", 1), made["error"]
        assert server.end(server.post("/api/generate", {"prompt": "red", "k": 1, "steps": 2}))["state"] == "done"
        assert token not in server.log.read_text()


def test_a_disk_that_is_full_ends_jobs_and_no_server(folder: Path, arguments: list[str]) -> None:
    """A small file system is filled under it; when there is room again, it goes on, and what was there is there."""
    place = folder / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False).returncode:
        pytest.skip("a small file system cannot be made here")
    try:
        with serving(folder / "full", *arguments, "--data", str(place / "data"), "--keep-free", "0") as server:
            first = server.end(server.post("/api/generate", {"prompt": "red", "steps": 1}))
            assert first["state"] == "done"
            worker = server.worker
            with (place / "junk").open("wb", buffering=0) as junk, suppress(OSError):
                while junk.write(bytes(4096)):
                    pass
            for _ in range(3):
                answer = server.post("/api/generate", {"prompt": "blue", "n": 4, "steps": 1})
                if answer.status == 202:
                    job = server.end(answer)
                    assert (job["state"], job["error"]["code"]) == ("failed", "disk_full")
                else:
                    assert (answer.status, answer.code) == (507, "disk_full")
            buffer = io.BytesIO()
            Image.effect_noise((512, 512), 90).save(buffer, "PNG")
            upload = server.form("/api/uploads", [("file", "a.png", buffer.getvalue())])
            assert (upload.status, upload.code) == (507, "disk_full")
            assert server.get("/health").status == 200
            assert server.get(first["images"][0]["url"]).status == 200
            (place / "junk").unlink()
            assert server.end(server.post("/api/generate", {"prompt": "green", "steps": 1}))["state"] == "done"
            assert server.worker == worker
            assert not list((place / "data" / "jobs").glob(".*"))
    finally:
        subprocess.run(["umount", "-l", place], check=True)
