"""How long an edit by instruction takes after loading: 64 px, two scales of guidance, so three passes a step.

    python benchmarks/instruct_speed.py                                  # random weights of tiny-instruct's size
    python benchmarks/instruct_speed.py --model runs/tiny-instruct/model --repeats 20

Weights do not change how long it takes. `--no-references` leaves the reference out; the goal is 2 s for one picture on
two cores. Alone on the machine, with OMP_NUM_THREADS unset or 2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bowerbird.core.types import Neighbors
from bowerbird.diffusion import schedulers
from bowerbird.models import clip_text
from bowerbird.models.unet import build_unet, widen
from bowerbird.systems import generation, loading
from bowerbird.systems.components import load_autoencoder
from bowerbird.systems.instruct.config import InstructConfig
from bowerbird.systems.instruct.network import ReferenceInput
from bowerbird.systems.instruct.pipeline import InstructPipeline
from bowerbird.training.recipes import recipe

GOAL = 2.0
SAID = "make it a wolf"


def random_model(*, references: bool) -> InstructPipeline:
    """A model of the sizes of `tiny-instruct` over the bundled autoencoder, its weights random."""
    config = recipe("tiny-instruct").system
    assert isinstance(config, InstructConfig)
    torch.manual_seed(0)
    autoencoder = load_autoencoder(config.autoencoder)
    latents = autoencoder.config.latent_channels
    tokenizer = clip_text.build_tokenizer(clip_text.learn_pairs([SAID], config.text.vocabulary), config.text.positions)
    sizes = {"in_channels": latents, "cross_attention_dim": config.text.width}
    unet = widen(build_unet(config.unet.model_copy(update=sizes), None), 2 * latents, None)
    text = clip_text.build_text_model(config.text, tokenizer)
    own = {"prediction_type": config.prediction_type, "steps_offset": 1}
    scheduler = schedulers.scheduler("dpmsolver++", config={**schedulers.BETAS, **own})
    pipe = InstructPipeline(autoencoder, text.eval(), tokenizer, unet.eval(), scheduler)
    if references:
        pipe.references = ReferenceInput(latents, unet.conv_in.out_channels).eval()
    return pipe


def measure(pipe: InstructPipeline, count: int, steps: int, repeats: int) -> list[float]:
    """Seconds of each of `repeats` edits of `count` pictures, after one that is not counted."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))] * count
    hits = Neighbors.empty([SAID] * count)
    if pipe.references is not None:
        hits = Neighbors.from_images([SAID], sources[:1], ["wolf"]).repeat(count)
    settings = replace(generation.default_settings(pipe), steps=steps)
    spent = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        generation.generate(pipe, hits, settings, sources=sources)
        spent.append(time.perf_counter() - started)
    return spent[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--no-references", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    if arguments.model is None:
        pipe = random_model(references=not arguments.no_references)
    else:
        opened = loading.load_pipeline(arguments.model)
        assert isinstance(opened, InstructPipeline), "not a model that edits by instruction"
        pipe = opened
    numbers = sum(each.numel() for each in pipe.unet.parameters())
    edge = pipe.capabilities.sizes[-1]
    print(f"{numbers / 1e6:.1f} M parameters, {edge} px, {arguments.steps} steps, {torch.get_num_threads()} threads")
    for count in arguments.counts:
        spent = measure(pipe, count, arguments.steps, arguments.repeats)
        middle = statistics.median(spent)
        held = f"; goal {GOAL:g} s: {'held' if middle <= GOAL else 'missed'}" if count == 1 else ""
        print(f"{count} pictures: median {middle:.2f} s, {min(spent):.2f} to {max(spent):.2f}{held}", flush=True)


if __name__ == "__main__":
    main()
