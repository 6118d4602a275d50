"""CPU seconds (user + system, all threads) of short commands, and where those of one generated picture go.

A picture of two sampling steps costs a fraction of a second; the rest is importing, opening, searching and writing.
Each command is a process of its own; the second of two runs counts, so that files are in the cache.

    python benchmarks/startup.py --model tiny-rdm-fast
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PHASES = """
import resource, sys
from pathlib import Path
seconds = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
before = 0.0
def lap(name):
    global before
    print(f"  {name:34} {seconds() - before:6.2f}", flush=True)
    before = seconds()
from bowerbird.cli.main import start_lightly
start_lightly(); lap("python and the command line")
import torch; lap("import torch")
from bowerbird.knowledge.base import KnowledgeBase
kb = KnowledgeBase.open(sys.argv[1]); lap("open the knowledge base")
from bowerbird.systems import base, generation, output, records; lap("import diffusers, transformers")
from bowerbird.cli.common import open_model
pipe = open_model(sys.argv[2], "cpu"); lap("open the model")
from bowerbird.systems.queries import make_request
hits = pipe.retrieve(pipe.resolve(make_request("red apple", None)), kb, 1); lap("encoder and search")
settings = generation.default_settings(pipe)
images = generation.generate(pipe, hits, settings); lap("sample one picture")
from bowerbird.evaluation.copies import guard
guard.guard(pipe, images, hits, settings, policy="warn"); lap("neighbors' pictures, copy guard")
made = records.generation_records(pipe, sys.argv[2], kb, hits, images, settings, {"prompt": "red apple"})
output.write(images, made, hits, Path(sys.argv[3])); lap("write picture and sheet")
print(f"  {'in all':34} {seconds():6.2f}")
"""


def cpu_seconds(command: list[str]) -> float:
    """User and system time of `command`, of the second of two runs."""
    used = 0.0
    for _ in range(2):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run(command, check=True, capture_output=True)
        used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-rdm-fast")
    arguments = parser.parse_args()
    own = [sys.executable, "-m", "bowerbird"]
    with tempfile.TemporaryDirectory() as folder:
        kb, out = str(Path(folder, "kb")), str(Path(folder, "out"))
        subprocess.run([*own, "kb", "build", kb, "drawn"], check=True, capture_output=True)
        ask = ["--text", "red apple", "--json"]
        generate = [*own, "generate", arguments.model, "--kb", kb, "--prompt", "red apple", "-n", "1", "--out", out]
        commands = {
            "python, nothing else": [sys.executable, "-c", ""],
            "--help": [*own, "--help"],
            "search, words": [*own, "search", kb, *ask, "--mode", "bm25"],
            "search, hybrid": [*own, "search", kb, *ask],
            f"generate {arguments.model} -n 1": generate,
        }
        print(f"CPU seconds, {os.cpu_count()} cores")
        for name, command in commands.items():
            print(f"{name:36} {cpu_seconds(command):6.2f}", flush=True)
        subprocess.run([sys.executable, "-c", PHASES, kb, arguments.model, out], check=True)


if __name__ == "__main__":
    main()
