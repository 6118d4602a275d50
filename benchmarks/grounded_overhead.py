"""What a knowledge base adds to the time of a base model: the search, reading the references, and our own part of the
call.

Three ways at equal weights, pictures and steps, in turn, each the least of several rounds in seconds of CPU: diffusers
alone with the adapter and embeddings that are at hand; bowerbird with a search and stored embeddings; bowerbird with a
search, where the pictures are encoded (once a prompt). The base is a double of Stable Diffusion with random weights: a
real one takes hundreds of times as long a step, and the search and the references take the same.

    python benchmarks/grounded_overhead.py --steps 30 --rounds 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from bowerbird import KnowledgeBase
from bowerbird.core import seeds
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from tests import doubles

PROMPT = "a red apple"


def main() -> None:
    """Print the seconds of each way and what is added."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="edge of the pictures in pixels")
    parser.add_argument("-k", type=int, default=2, help="references a picture")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = prepare(Path(folder), arguments.steps, arguments.size, arguments.k)
        found = {name: seconds(way) for name, way in ways.items()}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                found[name] = min(found[name], seconds(way))
    plain = found["diffusers, embeddings at hand"]
    for name, spent in found.items():
        print(f"{name:45} {spent:7.3f} s of CPU  {100 * (spent / plain - 1):+6.1f}%  {1000 * (spent - plain):+7.1f} ms")


def seconds(way: Callable[[], Any]) -> float:
    """Of CPU, of one picture."""
    begun = time.process_time()
    way()
    return time.process_time() - begun


def prepare(folder: Path, steps: int, size: int, k: int) -> dict[str, Callable[[], Any]]:
    """The three ways, each a function that makes one picture."""
    base, other = doubles.sd(), doubles.sd()
    adapter = doubles.ip_adapter(folder / "adapter", base)
    encoder = adapter.parent / "image_encoder"
    stored, _ = KnowledgeBase.build(folder / "stored", "drawn", encoder=str(encoder))
    small, _ = KnowledgeBase.build(folder / "small", "drawn")
    pipe = ReferencePipeline(base, adapter=adapter, image_encoder=encoder)
    state: dict[str, Any] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(adapter).items():
        part, _, rest = key.partition(".")
        state[part][rest] = tensor
    other.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
    other.set_ip_adapter_scale(0.6)
    hits = pipe.reader.read(stored.search(text=PROMPT, k=k, mode="bm25"), stored)  # type: ignore[union-attr]
    embeds = torch.from_numpy(hits.embeddings)
    embeds = torch.cat([torch.zeros_like(embeds), embeds])
    how: dict[str, Any] = {"num_inference_steps": steps, "height": size, "width": size}

    def plain() -> Any:
        return other(
            prompt=[PROMPT], ip_adapter_image_embeds=[embeds], generator=seeds.picture_generator(0), **how
        ).images

    def grounded(kb: KnowledgeBase) -> Any:
        return pipe(PROMPT, knowledge_base=kb, k=k, search_mode="bm25" if kb is stored else "hybrid", **how).images

    return {
        "diffusers, embeddings at hand": plain,
        "bowerbird, search and stored embeddings": lambda: grounded(stored),
        "bowerbird, search and pictures": lambda: grounded(small),
    }


if __name__ == "__main__":
    main()
