"""Peak memory of a knowledge base of large photographs: building, embedding, verifying and exporting, all processes
together.

The photographs are made here: hard links to one JPEG of 10 MB, distinguished by their captions. Linux alone (`/proc`).

    python benchmarks/photographs_memory.py --out /tmp/photographs --count 256 --memory 2G 256M
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, count: int) -> int:
    """`count` photographs of 12 megapixels; returns the bytes of one."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), np.uint8)
    Image.fromarray(noise).save(folder / "0000.jpg", quality=83)
    for number in range(count):
        path = folder / f"{number:04d}.jpg"
        if number:
            os.link(folder / "0000.jpg", path)
        path.with_suffix(".txt").write_text(f"photograph {number}")
    return (folder / "0000.jpg").stat().st_size


def resident(process: int) -> int:
    """Bytes of a process and those it started."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it ended meanwhile
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)


def watch(command: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a command."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "bowerbird", *command], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - started, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/photographs"))
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--memory", nargs="+", default=["2G", "256M"])
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    size = make(out / "in", arguments.count)
    print(f"{arguments.count} photographs of {size / 1e6:.1f} MB, {arguments.count * size / 1e9:.2f} GB in all")
    print(f"{'bowerbird doctor':40} {watch(['doctor'])[1] / 1e6:7,.0f} MB (what starting takes)")
    for memory in arguments.memory:
        kb, source = str(out / f"kb-{memory}"), str(out / "in")
        rows = {
            "kb build": ["kb", "build", kb, source, "--memory", memory],
            "kb build --workers 2": ["kb", "build", f"{kb}-w", source, "--workers", "2", "--memory", memory],
            "kb embed": ["kb", "embed", source, "--out", str(out / f"parts-{memory}"), "--memory", memory],
            "kb build of the parts": ["kb", "build", f"{kb}-p", str(out / f"parts-{memory}"), "--memory", memory],
            "kb export": ["kb", "export", kb, str(out / f"export-{memory}")],
            "kb update": ["kb", "update", kb, "--where", "true", "--set", "a=1"],
            "kb verify": ["kb", "verify", kb],
        }
        for name, command in rows.items():
            seconds, peak = watch(command)
            print(f"{name:24} --memory {memory:6} {peak / 1e6:7,.0f} MB {seconds:6.1f} s", flush=True)
        for left in out.glob("[!i]*"):
            shutil.rmtree(left, ignore_errors=True)


if __name__ == "__main__":
    main()
