"""`bowerbird serve --ray local`: the same API with replicas of a Ray Serve deployment as workers."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Process, serving

pytest.importorskip("ray.serve", reason="pip install 'ray[serve]'")


@pytest.fixture(scope="module")
def server(small_kb_path: Path, random_rdm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("ray")
    shutil.copytree(small_kb_path, folder / "kb")
    how = ["--ray", "local", "--replicas", "1", "--device", "cpu"]
    with serving(folder, "--kb", str(folder / "kb"), "--model", str(random_rdm), *how) as running:
        yield running
        os.kill(running.process.pid, signal.SIGTERM)
        running.process.wait(60)


def test_replicas_generate_and_are_cancelled(server: Process) -> None:
    asked = {"prompt": "red apple", "n": 2, "steps": 3, "seed": 5}
    accepted = server.post("/api/generate", asked)
    events = list(server.events(accepted.json["id"]))
    assert events[-1][0] == "done"
    assert "preview" in [name for name, _ in events]
    assert server.get("/api/models").json["models"][0]["loaded"]
    assert len(server.post("/api/knowledge-bases/kb/neighbors", {"prompt": "red apple", "k": 3}).json["neighbors"]) == 3
    long = server.post("/api/generate", {**asked, "n": 16, "steps": 200}).json["id"]
    assert next(name for name, _ in server.events(long) if name == "step")
    assert server.ask("DELETE", f"/api/jobs/{long}").json["state"] == "cancelled"
    assert server.end(server.post("/api/generate", asked))["state"] == "done"


def test_a_replica_that_dies_is_answered_for_and_back(server: Process) -> None:
    long = server.post("/api/generate", {"prompt": "blue", "n": 16, "steps": 200})
    assert next(name for name, _ in server.events(long.json["id"]) if name == "step")
    os.kill(replica(), signal.SIGKILL)
    job = server.end(long)
    assert (job["state"], job["error"]["code"]) == ("failed", "worker_died")
    assert server.end(server.post("/api/generate", {"prompt": "blue", "steps": 2}))["state"] == "done"


def replica() -> int:
    """The process of the replica, which Ray names after its deployment."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"ServeReplica:bowerbird" in (place / "cmdline").read_bytes():
                return int(place.name)
        except OSError:
            continue
    raise AssertionError("no replica")
