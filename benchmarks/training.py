"""Pictures a second while training tiny-rdm: our loop against plain loops as diffusers' example scripts write them, on
the same network and pictures.

Three plain loops: as the scripts start without options (float32, the autoencoder run on every batch), the same under
bfloat16, and one that was given our cached latents and embeddings, so that only the loop itself differs. Then where
one of our steps goes, and how much of what the machine's matrix multiplication reaches it uses.

    python benchmarks/training.py
    python benchmarks/training.py --device cuda --compile
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from bowerbird.core import tensors
from bowerbird.diffusion import conditioning, schedulers
from bowerbird.diffusion.conditions import Tokens
from bowerbird.systems.rdm.objective import RDMObjective
from bowerbird.training import recipes
from bowerbird.training.loop import train
from bowerbird.training.recipe import Recipe, build_objective, read_pictures


class Drawn(Dataset[dict[str, Any]]):
    """Pictures, or their latents, with the embeddings of their nearest neighbors: what a person would hand a
    DataLoader."""

    def __init__(self, objective: RDMObjective, pictures: Any, cached: bool) -> None:
        self.cache, self.pictures, self.cached = objective.cache, pictures, cached

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> dict[str, Any]:
        near = self.cache.tables[0][i][:4].clamp(min=0)
        picture = (
            self.cache.latents[0, i].float() if self.cached else tensors.to_float(self.pictures.pixels[i : i + 1])[0]
        )
        return {"picture": picture, "embeddings": self.cache.embeddings[0, near].float()}


def plain(
    objective: RDMObjective, pictures: Any, batch_size: int, precision: str, cached: bool, device: str
) -> Iterator[None]:
    """A loop as diffusers' examples have it; a step at each turn."""
    accelerator = Accelerator(cpu=device == "cpu")
    objective.unet.set_attn_processor(AttnProcessor2_0())  # as diffusers makes it, not as we train it
    unet, vae, scheduler = objective.unet, objective.frozen[0].to(device), schedulers.scheduler("ddim")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2)
    loader = DataLoader(Drawn(objective, pictures, cached), batch_size=batch_size, shuffle=True, drop_last=True)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    ema = EMAModel(unet.parameters(), decay=0.999)
    ema.to(accelerator.device)
    while True:
        for batch in loader:
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"):
                if cached:
                    clean = batch["picture"]
                else:
                    with torch.no_grad():
                        clean = vae.encode(batch["picture"]).latent_dist.sample() * vae.config.scaling_factor
                eps, at = torch.randn_like(clean), torch.randint(1000, (len(clean),), device=clean.device)
                tokens = conditioning.neighbor_tokens(
                    batch["embeddings"], torch.ones(batch["embeddings"].shape[:2], device=clean.device), normalize=True
                )
                assert isinstance(tokens.neighbors, Tokens)
                noised = scheduler.add_noise(clean, eps, at)
                predicted = unet(noised, at, encoder_hidden_states=tokens.neighbors.keys).sample
                loss = torch.nn.functional.mse_loss(predicted.float(), scheduler.get_velocity(clean, eps, at).float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(unet.parameters())
            loss.item()
            yield


def ours(objective: RDMObjective, recipe: Recipe, device: str, out: Path) -> Iterator[None]:
    """Our loop, saving nothing."""
    settings = recipe.train.model_copy(update={"save_every": 10**9, "sheet_every": 10**9, "keep_steps": ()})
    for _ in train(objective, settings, out, device=device):
        yield


def rate(loops: dict[str, Iterator[None]], batch_size: int, steps: int, rounds: int) -> dict[str, float]:
    """Pictures a second of each loop, in turns of `steps`, so that a busy machine slows all alike; the median of the
    rounds."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            started = time.perf_counter()
            for _ in range(steps):
                next(loop)
            if turn:
                found[name].append(batch_size * steps / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in found.items()}


def ceiling(device: str) -> float:
    """Floating point operations a second of a large bfloat16 matrix product."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * n**3 / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--caches", type=Path, default=Path("runs/caches"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also our loop with the compiled network")
    parser.add_argument("--profile", action="store_true", help="where a step goes, by operation")
    arguments = parser.parse_args()
    recipe = recipes.recipe("tiny-rdm")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": arguments.batch})})
    pictures, device = read_pictures(recipe, arguments.data), arguments.device
    arguments.caches.mkdir(parents=True, exist_ok=True)

    def objective() -> RDMObjective:
        built = build_objective(recipe, pictures, arguments.caches, device=device, caches=arguments.caches)
        assert isinstance(built, RDMObjective)
        return built.to(device)

    with TemporaryDirectory() as folder:
        loops = {"ours": ours(objective(), recipe, device, Path(folder))}
        if arguments.compile:
            compiled = objective()
            compiled.unet.compile()
            loops["ours, compiled"] = ours(compiled, recipe, device, Path(folder) / "compiled")
        for name, precision, cached in (
            ("plain, float32", "no", False),
            ("plain, bfloat16", "bf16", False),
            ("plain, bfloat16, cached", "bf16", True),
        ):
            loops[name] = plain(objective(), pictures, arguments.batch, precision, cached, device)
        found = rate(loops, arguments.batch, arguments.steps, arguments.rounds)
    probe = objective()
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in probe.batch(0, arguments.batch).items()}
    with FlopCounterMode(display=False) as counter, torch.autocast(device, torch.bfloat16):
        probe(batch).backward()
    most = ceiling(device)
    print(f"batch {arguments.batch}, {device}, {torch.get_num_threads()} threads")
    print(
        f"a step is {counter.get_total_flops() / 1e9:.0f} GFLOP, a bfloat16 matrix product reaches {most / 1e9:.0f}"
        " GFLOP/s"
    )
    for name, value in found.items():
        share = counter.get_total_flops() / arguments.batch * value / most
        print(
            f"{name:26} {value:8.1f} pictures/s   {found['ours'] / value:5.2f} of it is ours   {100 * share:4.1f}% of"
            " the matrix product"
        )
    if arguments.profile:
        from torch.profiler import ProfilerActivity, profile

        with TemporaryDirectory() as folder:
            loop = ours(objective(), recipe, device, Path(folder))
            for _ in range(3):
                next(loop)
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                for _ in range(3):
                    next(loop)
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()
