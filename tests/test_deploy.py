"""The container's steps, where there is no Docker engine: what is copied is there, and what is run runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
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


@pytest.fixture
def image() -> Iterator[Path]:
    """What the Dockerfile makes, as far as no network is needed: from the copied files alone a wheel, installed in an
    environment of its own beside the packages of this one; `data`, which belongs to user 10001, and `tmp`."""
    folder = Path(tempfile.mkdtemp(prefix="bowerbird-image-", dir="/var/tmp"))  # which others may look into
    folder.chmod(0o755)
    try:
        (folder / "src").mkdir()
        for line in step("COPY"):
            *sources, target = line.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    hidden = shutil.ignore_patterns("__pycache__", "*.egg-info")
                    shutil.copytree(ROOT / source, folder / "src" / target, ignore=hidden)
                else:
                    shutil.copy(ROOT / source, folder / "src" / target)
        pip = [sys.executable, "-m", "pip", "-q"]
        build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheel", folder / "src"]
        subprocess.run(build, check=True, cwd=folder)
        shutil.rmtree(folder / "src")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        (wheel,) = (folder / "wheel").iterdir()
        install = ["--python", folder / "venv" / "bin" / "python", "install", "--no-deps", "--no-index", wheel]
        subprocess.run([*pip, *install], check=True, cwd=folder)
        (own,) = (folder / "venv").glob("**/site-packages")
        paths = sysconfig.get_paths()
        (own / "others.pth").write_text("\n".join(sorted({paths["purelib"], paths["platlib"]})))
        for name in ("data", "tmp"):
            (folder / name).mkdir()
        yield folder
    finally:
        shutil.rmtree(folder)


def contained(folder: Path) -> list[str]:
    """What a command is begun with to run as the container runs it: as user 10001 without capabilities but to read,
    on a root that is read-only but for `data` and `tmp`. Skips where a test may not do that."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("a read-only root and another user want root, unshare and setpriv")
    for name in ("data", "tmp"):
        os.chown(folder / name, 10001, 10001)
    places = " && ".join(f"mount --bind {folder / name} {folder / name}" for name in ("data", "tmp"))
    user = "setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs"
    reads = "--bounding-set -all,+dac_read_search --inh-caps -all,+dac_read_search --ambient-caps +dac_read_search"
    begin = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'{places} && mount -o remount,bind,ro / && exec {user} {reads} "$@"',
        "sh",
    ]
    tried = subprocess.run([*begin, "id", "-u"], capture_output=True, text=True, check=False)
    if tried.stdout.strip() != "10001":
        pytest.skip(f"a read-only root cannot be had here: {tried.stderr.strip()}")
    return begin


@pytest.mark.timeout(900)
def test_the_entry_point_serves_as_another_user_on_a_read_only_root(small_kb_path: Path, image: Path) -> None:
    """The Dockerfile's steps from its own files, with its environment and no other, and a token as compose gives it."""
    begin, port = contained(image), free_port()
    shutil.copytree(small_kb_path, image / "data" / "kb")
    given = {"7860": str(port), "/data/server": str(image / "data" / "server"), "0.0.0.0": "127.0.0.1"}
    command = [given.get(part, part) for part in json.loads(step("ENTRYPOINT")[0])]
    command[0] = str(image / "venv" / "bin" / command[0])
    more = ["--kb", str(image / "data" / "kb"), "--model", "tiny-rdm", "--keep-free", "0"]
    own = dict(pair.split("=") for line in step("ENV") for pair in shlex.split(line))
    own["BOWERBIRD_CACHE"] = own["BOWERBIRD_CACHE"].replace("/data", str(image / "data"))
    environment = {**own, "BOWERBIRD_TOKEN": "a-token-of-this-test", "HOME": str(image / "data")}
    environment |= {"PATH": f"{image / 'venv' / 'bin'}:/usr/bin:/bin", "TMPDIR": str(image / "tmp")}
    log = image / "log.txt"
    with log.open("w") as out:
        whole = [*begin, *command, *more]
        process = subprocess.Popen(whole, cwd=image / "data", env=environment, stdout=out, stderr=out)
    client, pause = Client(port), threading.Event()
    try:
        for _ in range(4000):
            assert process.poll() is None, log.read_text()
            try:
                if client.get("/ready").status == 200:
                    break
            except OSError:
                pass
            pause.wait(0.05)
        check = json.loads(step("HEALTHCHECK")[0].partition("CMD")[2])
        code = check[-1].replace("7860", str(port))
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
        assert client.get("/api/status").status == 401
        client.headers["Authorization"] = "Bearer a-token-of-this-test"
        assert client.get("/api/status").json["models"] == ["tiny-rdm"]
        job = client.end(client.post("/api/generate", {"prompt": "red apple", "k": 2, "steps": 1}))
        assert job["state"] == "done", job["error"]
        made = list((image / "data" / "server" / "jobs").glob("*/000.png"))
        assert [path.stat().st_uid for path in made] == [10001]
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "Uid:\t10001\t10001" in status
        assert str(image) in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.terminate()
        process.wait(60)
    assert {path.name for path in image.iterdir()} == {"data", "tmp", "log.txt", "venv", "wheel"}
    assert not list((image / "tmp").glob("bowerbird*"))


def test_compose_gives_no_more_than_is_needed() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for line in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "profiles: [milvus]"):
        assert line in text
    assert step("USER") == ["bowerbird"]


def test_the_guide_passes_on_what_the_server_reads_of_a_proxy() -> None:
    """`$host` is without a port, and without the scheme cookies and addresses of pictures were those of http."""
    guide = (ROOT / "docs" / "serve.md").read_text()
    for line in ("Host $http_host;", "X-Forwarded-Proto $scheme;", "CacheDirectory=bowerbird", "BOWERBIRD_CACHE="):
        assert line in guide
    assert "FORWARDED_ALLOW_IPS" in (ROOT / "compose.yaml").read_text()
