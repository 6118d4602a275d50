"""A recipe is one frozen, strict object: what is trained, on which rows, for how long. It is stored as `recipe.json`.

`build_objective` turns a recipe and pictures into the thing `train.train` runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bowerbird import checkpoint
from bowerbird.data import Pictures, load_pictures
from bowerbird.errors import BowerbirdError
from bowerbird.systems.autoencoder import AutoencoderConfig, AutoencoderObjective
from bowerbird.systems.classifier import ClassifierConfig, ClassifierObjective
from bowerbird.systems.contrastive import ContrastiveConfig, ContrastiveObjective
from bowerbird.systems.copy_detection import CopyConfig, CopyObjective
from bowerbird.systems.rdm import LatentBank, RDMConfig, RDMObjective, build_bank
from bowerbird.systems.reimagen import ReImagenObjective
from bowerbird.systems.reimagen_config import ReImagenConfig
from bowerbird.train import TrainConfig

FILE = "recipe.json"
System = Annotated[ContrastiveConfig | AutoencoderConfig | RDMConfig | ReImagenConfig | ClassifierConfig | CopyConfig, Field(discriminator="kind")]


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
        """A hash of every setting; trainings are cached by it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the file at `path`. Raises: BowerbirdError when it has unknown or wrong settings."""
    return _validate(checkpoint.read_json(path, "recipe"), str(path))


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
            raise BowerbirdError(f"--set {setting!r}: the recipe has no {key}; it has {', '.join(place if isinstance(place, dict) else values)}")
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


def build_objective(recipe: Recipe, pictures: Pictures, out: Path, *, device: str = "cpu", banks: Path | None = None) -> Any:
    """The trainable for `recipe`: an `nn.Module` that satisfies `train.Objective`.

    RDM's latent bank is kept in `out`, or in the folder `banks`, where trainings that differ in other things share it.
    """
    system, seed = recipe.system, recipe.train.seed
    if isinstance(system, ContrastiveConfig):
        return ContrastiveObjective(system, pictures, seed)
    if isinstance(system, AutoencoderConfig):
        return AutoencoderObjective(system, pictures, seed)
    if isinstance(system, ClassifierConfig):
        return ClassifierObjective(system, pictures, seed)
    if isinstance(system, CopyConfig):
        return CopyObjective(system, pictures, seed)
    from bowerbird import encoders

    if isinstance(system, ReImagenConfig):
        return _reimagen(system, pictures, seed, device)
    autoencoder, encoder = load_autoencoder(system.autoencoder), encoders.load(system.encoder)
    bank = _cached_bank(system, pictures, autoencoder, encoder, seed, out / "bank.safetensors", device, banks)
    return RDMObjective(system, bank, autoencoder, encoder, seed)


def _reimagen(system: ReImagenConfig, pictures: Pictures, seed: int, device: str) -> ReImagenObjective:
    """One stage, with the frozen networks it stands on: a text tower, the stages below, an encoder where the search needs one."""
    from bowerbird import encoders
    from bowerbird.models.text_tower import load_text_tower

    text, below = None, []
    if system.base is not None:
        pipe = load_base(system.base)
        if len(pipe.stages) > 2 or system.unet.low_size != pipe.sizes[-1] or system.schedule_type != pipe.scheduler.config.prediction_type:
            raise BowerbirdError(
                f"base {system.base!r} paints {pipe.sizes[-1]} px by {pipe.scheduler.config.prediction_type} in {len(pipe.stages)} stages; this stage enlarges "
                f"{system.unet.low_size} px by {system.schedule_type}, and a cascade has up to 3 stages; set system.unet.low_size or another system.base"
            )
        text, below = (pipe.text_encoder.to(device), pipe.tokenizer), pipe.stages
    elif system.text_encoder is not None:
        tower, tokenizer = load_text_tower(system.text_encoder)
        text = (tower.to(device), tokenizer)
    needed = system.search != "bm25" or system.max_similarity is not None
    encoder = encoders.load(system.encoder, device=device) if needed else None
    return ReImagenObjective(system, pictures, seed, text=text, below=below, encoder=encoder)


def load_base(name: str) -> Any:
    """The pipeline a further stage is added to, frozen. Raises: BowerbirdError when it is not there."""
    from bowerbird.systems import open_pipeline
    from bowerbird.systems.reimagen_pipeline import ReImagenPipeline
    from bowerbird.weights import bundled

    if bundled(name) is None and not (Path(name) / "model_index.json").is_file():
        raise BowerbirdError(f"base {name!r}: no trained pipeline there; train the stage below first: bowerbird train tiny-reimagen")
    pipe = open_pipeline(name)
    if not isinstance(pipe, ReImagenPipeline):
        raise BowerbirdError(f"base {name!r} is a {type(pipe).__name__}; give a trained stage of Re-Imagen")
    for module in (pipe.text_encoder, *pipe.stages):
        module.eval().requires_grad_(False)
    return pipe


def frozen_fingerprints(recipe: Recipe) -> list[str]:
    """Fingerprints of the frozen networks a training stands on: RDM's encoder and autoencoder, the stages below one of Re-Imagen."""
    if isinstance(recipe.system, ReImagenConfig):
        return _reimagen_fingerprints(recipe.system)
    if not isinstance(recipe.system, RDMConfig):
        return []
    from bowerbird import encoders

    return [encoders.load(recipe.system.encoder).fingerprint, weights_hash(load_autoencoder(recipe.system.autoencoder))]


def _reimagen_fingerprints(system: ReImagenConfig) -> list[str]:
    from bowerbird import encoders
    from bowerbird.models.text_tower import load_text_tower

    found = [load_base(system.base).fingerprint()] if system.base is not None else []
    if system.base is None and system.text_encoder is not None:
        found.append(weights_hash(load_text_tower(system.text_encoder)[0]))
    if system.search != "bm25" or system.max_similarity is not None:
        found.append(encoders.load(system.encoder).fingerprint)
    return found


def weights_hash(module: Any) -> str:
    """16 hex digits of a module's weights."""
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in module.state_dict().values())).hexdigest()[:16]


def load_autoencoder(name: str) -> Any:
    """The frozen autoencoder called `name`: bundled, a directory in diffusers layout, or `pixels-2` (no autoencoder: 2 x 2 pixels a place)."""
    import torch
    from diffusers import AutoencoderKL

    from bowerbird.weights import bundled

    if name.startswith("pixels-") and name[7:].isdigit() and int(name[7:]) in (1, 2, 4, 8):
        from bowerbird.models.pixels import PixelGrid

        return PixelGrid(int(name[7:])).eval()
    path = bundled(name) or Path(name)
    if not (path / "config.json").is_file():
        raise BowerbirdError(f"autoencoder {name!r}: not bundled and no directory with a config.json; train one: bowerbird train tiny-autoencoder")
    return AutoencoderKL.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)


def _cached_bank(system: RDMConfig, pictures: Pictures, autoencoder: Any, encoder: Any, seed: int, path: Path, device: str, banks: Path | None) -> LatentBank:
    """The latent bank from `path` when it was made from the same data, networks and settings; else made and written there."""
    import torch
    from safetensors import safe_open

    weights = weights_hash(autoencoder)
    settings = system.model_dump_json(include={"k_stored", "mix", "max_similarity", "exclude_key", "views", "database_share"})
    key = hashlib.sha256(f"{pictures.fingerprint()} {encoder.fingerprint} {weights} {settings} {seed}".encode()).hexdigest()
    if banks is not None:
        path = banks / f"{key[:16]}.safetensors"
    if path.is_file():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
                tables = tuple(t[f"table{i}"] for i in range(len(system.mix)))
                return LatentBank(t["latents"], t["embeddings"], tables, t["nearest"], t["ids"].numpy())
    bank = build_bank(system, pictures, pictures.ids, autoencoder.to(device), encoder, seed, device)
    stored = {"latents": bank.latents, "embeddings": bank.embeddings, "ids": torch.from_numpy(bank.ids), "nearest": bank.nearest}
    checkpoint.save_tensors(path, stored | {f"table{i}": t for i, t in enumerate(bank.tables)}, {"key": key})
    return bank
