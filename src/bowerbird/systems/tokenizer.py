"""The tokenizer that a training on tokens stands on: the one it names, or one fitted to its pictures."""

from __future__ import annotations

from typing import Any

from bowerbird.core import files, tensors
from bowerbird.data.pictures import Pictures
from bowerbird.models.vq import fit_tokenizer
from bowerbird.systems.components import load_autoencoder, load_tokenizer, weights_hash
from bowerbird.systems.latent_cache import fit_size
from bowerbird.systems.objective import RunContext

BASE = "tiny-autoencoder"
"""What a tokenizer is fitted to where the settings name none."""


def open_tokenizer(name: str | None, symbols: int, pictures: Pictures, run: RunContext, size: int | None = None) -> Any:
    """The tokenizer called `name`; without one, the bundled autoencoder with a codebook of `symbols` fitted to the
    pictures, brought to the edge `size` where it is given."""
    if name is not None:
        return load_tokenizer(name)
    kept = run.out / "tokenizer"
    if not kept.is_dir():  # fitted once a run: another fit would be other tokens
        with files.atomic_directory(kept) as folder:
            pixels = pictures.pixels
            if size is not None and pixels.shape[-1] != size:
                pixels = tensors.to_uint8(fit_size(pixels, size))
            model = fit_tokenizer(load_autoencoder(BASE), pixels, symbols, run.seed)
            model.half().save_pretrained(folder)
    return load_tokenizer(str(kept))


def tokenizer_fingerprint(name: str | None) -> str:
    """Of the tokenizer called `name`, or of what one is fitted to."""
    return weights_hash(load_autoencoder(BASE) if name is None else load_tokenizer(name))
