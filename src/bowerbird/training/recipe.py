"""A recipe is one frozen, strict object: what is trained, on which rows, for how long. It is stored as `recipe.json`.

`build_objective` turns a recipe and pictures into the thing `train.train` runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.data.pictures import Pictures, load_pictures
from bowerbird.models.vq import to_cache_tokens
from bowerbird.systems.knn.discrete_objective import KNNDiscreteConfig, KNNDiscreteObjective
from bowerbird.systems.knn.objective import KNNConfig, KNNObjective
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.rdm.distillation import FewStepConfig, FewStepObjective
from bowerbird.systems.rdm.objective import RDMConfig, RDMObjective
from bowerbird.systems.reimagen.config import ReImagenConfig
from bowerbird.systems.reimagen.objective import ReImagenObjective
from bowerbird.training import components
from bowerbird.training.loop import TrainConfig
from bowerbird.training.objectives.autoencoder import AutoencoderConfig, AutoencoderObjective
from bowerbird.training.objectives.copy_descriptor import CopyConfig, CopyObjective
from bowerbird.training.objectives.judge import ClassifierConfig, ClassifierObjective
from bowerbird.training.objectives.small_encoder import ContrastiveConfig, ContrastiveObjective
from bowerbird.training.objectives.vq import VQConfig, VQObjective

FILE = "recipe.json"
Models = RDMConfig | FewStepConfig | KNNConfig | KNNDiscreteConfig | ReImagenConfig
Readers = ContrastiveConfig | AutoencoderConfig | VQConfig | ClassifierConfig | CopyConfig
System = Annotated[Models | Readers, Field(discriminator="kind")]


class Recipe(BaseModel):
    """`system`: what; `train`: how long; `where`: which rows of the data (SQL over its metadata; None for all)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    system: System
    train: TrainConfig
    size: int = 64
    where: str | None = None
    limit: int | None = None

    def fingerprint(self) -> str:
        """A hash of every setting that shapes the weights; trainings are cached by it."""
        return hashlib.sha256(self.model_dump_json(exclude={"train": {"compile"}}).encode()).hexdigest()[:16]


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the file at `path`. Raises: BowerbirdError when it has unknown or wrong settings."""
    return _validate(files.read_json(path, "recipe"), str(path))


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """`recipe` with `key=value` settings, keys dotted (`train.steps=100`), values JSON or plain text.

    Raises: BowerbirdError for an unknown key or a value of the wrong kind.
    """
    values: dict[str, Any] = recipe.model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BowerbirdError(f"--set {setting!r}: write key=value, for example train.steps=100")
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None  # type: ignore[assignment]
        if not isinstance(place, dict) or last not in place:
            raise BowerbirdError(
                f"--set {setting!r}: the recipe has no {key}; it has"
                f" {', '.join(place if isinstance(place, dict) else values)}"
            )
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return _validate(values, "--set " + " ".join(settings))


def _validate(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BowerbirdError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def read_pictures(recipe: Recipe, source: str | Path) -> Pictures:
    """The rows of `source` this recipe trains on."""
    return load_pictures(source, size=recipe.size, where=recipe.where, limit=recipe.limit)


def build_objective(
    recipe: Recipe, pictures: Pictures, out: Path, *, device: str = "cpu", caches: Path | None = None
) -> Any:
    """The trainable for `recipe`: an `nn.Module` that satisfies `train.Objective`.

    A latent cache is kept in `out`, or in the folder `caches`, where trainings that differ in other things share it.
    """
    system, seed = recipe.system, recipe.train.seed
    if isinstance(system, ContrastiveConfig):
        return ContrastiveObjective(system, pictures, seed)
    if isinstance(system, AutoencoderConfig):
        return AutoencoderObjective(system, pictures, seed)
    if isinstance(system, VQConfig):
        return VQObjective(system, pictures, components.load_autoencoder(system.base), seed)
    if isinstance(system, ClassifierConfig):
        return ClassifierObjective(system, pictures, seed)
    if isinstance(system, CopyConfig):
        return CopyObjective(system, pictures, seed)
    if isinstance(system, ReImagenConfig):
        return _reimagen(system, pictures, seed, device)
    return _on_bank(system, pictures, seed, out, caches, device)


def _on_bank(
    system: RDMConfig | FewStepConfig | KNNConfig | KNNDiscreteConfig,
    pictures: Pictures,
    seed: int,
    out: Path,
    caches: Path | None,
    device: str,
) -> Any:
    """A system that learns from a latent cache, with the frozen networks that made it."""
    from bowerbird import encoders

    encoder = encoders.load(system.encoder)
    settings = system if isinstance(system, RDMConfig) else system.draws
    network = (
        _tokenizer(system, pictures, seed, out)
        if isinstance(system, KNNDiscreteConfig)
        else components.load_autoencoder(system.autoencoder)
    )
    key = components.cache_key(settings, pictures, network, encoder, seed)
    path = out / "cache.safetensors" if caches is None else caches / f"{key[:16]}.safetensors"
    network = network.to(device)
    encode = partial(
        to_cache_tokens if isinstance(system, KNNDiscreteConfig) else encode_latents, network, device=device
    )
    cache = components.load_or_build_cache(settings, pictures, encode, encoder, seed, path, key)
    if isinstance(system, KNNDiscreteConfig):
        return KNNDiscreteObjective(system, cache, network, encoder, seed)
    if isinstance(system, RDMConfig):
        return RDMObjective(system, cache, network, encoder, seed)
    if isinstance(system, FewStepConfig):
        return FewStepObjective(
            system, cache, components.load_network(system.base, network, encoder).to(device), network, encoder, seed
        )
    file, edits = path.with_name(path.stem + "-edits.safetensors"), None
    if system.edits is not None:
        edits = components.cached_edits(
            system.edits, system.draws, cache, pictures, network, encoder, seed, file, key, device
        )
    base = None if system.base is None else components.load_network(system.base, network, encoder)
    return KNNObjective(system, cache, edits, network, encoder, seed, base=base)


def _tokenizer(system: KNNDiscreteConfig, pictures: Pictures, seed: int, out: Path) -> Any:
    """The tokenizer that the recipe names; without one, the bundled autoencoder with a codebook fitted to the
    pictures, as it is before training."""
    if system.tokenizer is not None:
        return components.load_tokenizer(system.tokenizer)
    kept = out / "tokenizer"
    if not kept.is_dir():  # fitted once a run: another fit would be other tokens
        config = VQConfig(symbols=system.symbols)
        with files.atomic_directory(kept) as folder:
            VQObjective(config, pictures, components.load_autoencoder(config.base), seed).export(folder)
    return components.load_tokenizer(str(kept))


def _reimagen(system: ReImagenConfig, pictures: Pictures, seed: int, device: str) -> ReImagenObjective:
    """One stage, with the frozen networks it stands on: a text tower, the stages below, an encoder where the search
    needs one."""
    from bowerbird import encoders
    from bowerbird.models.text_tower import load_text_tower

    text, below = None, []
    if system.base is not None:
        pipe = components.load_base(system.base)
        if (
            len(pipe.stages) > 2
            or system.unet.low_size != pipe.sizes[-1]
            or system.schedule_type != pipe.scheduler.config.prediction_type
        ):
            raise BowerbirdError(
                f"base {system.base!r} generates {pipe.sizes[-1]} px by {pipe.scheduler.config.prediction_type} in"
                f" {len(pipe.stages)} stages; this stage enlarges {system.unet.low_size} px by {system.schedule_type},"
                " and a cascade has up to 3 stages; set system.unet.low_size or another system.base"
            )
        text, below = (pipe.text_encoder.to(device), pipe.tokenizer), pipe.stages
    elif system.text_encoder is not None:
        tower, tokenizer = load_text_tower(system.text_encoder)
        text = (tower.to(device), tokenizer)
    needed = system.search != "bm25" or system.max_similarity is not None
    encoder = encoders.load(system.encoder, device=device) if needed else None
    return ReImagenObjective(system, pictures, seed, text=text, below=below, encoder=encoder)


def frozen_fingerprints(recipe: Recipe) -> list[str]:
    """Fingerprints of the frozen networks a training stands on: encoder and autoencoder, the stages below one of
    Re-Imagen."""
    if isinstance(recipe.system, ReImagenConfig):
        return _reimagen_fingerprints(recipe.system)
    system = recipe.system
    if not isinstance(system, RDMConfig | FewStepConfig | KNNConfig | KNNDiscreteConfig):
        return []
    from bowerbird import encoders
    from bowerbird.systems.loading import open_pipeline

    if isinstance(system, KNNDiscreteConfig):
        network = (
            components.load_autoencoder(VQConfig().base)
            if system.tokenizer is None
            else components.load_tokenizer(system.tokenizer)
        )
    else:
        network = components.load_autoencoder(system.autoencoder)
    found = [encoders.load(system.encoder).fingerprint, components.weights_hash(network)]
    if isinstance(system, KNNConfig | FewStepConfig) and system.base is not None:
        found.append(open_pipeline(system.base).fingerprint())
    return found


def _reimagen_fingerprints(system: ReImagenConfig) -> list[str]:
    from bowerbird import encoders
    from bowerbird.models.text_tower import load_text_tower

    found = [components.load_base(system.base).fingerprint()] if system.base is not None else []
    if system.base is None and system.text_encoder is not None:
        found.append(components.weights_hash(load_text_tower(system.text_encoder)[0]))
    if system.search != "bm25" or system.max_similarity is not None:
        found.append(encoders.load(system.encoder).fingerprint)
    return found
