"""Seconds a picture of `tiny-reimagen`, beside what a plain implementation of the paper would take, in one process.

Ours encodes the neighbors once a picture and runs the two passes of guidance as one batch. The peer encodes them at
every step and runs the passes one after the other. The ceiling is diffusers' `UNet2DConditionModel` on the same grids
and widths, with as many passes: networks that look at no neighbor's pixels.

    python benchmarks/reimagen_speed.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from bowerbird import Guidance, ReImagenPipeline
from bowerbird.core import seeds
from bowerbird.core.types import Neighbors
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps, Tokens
from bowerbird.systems.reimagen import pipeline


def seconds(call: Callable[[], object], times: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


class Plain(ReImagenPipeline):
    """The same network, its neighbors encoded at every step and the predictions of a step made one by one."""

    encode: Callable[[], Conditioning]

    def condition(self, *given: Any, **options: Any) -> Conditioning:
        self.encode = partial(super().condition, *given, **options)
        return self.encode()

    def predict(
        self, sample: torch.Tensor, timestep: torch.Tensor, condition: Conditioning, *, stage: int = 1
    ) -> torch.Tensor:
        fresh, near, text = self.encode().neighbors, condition.neighbors, condition.text
        assert isinstance(fresh, FeatureMaps)
        assert isinstance(near, FeatureMaps)
        assert text is not None
        rows = []
        for i in range(len(sample)):
            one = slice(i, i + 1)
            image, level = (None if part is None else part[one] for part in (condition.image, condition.level))
            words = Tokens(text.keys[one], text.weights[one])
            alone = Conditioning(FeatureMaps(fresh.maps, near.weights[one]), text=words, image=image, level=level)
            rows.append(super().predict(sample[one], timestep[one] if timestep.ndim else timestep, alone, stage=stage))
        return torch.cat(rows)


def ceiling(pipe: ReImagenPipeline, steps: int) -> Callable[[], object]:
    """Two passes a step, in one batch, of diffusers U-Nets with each stage's grid and widths and no neighbors."""
    nets = []
    for network in pipe.stages:
        config = network.config
        channels = 3 * config.patch_size**2
        kinds = [("CrossAttn" if attends else "") for attends in config.attention]
        net = UNet2DConditionModel(
            sample_size=config.sample_size // config.patch_size,
            in_channels=channels,
            out_channels=channels,
            norm_num_groups=16,
            block_out_channels=config.block_out_channels,
            layers_per_block=1,
            cross_attention_dim=config.text_dim,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            attention_head_dim=[max(1, width // config.head_channels) for width in config.block_out_channels],
        )
        nets.append(
            (
                net.eval(),
                torch.randn(2, channels, net.config.sample_size, net.config.sample_size),
                torch.randn(2, 25, config.text_dim),
            )
        )

    @torch.no_grad()
    def run() -> None:
        for net, x, text in nets:
            for t in range(steps):
                net(x, t, encoder_hidden_states=text)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-reimagen")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    pipe = ReImagenPipeline.from_pretrained(arguments.model)
    parts = {
        name: getattr(pipe, name) for name in ("text_encoder", "unet", "scheduler", "tokenizer", *pipeline.STAGES[1:])
    }
    plain = Plain(**parts)
    for each in (pipe, plain):
        each.set_progress_bar_config(disable=True)
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    hits = Neighbors.from_images(["a thing"], pictures, ["a thing", "a thing"])

    def generate(by: ReImagenPipeline) -> Callable[[], object]:
        return lambda: by(
            neighbors=hits,
            num_inference_steps=arguments.steps,
            guidance=Guidance(),
            generator=seeds.picture_generators(0, 1),
        )

    ours, theirs, bound = (
        seconds(call, arguments.times) for call in (generate(pipe), generate(plain), ceiling(pipe, arguments.steps))
    )
    print(f"{pipe.sizes[-1]} px, {arguments.steps} steps a stage, k = 2, float32, {torch.get_num_threads()} threads")
    print(f"ours {ours:.2f} s   plain {theirs:.2f} s   ratio {ours / theirs:.2f}")
    print(f"ours {ours:.2f} s   diffusers U-Nets without neighbors {bound:.2f} s   ratio {ours / bound:.2f}")


if __name__ == "__main__":
    main()
