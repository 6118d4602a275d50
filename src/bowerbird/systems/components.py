"""Frozen networks that a training stands on, by name: autoencoder, tokenizer, and a trained pipeline to go on from.

Knows files; knows no system and no recipe.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bowerbird.core import cache
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.text import printable, with_article
from bowerbird.models import network_files
from bowerbird.models.weights import bundled
from bowerbird.systems import model_index


def load_autoencoder(name: str) -> Any:
    """The frozen autoencoder called `name`: bundled, a directory in diffusers layout, or `pixels-2` (no autoencoder: 2
    x 2 pixels a place). Raises: BowerbirdError when it is not there."""
    from diffusers import AutoencoderKL

    if name.startswith("pixels-") and name[7:].isdigit() and int(name[7:]) in (1, 2, 4, 8):
        from bowerbird.models.pixels import PixelGrid

        return PixelGrid(int(name[7:])).eval()
    path = bundled(name) or Path(name)
    if not (path / "config.json").is_file():
        raise BowerbirdError(
            f"autoencoder {name!r}: not bundled and not a directory with a config.json; train one: bowerbird train"
            " tiny-autoencoder"
        )
    return _frozen(f"autoencoder {name!r}", AutoencoderKL, path)


def load_tokenizer(name: str) -> Any:
    """The frozen tokenizer called `name`, a directory in diffusers layout. Raises: BowerbirdError when it is not
    there."""
    from diffusers import VQModel

    path = bundled(name) or Path(name)
    if not (path / "config.json").is_file():
        raise BowerbirdError(
            f"tokenizer {name!r}: not bundled and not a directory with a config.json; train one: bowerbird train"
            " vq-drawings"
        )
    kind = network_files.check_config(path / "config.json").get("_class_name")
    if kind != "VQModel":
        raise BowerbirdError(
            f"tokenizer {name!r} is {with_article(printable(str(kind))[:60])}, which makes no tokens; give a VQModel,"
            " or null to fit one to the pictures"
        )
    return _frozen(f"tokenizer {name!r}", VQModel, path)


def _frozen(what: str, kind: Any, path: Path) -> Any:
    """A network in a directory that anybody may have made. Raises: BowerbirdError when it cannot be opened."""
    import torch

    with opening(what, "fetch it or train it again"):
        return network_files.load_network(kind, path, dtype=torch.float32).eval().requires_grad_(False)


def load_base(name: str, pipeline: Any, train_first: str) -> Any:
    """The trained pipeline called `name`, which is of the class `pipeline`.

    Raises: BowerbirdError when it is not there, which says what to `train_first`, or is of another class.
    """
    folder = bundled(name) or Path(name)
    if not (folder / "model_index.json").is_file():
        raise BowerbirdError(
            f"base {name!r}: no trained pipeline there; train one first: bowerbird train {train_first}, or name"
            " another: --set system.base=…"
        )
    found = model_index.read_index(folder)["_class_name"]
    if found != pipeline.__name__:
        raise BowerbirdError(f"base {name!r} is a {found}; name a {pipeline.__name__}: --set system.base=…")
    return pipeline.from_pretrained(name)


NOISE = ("prediction_type", "beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "trained_betas")
SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


def base_parts(unet: Any, text_encoder: Any, autoencoder: Any, scheduler: Any, second: Any = None) -> dict[str, str]:
    """The hashes of a Stable Diffusion's networks and of the settings that change what they mean, each by what it is
    called where it has changed; `second`: the other text encoder of SDXL."""
    parts = {"U-Net": unet, "text encoder": text_encoder, "autoencoder": autoencoder, "second text encoder": second}
    settings = {"scheduler": (scheduler, NOISE), "scale of the autoencoder": (autoencoder, SCALE)}
    said = {name: repr([each.config.get(key) for key in keys]) for name, (each, keys) in settings.items()}
    return {
        **{f"{name} of the base": weights_hash(each) for name, each in parts.items() if each is not None},
        **{f"{name} of the base": cache.key(text)[:16] for name, text in said.items()},
    }


def weights_hash(module: Any) -> str:
    """16 hex digits of a module's weights."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
