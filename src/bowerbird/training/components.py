"""Frozen networks that a training stands on, by name, and the caches made with them, kept beside the run.

Knows files and systems; knows no recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.models.weights import bundled
from bowerbird.systems.knn.edit_data import EditCache, EditSettings, build_edits
from bowerbird.systems.latent_cache import CacheSettings, LatentCache, build_cache

if TYPE_CHECKING:
    from torch import Tensor

    from bowerbird.core.types import Encoder
    from bowerbird.data.pictures import Pictures


def load_base(name: str) -> Any:
    """The pipeline a further stage is added to, frozen. Raises: BowerbirdError when it is not there."""
    from bowerbird.systems.loading import open_pipeline
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline

    if bundled(name) is None and not (Path(name) / "model_index.json").is_file():
        raise BowerbirdError(
            f"base {name!r}: no trained pipeline there; train the stage below first: bowerbird train tiny-reimagen"
        )
    pipe = open_pipeline(name)
    if not isinstance(pipe, ReImagenPipeline):
        raise BowerbirdError(f"base {name!r} is a {type(pipe).__name__}; give a trained stage of Re-Imagen")
    for module in (pipe.text_encoder, *pipe.stages):
        module.eval().requires_grad_(False)
    return pipe


def load_network(name: str, autoencoder: Any, encoder: Encoder) -> Any:
    """The U-Net of the RDM called `name`, which training goes on from.

    Raises: BowerbirdError when it is not there, is no RDM, or generates through another autoencoder or from another
    encoder.
    """
    from bowerbird.systems.loading import open_pipeline
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    if bundled(name) is None and not (Path(name) / "model_index.json").is_file():
        raise BowerbirdError(
            f"base {name!r}: no trained pipeline there; train one: bowerbird train tiny-rdm, or name another: --set"
            " system.base=…"
        )
    pipe = open_pipeline(name)
    if not isinstance(pipe, RDMPipeline) or pipe.scheduler.config.prediction_type != "v_prediction":
        raise BowerbirdError(f"base {name!r} is no RDM that predicts velocities; name one that is: --set system.base=…")
    if pipe.config.encoder_fingerprint != encoder.fingerprint or weights_hash(pipe.vae) != weights_hash(autoencoder):
        raise BowerbirdError(
            f"base {name!r} was trained with encoder {pipe.config.encoder_name!r} and an autoencoder of its own; set"
            " system.encoder and system.autoencoder to those, or name another base"
        )
    return pipe.unet


def load_tokenizer(name: str) -> Any:
    """The frozen tokenizer called `name`, a directory in diffusers layout. Raises: BowerbirdError when it is
    not there."""
    import torch
    from diffusers import VQModel

    path = bundled(name) or Path(name)
    if not (path / "config.json").is_file():
        raise BowerbirdError(
            f"tokenizer {name!r}: no directory with a config.json; train it first: bowerbird train tiny-vq"
        )
    return VQModel.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)


def weights_hash(module: Any) -> str:
    """16 hex digits of a module's weights."""
    return hashlib.sha256(b"".join(p.cpu().numpy().tobytes() for p in module.state_dict().values())).hexdigest()[:16]


def load_autoencoder(name: str) -> Any:
    """The frozen autoencoder called `name`: bundled, a directory in diffusers layout, or `pixels-2` (no autoencoder: 2
    x 2 pixels a place)."""
    import torch
    from diffusers import AutoencoderKL

    if name.startswith("pixels-") and name[7:].isdigit() and int(name[7:]) in (1, 2, 4, 8):
        from bowerbird.models.pixels import PixelGrid

        return PixelGrid(int(name[7:])).eval()
    path = bundled(name) or Path(name)
    if not (path / "config.json").is_file():
        raise BowerbirdError(
            f"autoencoder {name!r}: not bundled and no directory with a config.json; train one: bowerbird train"
            " tiny-autoencoder"
        )
    return AutoencoderKL.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)


def cache_key(settings: CacheSettings, pictures: Pictures, network: Any, encoder: Encoder, seed: int) -> str:
    """A hash of everything a cache is made from: data, settings, and the frozen `network` that encodes the pictures."""
    said = settings.model_dump_json(
        include={"k_stored", "mix", "max_similarity", "exclude_key", "views", "database_share"}
    )
    return hashlib.sha256(
        f"{pictures.fingerprint()} {encoder.fingerprint} {weights_hash(network)} {said} {seed}".encode()
    ).hexdigest()


def load_or_build_cache(
    settings: CacheSettings,
    pictures: Pictures,
    encode: Callable[[Tensor], Tensor],
    encoder: Encoder,
    seed: int,
    path: Path,
    key: str,
) -> LatentCache:
    """The cache from `path` when it was made under the same `key`; else made and written there."""
    import torch

    t = _read(path, key)
    if t is not None:
        tables = tuple(t[f"table{i}"] for i in range(len(settings.mix)))
        return LatentCache(t["latents"], t["embeddings"], tables, t["nearest"], t["ids"].numpy())
    cache = build_cache(settings, pictures, pictures.ids, encode, encoder, seed)
    stored = {
        "latents": cache.latents,
        "embeddings": cache.embeddings,
        "ids": torch.from_numpy(cache.ids),
        "nearest": cache.nearest,
    }
    files.save_tensors(path, stored | {f"table{i}": t for i, t in enumerate(cache.tables)}, {"key": key})
    return cache


def cached_edits(
    settings: EditSettings,
    draws: CacheSettings,
    cache: LatentCache,
    pictures: Pictures,
    autoencoder: Any,
    encoder: Encoder,
    seed: int,
    path: Path,
    cache_key: str,
    device: str,
) -> EditCache:
    """The edits from `path` when they were made with the same settings from the cache of `cache_key`; else made and
    written there."""
    said = settings.model_dump_json(exclude={"share"})  # how often they are drawn does not change them
    key = hashlib.sha256(f"{cache_key} {said} {draws.view_probability}".encode()).hexdigest()
    t = _read(path, key)
    if t is not None:
        return EditCache(t["latents"], t["regions"], t["view"])
    edits = build_edits(settings, draws, cache, pictures, autoencoder, encoder, seed, device)
    files.save_tensors(path, {"latents": edits.latents, "regions": edits.regions, "view": edits.view}, {"key": key})
    return edits


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """The tensors in `path` when it is there and says it was made under `key`."""
    if not path.is_file() or files.read_tensor_metadata(path).get("key") != key:
        return None
    return files.load_tensors(path)
