"""Seconds a step and a picture at the layout of the released 256 px model (400,920,579 parameters), ours against the
reference way, at equal weights.

The reference way: the published network written plainly (`tests/parity/published.py`: explicit attention), float32,
100 DDIM steps, both passes of guidance in one batch at every step. Ours: the same weights as `bowerbird import
compvis` lays them out, in bfloat16 with fused attention, and as many steps, and as many of them guided, as
`benchmarks/steps.py` found to be as good. Weights are random: speed does not depend on them.

    python benchmarks/sampling.py            # a step of each, and what follows for a picture
    python benchmarks/sampling.py --whole    # both whole pictures, some ten minutes on two cores
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel, VQModel

sys.path.insert(0, str(Path(__file__).parent.parent))
from bowerbird import Neighbors, RDMPipeline
from bowerbird.core import tensors
from bowerbird.core.torch_file import Stored
from bowerbird.diffusion import schedulers
from bowerbird.systems.rdm.interop import compvis_unet, compvis_vae
from tests.parity import published


def renamed(module: torch.nn.Module, layout: Any, rename: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The sizes of a published network, and its weights under diffusers' names."""
    state = module.state_dict()
    sizes = layout({k: Stored(Path(), 0, "float32", tuple(v.shape), v.stride()) for k, v in state.items()})
    return sizes, {rename(name, sizes): tensor for name, tensor in state.items()}


def ours(reference: published.UNet, stage: published.FirstStage, dtype: torch.dtype) -> RDMPipeline:
    """The published networks as an import makes them."""
    sizes, state = renamed(reference, compvis_unet.layout, compvis_unet.diffusers_name)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes.config(64, tuple(width // 32 for width in sizes.channels)))
    unet.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    first, state = renamed(stage, compvis_vae.layout, compvis_vae.diffusers_name)
    with torch.device("meta"):
        vae = VQModel(**first.config(256, 1.0))
    shapes = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    vae.load_state_dict({name: tensor.reshape(shapes[name]).to(dtype) for name, tensor in state.items()}, assign=True)
    scheduler = schedulers.scheduler("dpmsolver++", prediction_type="epsilon")
    return RDMPipeline(
        unet=unet.eval(), vae=vae.eval(), scheduler=scheduler, normalize_embeddings=False, trained_null=False
    )


def seconds(calls: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """The median time of each, taken in turn so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:  # the first only warms up
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="ours, of DPM-Solver++")
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        help="shares of the noise between which ours is guided; everywhere when left out",
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--whole", action="store_true", help="generate whole pictures, too")
    parser.add_argument("--quantized", action="store_true", help="also int8 weights of the linear layers, by torchao")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    reference, stage = (
        published.UNet(192, (1, 2, 3, 5), (8, 4, 2), 512, 3).eval().to(device),
        published.FirstStage(128, (1, 2, 4), 3, 8192).eval().to(device),
    )
    plain, pipe = ours(reference, stage, torch.float32), ours(reference, stage, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    n = arguments.batch
    x, t, context = (
        torch.randn(2 * n, 3, 64, 64, device=device),
        torch.full((2 * n,), 500, device=device),
        torch.randn(2 * n, 4, 512, device=device),
    )
    z = torch.randn(n, 3, 64, 64, device=device)

    def run(call: Callable[[], object]) -> Callable[[], object]:
        def timed() -> None:
            with torch.inference_mode():
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()

        return timed

    half = torch.bfloat16
    calls = {
        "reference, guided": run(lambda: reference(x, t, context)),
        "ours float32, guided": run(lambda: plain.unet(x, t, encoder_hidden_states=context)),
        "ours, guided": run(lambda: pipe.unet(x.to(half), t, encoder_hidden_states=context.to(half))),
        "ours, not guided": run(lambda: pipe.unet(x[:n].to(half), t[:n], encoder_hidden_states=context[:n].to(half))),
        "reference, decoding": run(lambda: stage.decode(z)),
        "ours, decoding": run(lambda: pipe.decode_latents(z)),
    }
    if arguments.quantized:
        calls |= {name: run(call) for name, call in quantized(pipe, x, t, context).items()}
    with torch.inference_mode():
        apart = (plain.unet(x, t, encoder_hidden_states=context).sample - reference(x, t, context)).abs().max()
    print(
        f"{sum(p.numel() for p in reference.parameters()):,} parameters, batch {n}, {torch.get_num_threads()} threads;"
        f" float32 outputs apart by {apart:.1e}"
    )
    took = seconds(calls, arguments.times)
    for name, value in took.items():
        print(f"{name:28} {value:8.3f} s")
    print(f"a step: {took['reference, guided'] / took['ours, guided']:.2f} times the reference (goal 2.3)")
    total = schedulers.TIMESTEPS
    pipe.scheduler.set_timesteps(arguments.steps)
    low, high = arguments.interval or (0.0, 1.0)
    guided = sum(low * total <= float(at) <= high * total for at in pipe.scheduler.timesteps)
    theirs = 100 * took["reference, guided"] + took["reference, decoding"]
    mine = (
        guided * took["ours, guided"] + (arguments.steps - guided) * took["ours, not guided"] + took["ours, decoding"]
    )
    print(
        f"a picture: reference 100 steps {theirs:.1f} s; ours {arguments.steps} steps, {guided} guided, {mine:.1f} s;"
        f" {theirs / mine:.1f} times (goal 10)"
    )
    if arguments.whole:
        whole(reference, stage, pipe, arguments, device)


def quantized(
    pipe: RDMPipeline, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """The same network with int8 in its linear layers, by torchao, which must be installed."""
    import copy

    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    half = torch.bfloat16
    found: dict[str, Callable[[], object]] = {}
    for name, config in (
        ("int8 weights", Int8WeightOnlyConfig()),
        ("int8 weights and activations", Int8DynamicActivationInt8WeightConfig()),
    ):
        changed = copy.deepcopy(pipe.unet)
        quantize_(changed, config)
        found[name] = partial(changed, x.to(half), t, encoder_hidden_states=context.to(half))
    return found


def whole(
    reference: published.UNet,
    stage: published.FirstStage,
    pipe: RDMPipeline,
    arguments: argparse.Namespace,
    device: torch.device,
) -> None:
    """Both ways from noise to pictures."""
    n = arguments.batch
    embeddings, noise = torch.randn(n, 4, 512), torch.randn(n, 3, 64, 64)

    def both(x: torch.Tensor, t: torch.Tensor, null: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        every = (torch.cat([x, x]), torch.cat([t, t]), torch.cat([null, asked]))
        return reference(*(each.to(device) for each in every)).cpu()

    started = time.perf_counter()
    with torch.inference_mode():
        latents = published.ddim(both, noise, 100, 2.0, embeddings)
        tensors.to_pil(stage.decode(latents.to(device)).cpu())
    theirs = time.perf_counter() - started
    import numpy as np

    pipe = pipe.to(device)
    hits = Neighbors(
        ids=np.zeros((n, 4), np.int64),
        scores=np.ones((n, 4), np.float32),
        embeddings=embeddings.numpy(),
        captions=(("",) * 4,) * n,
    )
    started = time.perf_counter()
    interval = None if arguments.interval is None else tuple(arguments.interval)
    pipe(neighbors=hits, num_inference_steps=arguments.steps, guidance_scale=2.0, guidance_interval=interval)
    mine = time.perf_counter() - started
    print(f"whole, measured: reference {theirs:.1f} s, ours {mine:.1f} s, {theirs / mine:.1f} times")


if __name__ == "__main__":
    main()
