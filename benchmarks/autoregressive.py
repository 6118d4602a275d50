"""Generating tokens one by one: kept keys and values against the reference, which runs the whole prefix again at every
token.

    python benchmarks/autoregressive.py                      # a RARM of 10.8 M parameters
    python benchmarks/autoregressive.py --released           # those of the released network, random weights
    python benchmarks/autoregressive.py --int8               # kept with weights of 8 bits; the reference as it is
    python benchmarks/autoregressive.py --documents 2        # RA-CM3 of 11 M after two documents that all share

`again` runs the prefix at each of its lengths where `--whole`; otherwise at 9 lengths, and the rest lies on the line
between them. The ceiling is memory-bound: each token of a batch reads every weight of the blocks and of the last layer
once, at the speed at which this machine reads a tensor of that size.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.models.document_transformer import DocumentTransformer
from bowerbird.models.rarm_transformer import RARMTransformer
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3.decoding import Decoder as DocumentDecoder
from bowerbird.systems.racm3.decoding import Prompt, condition
from bowerbird.systems.racm3.layout import Layout
from bowerbird.systems.rarm.decoding import Decoder

NEIGHBORS = 4
MIDDLE = {"symbols": 2048, "channels": 256, "layers": 7, "embed_dim": 384}


def seconds(task: Callable[[], object], repeats: int, device: str) -> float:
    """The median of `repeats` runs, after one that is not counted: of the CPU's own time where it is one thread, so
    that other work on the machine is not counted."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    task()
    found = []
    for _ in range(repeats):
        started = clock()
        task()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(clock() - started)
    return median(found)


def kept(network: RARMTransformer, condition: Conditioning, batch: int) -> Tensor:
    """All tokens, the likeliest each time, with kept keys and values."""
    decoder, positions = Decoder(network), network.config["positions"]
    tokens = torch.empty(batch, 0, dtype=torch.long, device=network.device)
    for i in range(positions):
        logits = decoder(tokens, torch.tensor(i), condition)
        tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], 1)
    return tokens


def again(network: RARMTransformer, condition: Tokens, batch: int, *, whole: bool, repeats: int, device: str) -> float:
    """Seconds for all tokens where each runs its whole prefix."""
    positions = network.config["positions"]
    lengths = range(1, positions + 1) if whole else np.linspace(1, positions, 9).round().astype(int)
    read = torch.zeros(batch, positions, dtype=torch.long, device=network.device)
    took = [
        seconds(partial(network.forward, read[:, : int(n)], condition), 1 if whole else repeats, device)
        for n in lengths
    ]
    return float(np.interp(np.arange(1, positions + 1), list(lengths), took).sum())


def bandwidth(size: int, device: str) -> float:
    """Bytes a second at which a matrix of `size` bytes is multiplied with one vector, as a token does with weights."""
    matrix = torch.zeros(max(1, size // 4 // 4096), 4096, device=device)
    vector = torch.zeros(4096, device=device)
    return matrix.numel() * 4 / seconds(lambda: matrix @ vector, 5, device)


def measure(
    network: RARMTransformer, batch: int, *, whole: bool, repeats: int, device: str, int8: bool
) -> dict[str, Any]:
    keys = torch.randn(batch, NEIGHBORS, network.config["embed_dim"], device=device)
    tokens = Tokens(keys, torch.ones(batch, NEIGHBORS, device=device))
    positions = network.config["positions"]
    drawing = copy.deepcopy(network)
    if int8:
        drawing.pack()
    ours = seconds(lambda: kept(drawing, Conditioning(tokens, tokens), batch), repeats, device)
    theirs = again(network, tokens, batch, whole=whole, repeats=repeats, device=device)
    read = sum(p.numel() * p.element_size() for p in network.parameters()) - network.proj_in.weight.numel() * 4
    read //= 4 if int8 else 1
    ceiling = read / bandwidth(read, device) * positions
    return {
        "batch": batch,
        "seconds a picture, kept": ours / batch,
        "seconds a picture, run again": theirs / batch,
        "ratio": theirs / ours,
        "share of the memory-bound ceiling": ceiling / ours,
    }


def measure_documents(batch: int, documents: int, repeats: int) -> dict[str, Any]:
    """The codes of `batch` pictures after one prompt: read once for all, against the whole sequence run again at every
    code of every row (at 5 lengths; the rest lies on the line between them)."""
    network = DocumentTransformer().eval()
    plan = Layout.of(network.config)
    rng = np.random.default_rng(0)

    def codes() -> np.ndarray:
        return rng.integers(plan.image_tokens, size=plan.cells)

    text = np.arange(5)
    shown = tuple(lay.retrieved(plan, codes(), text, number + 1) for number in range(documents))
    prompts = [Prompt(shown, text) for _ in range(batch)]
    given = condition(prompts)

    def ours() -> None:
        decoder = DocumentDecoder(network, plan, prompts)
        found = torch.empty(batch, 0, dtype=torch.long)
        for step in range(plan.cells):
            found = torch.cat([found, decoder(found, step, given).argmax(1, keepdim=True)], 1)

    start = prompts[0].passage(plan)
    sequence = lay.stack(plan, [lay.join([start, lay.cells(plan, codes(), np.arange(plan.cells))])] * batch)
    inputs = [sequence[name] for name in ("tokens", "places", "following", "documents")]
    lengths = np.linspace(len(start), len(start) + plan.cells - 1, 5).round().astype(int)

    def whole(length: int) -> Tensor:
        return network.logits(network(*(part[:, :length] for part in inputs))[:, -1])

    took = [seconds(partial(whole, int(length)), repeats, "cpu") for length in lengths]
    theirs = float(np.interp(np.arange(len(start), len(start) + plan.cells), lengths, took).sum())
    kept_seconds = seconds(ours, repeats, "cpu")
    return {
        "batch": batch,
        "prompt": len(start),
        "seconds a picture, kept": kept_seconds / batch,
        "seconds a picture, run again": theirs / batch,
        "ratio": theirs / kept_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", action="store_true", help="18 blocks of width 768, 16,384 symbols")
    parser.add_argument("--documents", type=int, help="RA-CM3 in place of RARM, after so many documents")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--int8", action="store_true", help="weights of 8 bits for kept keys and values")
    parser.add_argument("--whole", action="store_true", help="run every prefix")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.documents is not None:
        with torch.no_grad():
            for batch in arguments.batches:
                print(json.dumps(measure_documents(batch, arguments.documents, arguments.repeats)), flush=True)
        return
    network = RARMTransformer(**({} if arguments.released else MIDDLE)).to(arguments.device).eval()
    count = sum(p.numel() for p in network.parameters())
    print(f"{count:,} parameters, {network.config['positions']} tokens, {torch.get_num_threads()} threads", flush=True)
    with torch.no_grad():
        for batch in arguments.batches:
            how = {"whole": arguments.whole, "repeats": arguments.repeats, "device": arguments.device}
            how["int8"] = arguments.int8
            print(json.dumps(measure(network, batch, **how)), flush=True)


if __name__ == "__main__":
    main()
