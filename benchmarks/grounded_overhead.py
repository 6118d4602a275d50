"""What a knowledge base adds to the time of a base model: the search, reading the references, and our own part of the
call.

Four ways at equal weights, prompt and steps, in turn, each the least of several rounds in seconds of CPU: diffusers
with the base alone; diffusers with the adapter and embeddings that are at hand; bowerbird with a search and stored
embeddings; bowerbird with a search, where the pictures are encoded (once a prompt). The knowledge base adds what the
third takes longer than the second; the second's own time over the first is the adapter's. Without --base it is a double
of Stable Diffusion with random weights: a real one takes hundreds of times as long a step, and the search and the
references take the same.

    python benchmarks/grounded_overhead.py --base tiny-sd --adapter tiny-ip-adapter --steps 30 --rounds 5
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

sys.path.insert(0, str(Path(__file__).parent.parent))
from bowerbird import KnowledgeBase
from bowerbird.core import seeds
from bowerbird.systems.grounded.picture_tokens import picture_tokens
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from tests import doubles

PROMPT = "a red apple"
ALONE, AT_HAND = "diffusers, the base alone", "diffusers, the adapter, embeddings at hand"
STORED, PICTURES = "bowerbird, search and stored embeddings", "bowerbird, search and pictures"
GOAL = 0.05


def main() -> None:
    """Print the seconds of each way and what is added."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="a Stable Diffusion in diffusers layout; a tiny random one")
    parser.add_argument("--adapter", type=Path, help="an adapter of bowerbird train for it, its encoder beside it")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, help="edge of the pictures in pixels; the base's, 128 of the double")
    parser.add_argument("-k", type=int, default=2, help="references a picture")
    arguments = parser.parse_args()
    if (arguments.base is None) != (arguments.adapter is None):
        parser.error("--base and --adapter go together")
    with tempfile.TemporaryDirectory() as folder:
        ways = prepare(Path(folder), arguments)
        found = {name: seconds(way) for name, way in ways.items()}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                found[name] = min(found[name], seconds(way))
    for name, spent in found.items():
        others = [f"{spent / found[other]:6.3f} x {other.split(', ')[1]}" for other in (ALONE, AT_HAND)]
        print(f"{name:45} {spent:7.3f} s of CPU  {'  '.join(others)}")
    for name in (STORED, PICTURES):
        share = found[name] / found[AT_HAND] - 1
        print(
            f"{name}: the knowledge base adds {1000 * (found[name] - found[AT_HAND]):.1f} ms, {share:+.1%}"
            f" ({'within' if share < GOAL else 'over'} the goal of {GOAL:.0%})"
        )


def seconds(way: Callable[[], Any]) -> float:
    """Of CPU, of one picture."""
    begun = time.process_time()
    way()
    return time.process_time() - begun


def prepare(folder: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The four ways, each a function that makes one picture."""
    adapter, base, alone, other = _bases(folder, arguments)
    beside = adapter.parent / "image_encoder"
    encoder = str(beside) if beside.is_dir() else "small"
    stored, _ = KnowledgeBase.build(folder / "stored", "drawn", encoder=encoder)
    pictures, _ = KnowledgeBase.build(folder / "pictures", "drawn")
    pipe = ReferencePipeline(base, adapter=adapter)
    own = ReferencePipeline(base, adapter=adapter, fit="pad")  # encodes pictures also where they are stored
    reader = pipe.reader
    assert reader is not None
    hits = reader.read(stored.search(text=PROMPT, k=arguments.k, mode="bm25"), stored)
    embeds = torch.from_numpy(hits.embeddings)
    layout = getattr(getattr(reader.encoder, "encoder", None), "layout", None)
    embeds = embeds if layout is None else picture_tokens(embeds, layout)
    embeds = torch.cat([torch.zeros_like(embeds), embeds])
    other.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    other.set_ip_adapter_scale(0.6)
    size = arguments.size or (128 if arguments.base is None else int(pipe.capabilities.sizes[-1]))
    how: dict[str, Any] = {"num_inference_steps": arguments.steps, "height": size, "width": size}
    for each in (alone, other, pipe, own):
        each.set_progress_bar_config(disable=True)

    def by_diffusers(base: Any, **call: Any) -> Any:
        return base(prompt=[PROMPT], generator=seeds.picture_generator(0), **call, **how).images

    def grounded(pipe: ReferencePipeline, kb: KnowledgeBase, mode: str) -> Any:
        return pipe(PROMPT, knowledge_base=kb, k=arguments.k, search_mode=mode, **how).images

    return {
        ALONE: lambda: by_diffusers(alone),
        AT_HAND: lambda: by_diffusers(other, ip_adapter_image_embeds=[embeds]),
        STORED: lambda: grounded(pipe, stored, "bm25"),
        PICTURES: lambda: grounded(own, pictures, "hybrid"),
    }


def _bases(folder: Path, arguments: argparse.Namespace) -> tuple[Path, Any, Any, Any]:
    """The adapter's file, and the base three times: a pipeline with an adapter in it is no base alone."""
    if arguments.base is not None:
        three = [ReferencePipeline.from_pretrained(arguments.base).base for _ in range(3)]
        return arguments.adapter, *three
    three = [doubles.sd() for _ in range(3)]
    return doubles.ip_adapter(folder / "adapter", three[0]), *three


if __name__ == "__main__":
    main()
