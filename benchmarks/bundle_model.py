"""Put a trained Re-Imagen into the package: weights at 8 bits, checked against the full ones.

    python benchmarks/bundle_model.py runs/re/queue/reimagen-drawings-128 reimagen-drawings \\
        --checkpoints runs/re/queue/reimagen-drawings-{32,64,128}/checkpoint.safetensors \\
        --data emoji.parquet icons.parquet

The checkpoints, one a stage, hold the averaged weights in full precision; without them the run's own are taken.
Pictures of both are compared, from the starter collection, and ones further apart than `LEAST` decibels are an error.
`--data`: the drawings by which the model knows what it was trained on (`training_pictures.py`). What is then to be
changed by hand: `DESCRIPTIONS` in `models/weights.py`, `CARDS` in `models/cards.py`, `docs/models.md`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.quiet import quiet_libraries
from bowerbird.core.types import Neighbors
from bowerbird.data import sources
from bowerbird.models import quantized
from bowerbird.models.weights import FOLDER
from bowerbird.systems import generation
from bowerbird.systems.reimagen.pipeline import STAGES, ReImagenPipeline

LEAST = 40.0
"""Decibels that the worst picture keeps: an error of 2.5 of 255, which nobody sees."""
MOST_MEGABYTES = 90
"""Of all that is bundled."""
COUNT = 12


def main() -> None:
    """Compare, write, and say how much the package holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="a run's folder, or its model's")
    parser.add_argument("name", help="what it is called in the package")
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=(), help="one a stage, the first stage first")
    parser.add_argument("--data", nargs="*", type=Path, default=())
    arguments = parser.parse_args()
    quiet_libraries()
    model = arguments.run / "model" if (arguments.run / "model").is_dir() else arguments.run
    full = _full(ReImagenPipeline.from_pretrained(str(model)), arguments.checkpoints)
    folder = FOLDER / arguments.name
    with files.atomic_directory(folder) as made:
        full.save_pretrained(made)
        for extra in made.rglob("README.md"):
            extra.unlink()
        _quantize(full, made)
    apart = _compare(full, ReImagenPipeline.from_pretrained(arguments.name))
    print(f"8 bits against full precision, {COUNT} pictures of {full.sizes[-1]} px: {min(apart):.1f} dB at least")
    if min(apart) < LEAST:
        raise BowerbirdError(f"8 bits cost too much: {min(apart):.1f} dB, under {LEAST:.0f}")
    if arguments.data:
        script = Path(__file__).with_name("training_pictures.py")
        wanted = [*map(str, arguments.data), "--models", arguments.name, "--write"]
        subprocess.run([sys.executable, str(script), *wanted], check=True)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    every = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 1e6
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder}: {own:.2f} MB; all that is bundled: {every:.2f} of at most {MOST_MEGABYTES} MB")
    if every > MOST_MEGABYTES:
        raise BowerbirdError(f"the bundled weights are {every:.1f} MB together, over {MOST_MEGABYTES}")


def _quantize(pipe: Any, folder: Path) -> None:
    """Each network of the model in `folder` at 8 bits, in place of its own files."""
    for part, network in pipe.components.items():
        if isinstance(network, nn.Module):
            shutil.rmtree(folder / part)
            (folder / part).mkdir()
            quantized.save(network, folder / part)


def _full(pipe: Any, checkpoints: Sequence[Path]) -> Any:
    """`pipe` with the averaged weights of each stage, and the text tower of the first, as they were trained."""
    for stage, path in zip(STAGES, checkpoints, strict=False):
        held = files.load_tensors(path)
        for part, network in (("unet", getattr(pipe, stage)), ("tower", pipe.text_encoder)):
            own = {key.removeprefix(f"ema.{part}."): v for key, v in held.items() if key.startswith(f"ema.{part}.")}
            if own:
                _load(network, own)
    return pipe


def _load(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Raises: BowerbirdError for weights that are not those that were exported: of another run, or another step."""
    for key, kept in network.state_dict().items():
        if not torch.equal(weights[key].half(), kept.half()):
            raise BowerbirdError(f"{key}: the checkpoint is not of these weights; give the run's own, as it ended")
    network.load_state_dict(weights)


def _compare(first: Any, second: Any) -> list[float]:
    """Decibels between the two pipelines' pictures of things of the starter collection, one neighbor each."""
    from bowerbird.core.images import decode

    items = [item for item in sources.read("starter") if item.metadata["style"] == "fluent"][:: 100 // COUNT][:COUNT]
    found = []
    for number, item in enumerate(items):
        assert item.data is not None
        hits = Neighbors.from_images([item.caption], [decode(item.data, item.name)], [item.caption])
        settings = generation.Settings(seed=number, steps=8)
        made = [generation.generate(pipe, hits, settings, batch=1)[0] for pipe in (first, second)]
        a, b = (np.asarray(picture, np.float64) for picture in made)
        found.append(10 * np.log10(255**2 / max(float(np.square(a - b).mean()), 1e-4)))
    return found


if __name__ == "__main__":
    main()
