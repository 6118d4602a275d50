"""The container's steps, where there is no Docker engine: what is copied is there, and what is run runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.serving import Client, free_port

ROOT = Path(__file__).parents[1]
STEPS = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def step(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in STEPS if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    for line in step("COPY"):
        *sources, _ = line.split()
        assert set(sources) <= kept
        assert all((ROOT / source).exists() for source in sources)
    extras = re.findall(r"\.\[([\w,]+)\]", " ".join(step("RUN")))
    assert extras == ["serve,milvus"]


def test_the_entry_point_serves_and_its_health_check_says_so(small_kb_path: Path, tmp_path: Path) -> None:
    """With the folders of this test; nobody's home, and a token from the environment, as compose gives it."""
    command, port = json.loads(step("ENTRYPOINT")[0]), free_port()
    given = {"7860": str(port), "/data/server": str(tmp_path / "data" / "server"), "0.0.0.0": "127.0.0.1"}
    command = [given.get(part, part) for part in command]
    command[:1] = [sys.executable, "-m", "bowerbird"]
    more = ["--kb", str(small_kb_path), "--model", "tiny-rdm"]
    own = dict(pair.split("=") for line in step("ENV") for pair in shlex.split(line))
    environment = {**os.environ, **own, "BOWERBIRD_TOKEN": "a-token-of-this-test", "HOME": "/nonexistent"}
    environment["BOWERBIRD_CACHE"] = own["BOWERBIRD_CACHE"].replace("/data", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, *more], cwd=tmp_path / "data", env=environment, stderr=log)
    client, pause = Client(port), threading.Event()
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            try:
                client.get("/health")
                break
            except OSError:
                pause.wait(0.05)
        check = json.loads(step("HEALTHCHECK")[0].partition("CMD")[2])
        code = check[-1].replace("7860", str(port))
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
        assert client.get("/api/status").status == 401
        known = {"Authorization": "Bearer a-token-of-this-test"}
        assert client.get("/api/status", **known).json["models"] == ["tiny-rdm"]
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{client.url}/api/status", timeout=5)
    finally:
        process.terminate()
        process.wait(60)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "log.txt"}


def test_compose_gives_no_more_than_is_needed() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for line in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "profiles: [milvus]"):
        assert line in text
    assert step("USER") == ["bowerbird"]
