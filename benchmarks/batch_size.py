"""Seconds of a core a picture by how many go through the network at once, of the bundled models on this CPU.

`generation.BATCH` is one number for all, since the same number always gives the same last bits: a large one makes one
picture wait for rows that only fill the batch up, a small one costs whoever asks for many.

    python benchmarks/batch_size.py --threads 1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from bowerbird import KnowledgeBase
from bowerbird.core.quiet import quiet_libraries
from bowerbird.systems import generation, jobs
from bowerbird.systems.loading import load_pipeline

MODELS = (("tiny-rdm", None), ("tiny-knn", None), ("reimagen-drawings", 64), ("reimagen-drawings", 128))
SIZES = (1, 2, 4, 8)


def main() -> None:
    """Print a row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        kb, _ = KnowledgeBase.build(Path(folder) / "kb", "drawn")
        for name, size in MODELS:
            pipe = load_pipeline(name)
            prepared = jobs.prepare(pipe, kb, jobs.Job(prompt="red apple", seed=1))
            settings = replace(prepared.settings, height=size, width=size)
            row = []
            for count in SIZES:
                hits = prepared.hits.rows([0] * count)
                times = []
                for _ in range(arguments.repeats):
                    started = time.process_time(), time.perf_counter()
                    generation.generate(pipe, hits, settings, batch=count)
                    times.append((time.process_time() - started[0], time.perf_counter() - started[1]))
                row.append(f"{count}: {min(t[0] for t in times) / count:.2f} ({min(t[1] for t in times) / count:.2f})")
            print(f"{name} {size or ''} seconds of a core a picture (of a clock): {', '.join(row)}", flush=True)


if __name__ == "__main__":
    main()
