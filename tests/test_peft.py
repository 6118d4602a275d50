"""The comparisons with peft, in a process that has it. It lies beside the environment (`make setup-dev`) and not in it:
where diffusers finds peft, every picture imports it and torch's compiler with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BESIDE = Path(sys.prefix) / "peft"
HERE = Path(__file__).parent
COMPARED = (
    "test_lora.py::test_diffusers_own_loader_gives_the_same_picture",
    "test_dreambooth.py::test_plain_diffusers_opens_the_file",
    "test_dreambooth.py::test_our_layers_are_pefts",
    "test_light.py::test_adapters_are_seen_by_diffusers_although_peft_was_put_off",
)


@pytest.mark.skipif(not BESIDE.is_dir(), reason="make setup-dev puts peft there")
def test_what_is_compared_with_peft_is_compared() -> None:
    path = os.pathsep.join([str(BESIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *(str(HERE / each) for each in COMPARED)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=HERE.parent,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "SKIPPED" not in done.stdout
