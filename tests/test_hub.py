"""A trained model goes to a hub and comes back, through huggingface_hub's own code and an endpoint on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.test_train_inputs import draw

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """As much of the hub as one model needs: made, written in one commit, listed, read."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.asked: list[str] = []
        self.made: dict[str, object] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(path)
        if match := re.fullmatch(r"/api/models/me/mine(/revision/\w+)?", path):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.json({"id": "me/mine", "modelId": "me/mine", "sha": COMMIT, "siblings": siblings})
        elif (match := re.fullmatch(r"/me/mine/resolve/\w+/(.+)", path)) and match[1] in self.server.files:
            body = self.server.files[match[1]]
            self.answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"')
        elif path.startswith("/api/models/me/mine/tree"):
            self.json([{"type": "file", "path": n, "size": len(b), "oid": "0"} for n, b in self.server.files.items()])
        else:
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.path == "/api/repos/create":
            self.server.made = self.server.made or json.loads(body)
            self.json({"url": f"{self.server.address}/me/mine", "name": "me/mine"})
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            lines = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            self.server.commits.append({line["path"]: base64.b64decode(line["content"]) for line in lines})
            self.server.files |= self.server.commits[-1]
            url = f"{self.server.address}/me/mine/commit/{COMMIT}"
            self.json({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.answer(b"{}", 404)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


COMMANDS = """
import json, sys
from bowerbird.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["bowerbird", *arguments]
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
"""


def process(hub: Hub, home: Path, code: str, *arguments: str, expect: int = 0) -> str:
    """The stderr of a Python process of its own: huggingface_hub reads the address of the hub when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": "hf_local"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stderr


AGAIN = """
from bowerbird import RDMPipeline
pipe = RDMPipeline.from_pretrained("me/mine")
assert pipe.proposal_counts == RDMPipeline.from_pretrained("run/model").proposal_counts != {}
pipe.push_to_hub("me/mine", commit_message="again")
"""


def test_a_model_goes_to_the_hub_and_generates_from_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(Path("own"), 5)
    hub.files["pytorch_model.bin"] = b"a pickle that nobody asked for"
    hub.files["pipeline.py"] = b"raise SystemExit('code of a stranger')"
    usual = ("--kb", "kb", "--unconditional", "--steps", "2", "-n", "1", "--out")
    commands = [
        ["train", "tiny-rdm", "--tiny", "--data", "own", "--out", "run", "--push-to-hub", "me/mine"],
        ["kb", "build", "kb", "own"],
        ["generate", "run/model", *usual, "ours"],
        ["generate", "me/mine", *usual, "theirs"],
    ]
    said = process(hub, tmp_path / "home", COMMANDS + AGAIN, json.dumps(commands))
    assert f"published: {hub.address}/me/mine/commit/" in said
    assert hub.made.get("private") is True or hub.made.get("visibility") == "private", hub.made
    first, second = hub.commits
    here = {
        file.relative_to("run/model").as_posix(): file.read_bytes()
        for file in Path("run/model").rglob("*")
        if file.is_file()
    }
    assert first == here
    assert b"Trained with bowerbird" in first["README.md"]
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert {"model_index.json", "proposal.safetensors", weights} <= set(second)
    ours, theirs = (Image.open(f"{out}/000.png").tobytes() for out in ("ours", "theirs"))
    assert ours == theirs  # p_D's counts, which diffusers does not know, came along
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]


def test_a_hub_that_refuses_is_one_line_before_any_work(hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    for name in ("../up", "me/mine"):
        command = ["train", "tiny-rdm", "--data", "nowhere", "--push-to-hub", name]
        said = process(hub, tmp_path, COMMANDS, json.dumps([command]), expect=2)
        assert f"{name}: the hub does not take it" in said
        assert said.count("\n") == 1
        assert "nowhere" not in said
