"""What `pip install` brings: the wheel alone, in an environment of its own, from an empty folder, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints; none of this repository's files can be imported by it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment that holds the wheel; other packages are the running Python's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("bowerbird-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # a plain line makes a folder importable and does not follow the .pth files in it, as that of an editable install
    (own,) = (folder / "venv").glob("**/site-packages")
    paths = sysconfig.get_paths()
    (own / "others.pth").write_text("\n".join(sorted({paths["purelib"], paths["platlib"]})))
    return python.parent


def test_the_wheel_holds_weights_and_types(installed: Path, tmp_path: Path) -> None:
    """Every file of the package travels, the bundled weights and the marker of types among them."""
    place = Path(run(installed / "python", "-c", "import bowerbird; print(bowerbird.__file__)", cwd=tmp_path).strip())
    assert installed.parent in place.parents
    ours = ROOT / "src" / "bowerbird"

    def files(folder: Path) -> set[str]:
        found = (f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
        return {f.relative_to(folder).as_posix() for f in found}

    assert files(place.parent) == files(ours)
    assert "py.typed" in files(ours)
    assert sum(name.endswith(".safetensors") for name in files(ours)) >= 7


def test_the_wheel_searches_and_generates(installed: Path, tmp_path: Path) -> None:
    """From nothing to a picture with its record, with the bundled models."""
    bowerbird = installed / "bowerbird"
    assert "generate" in run(bowerbird, "--help", cwd=tmp_path)
    assert "tiny-reimagen" in run(bowerbird, "models", cwd=tmp_path)
    run(bowerbird, "kb", "build", "kb", "drawn", "--where", "style = 'flat'", cwd=tmp_path)
    command = ("generate", "tiny-rdm", "--kb", "kb", "--prompt", "red apple", "-n", "1", "--steps", "2", "--out", "a")
    written = json.loads(run(bowerbird, *command, "--json", cwd=tmp_path))
    assert written
    assert (tmp_path / "a" / "000.png").is_file()
    assert json.loads((tmp_path / "a" / "generation.jsonl").read_text())["neighbors"][0]["caption"] == "a red apple"
