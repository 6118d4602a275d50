"""Peak memory and time of importing a checkpoint of the published layout at full size, some 6.6 GB with its averaged
weights and Adam's state.

The file is made here, with random weights. Beside ours: `torch.load` of the same file, as the reference code reads it.

    python benchmarks/import_memory.py --out /tmp/import
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.parity import published

LOAD = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True)['state_dict']"

WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def make(path: Path) -> None:
    """The 256 px ImageNet model's file."""
    torch.manual_seed(0)
    unet, stage = published.UNet(192, (1, 2, 3, 5), (8, 4, 2), 512, 3), published.FirstStage(128, (1, 2, 4), 3, 8192)
    torch.save(published.checkpoint(unet, stage), path)


def child(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident GB of a command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", WATCH, *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/import"))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make is not None:
        make(arguments.make)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "model.ckpt"
    if not file.is_file():
        subprocess.run(
            [sys.executable, __file__, "--make", str(file)], check=True
        )  # in a process of its own, whose memory is nobody's here
    print(f"{file}: {file.stat().st_size / 1e9:.2f} GB")
    bowerbird = [sys.executable, "-m", "bowerbird", "import", "compvis", str(file)]
    target = arguments.out / f"model-{time.time():.0f}"
    rows = {
        "ours, --dry-run": [*bowerbird, "--dry-run"],
        "ours": [*bowerbird, "--out", str(target)],
        "torch.load": [sys.executable, "-c", LOAD, str(file)],
    }
    for name, command in rows.items():
        seconds, peak = child(command)
        print(f"{name:18} {seconds:6.1f} s   peak {peak:5.2f} GB", flush=True)


if __name__ == "__main__":
    main()
