"""Put a trained model into the package: weights at 8 bits, compared with the full ones.

    python benchmarks/bundle_model.py runs/re/queue/reimagen-drawings-128 reimagen-drawings \\
        --checkpoints runs/re/queue/reimagen-drawings-{32,64,128}/checkpoint.safetensors \\
        --data emoji.parquet icons.parquet
    python benchmarks/bundle_model.py runs/tiny-instruct tiny-instruct --half up_blocks.2

The checkpoints of a Re-Imagen, one a stage, hold the averaged weights in full precision; without them, and of any other
model, the run's own in half precision are taken. What another bundled model has already (`SHARED` in
`models/weights.py`) is left out, and has to be the same.

Pictures or edits of both are compared, from the starter collection, and ones further apart than `LEAST` decibels are
an error; of models of tokens it is bits a token, and `MOST_BITS`. `--data`: the drawings by which a model knows what it
was trained on (`training_pictures.py`). What is to be changed by hand: `DESCRIPTIONS` and `SHARED` in
`models/weights.py`, before; `CARDS` in `models/cards.py` and `docs/models.md`, afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from bowerbird import encoders
from bowerbird.core import files, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.images import decode, square
from bowerbird.core.quiet import quiet_libraries
from bowerbird.core.types import Neighbors
from bowerbird.data import sources
from bowerbird.models import quantized
from bowerbird.models.weights import FOLDER, SHARED
from bowerbird.systems import common, generation, loading
from bowerbird.systems.reimagen.pipeline import STAGES

LEAST = 40.0
"""Decibels that the worst picture keeps: an error of 2.5 of 255, which nobody sees."""
MOST_BITS = 0.02
"""Bits a token that 8 bits may cost."""
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
    parser.add_argument("--half", nargs="*", default=(), help="beginnings of weights' names that stay at 16 bits")
    arguments = parser.parse_args()
    quiet_libraries()
    model = arguments.run / "model" if (arguments.run / "model").is_dir() else arguments.run
    full = _full(loading.load_pipeline(model), arguments.checkpoints)
    folder = FOLDER / arguments.name
    with files.atomic_directory(folder) as made:
        if full.capabilities.takes_references:  # somebody's base, whose files stay what they are
            shutil.copytree(model, made, dirs_exist_ok=True)
        else:
            full.save_pretrained(made)
        for extra in made.rglob("README.md"):
            extra.unlink()
        for extra in model.glob("*.json"):  # how a base generates, what it was shown, what it was trained from
            if not (made / extra.name).exists():
                shutil.copy(extra, made)
        _quantize(full, made, SHARED.get(arguments.name, {}), tuple(arguments.half))
    _check_shared(full, loading.load_pipeline(arguments.name), SHARED.get(arguments.name, {}))
    print(_compare(full, loading.load_pipeline(arguments.name)))
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


def _quantize(pipe: Any, folder: Path, shared: dict[str, str], half: tuple[str, ...]) -> None:
    """Each network of the model in `folder` at 8 bits, in place of its own files; what is shared goes, and an
    autoencoder of its own stays, as all that is generated passes through it."""
    for part in shared:
        shutil.rmtree(folder / part)
    for part, network in pipe.components.items():
        if isinstance(network, nn.Module) and part not in shared and part != "vae":
            shutil.rmtree(folder / part)
            (folder / part).mkdir()
            quantized.save(network, folder / part, half)


def _check_shared(full: Any, small: Any, shared: dict[str, str]) -> None:
    """Raises: BowerbirdError where what another model has already is not what this one was trained with."""
    for part, place in shared.items():
        ours, theirs = getattr(full, part), getattr(small, part)
        if isinstance(ours, nn.Module):
            same = common.fingerprint([ours.half()]) == common.fingerprint([theirs.half()])
            ours.float(), theirs.float()
        else:
            same = ours.get_vocab() == theirs.get_vocab()
        if not same:
            raise BowerbirdError(f"{part} is not that of {place}; take it out of SHARED")


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


def _compare(full: Any, small: Any) -> str:
    """What 8 bits cost, as a line, on things of the starter collection. Raises: BowerbirdError where it is too much."""
    items = [item for item in sources.read("starter") if item.metadata["style"] == "fluent"][:: 100 // COUNT][:COUNT]
    shown = [decode(item.data or b"", item.name) for item in items]
    edge, names = max(full.capabilities.sizes), [item.caption for item in items]
    if full.capabilities.likelihood:
        x = tensors.to_float(tensors.stack([square(picture, edge) for picture in shown]))
        said = Neighbors.empty(names) if full.capabilities.captions else _embedded(full, names, shown)
        bits = [float(pipe.bits_per_token(x, said).mean()) for pipe in (full, small)]
        if bits[1] - bits[0] > MOST_BITS:
            raise BowerbirdError(f"8 bits cost too much: {bits[1]:.3f} bits a token, {bits[0]:.3f} in full precision")
        return f"8 bits against full precision, {COUNT} pictures: {bits[1]:.3f} and {bits[0]:.3f} bits a token"
    apart = []
    for number, (picture, name) in enumerate(zip(shown, names, strict=True)):
        settings = generation.default_settings(full)
        settings = replace(settings, seed=number, steps=8, change_threshold=0.0)
        source = None
        if full.capabilities.takes_references:
            hits = Neighbors.empty([f"a {name}"])
        elif full.capabilities.instructs:
            hits, source = Neighbors.empty(["make it blue"]), [picture]
        elif full.capabilities.needs_images:
            hits = Neighbors.from_images([name], [picture], [name])
        else:
            hits = _embedded(full, [name], [picture])
        made = [generation.generate(pipe, hits, settings, sources=source, batch=1)[0] for pipe in (full, small)]
        apart.append(_decibels(*made))
    if min(apart) < LEAST:
        raise BowerbirdError(f"8 bits cost too much: {min(apart):.1f} dB, under {LEAST:.0f}")
    return f"8 bits against full precision, {COUNT} pictures of {edge} px: {min(apart):.1f} dB at least"


def _embedded(pipe: Any, names: Sequence[str], pictures: Sequence[Image.Image]) -> Neighbors:
    """One neighbor for each of the names, its picture's embedding."""
    encoder = encoders.load_recorded(pipe.config.encoder_name, pipe.config.encoder_fingerprint)
    return Neighbors.from_embeddings(encoder.embed_images(list(pictures))[:, None], [[name] for name in names])


def _decibels(first: Image.Image, second: Image.Image) -> float:
    a, b = (np.asarray(picture, np.float64) for picture in (first, second))
    return float(10 * np.log10(255**2 / max(float(np.square(a - b).mean()), 1e-4)))


if __name__ == "__main__":
    main()
