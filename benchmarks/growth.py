"""Time and memory of generating against batch, k, steps and resolution, one at a time around a usual point;
every row is a process of its own.

python benchmarks/growth.py                     # the bundled tiny-rdm
python benchmarks/growth.py --model rdm-imagenet --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

USUAL = {"batch": 4, "k": 4, "steps": 10, "scale": 1}
VALUES = {"batch": (1, 2, 4, 8, 16, 32, 64), "k": (1, 4, 16, 64, 256), "steps": (5, 10, 20, 40), "scale": (1, 2, 4)}


def cell(model: str, dtype: str, batch: int, k: int, steps: int, scale: int) -> dict[str, float]:
    """Seconds to generate once (after a first time), and what the process held when the model was loaded, and
    at most."""
    import numpy as np
    import torch

    from bowerbird import Neighbors, RDMPipeline
    from bowerbird.systems.common import trained_size

    pipe = RDMPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    width = pipe.unet.config.encoder_hid_dim or pipe.unet.config.cross_attention_dim
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(batch, k, width)).astype(np.float32)
    hits = Neighbors(
        ids=np.tile(np.arange(k), (batch, 1)),
        scores=np.ones((batch, k), np.float32),
        embeddings=embeddings,
        captions=(("",) * k,) * batch,
    )
    size = trained_size(pipe.unet, pipe.vae) * scale
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024
    pipe(neighbors=hits, num_inference_steps=1, height=size, width=size)
    started = time.perf_counter()
    pipe(neighbors=hits, num_inference_steps=steps, height=size, width=size)
    return {
        "seconds": time.perf_counter() - started,
        "loaded MB": before / 1024,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-rdm")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(cell(arguments.model, arguments.dtype, **json.loads(arguments.cell))))
        return
    print(f"{arguments.model}, {arguments.dtype}, at its usual guidance; unless said otherwise {USUAL}")
    print(f"{'':14} {'s a call':>9} {'ms a picture':>13} {'peak MB':>8} {'above loaded':>13}")
    for name, values in VALUES.items():
        for value in values:
            chosen = {**USUAL, name: value}
            command = [
                sys.executable,
                __file__,
                "--model",
                arguments.model,
                "--dtype",
                arguments.dtype,
                "--cell",
                json.dumps(chosen),
            ]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            label = f"{name} {value}" if name != "scale" else f"size x {value}"
            each = 1000 * found["seconds"] / chosen["batch"]
            print(
                f"{label:14} {found['seconds']:9.2f} {each:13.1f} {found['peak MB']:8.0f}"
                f" {found['peak MB'] - found['loaded MB']:13.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
