"""A LoRA's file (arXiv 2106.09685) before anything is loaded: which layers it changes, under the names that PEFT,
diffusers and kohya's scripts give them, and how strongly.

Safetensors alone; the header is read, no tensor is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json, printable
from bowerbird.core.torch_file import Stored, read_torch_file

PEFT, DIFFUSERS, KOHYA = "PEFT", "diffusers", "kohya"
METADATA = "lora_adapter_metadata"
"""The entry of the header in which diffusers keeps peft's settings, as JSON."""
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DENOISER = "denoiser"
"""The base's U-Net or transformer, whichever it has."""
PREFIXES = {
    "unet.": "unet",
    "transformer.": "transformer",
    "diffusion_model.": DENOISER,
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "lora_unet_": DENOISER,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""What a key begins with, and the component that it is of; PEFT's keys begin with none of them."""
ROLES = (
    (re.compile(r"\.lora_([AB])(?:\.[\w-]+)?\.weight\Z"), PEFT),
    (re.compile(r"(?:\.lora|\.lora_linear_layer|_lora)\.(down|up)\.weight\Z"), DIFFUSERS),
    (re.compile(r"\.lora_(down|up)\.weight\Z"), KOHYA),
)
"""How a key ends that is one of a layer's two factors."""
OTHER = ("dora_scale", "lora_magnitude_vector", "lora_mid", "hada_w", "lokr_w")
"""Parts of keys that change a layer by another rule than a product of two factors."""


@dataclass(frozen=True)
class LayerChange:
    """The change `up @ down` of one layer of a `part` of the base, times `alpha` / rank; `layer` as the file calls it,
    `keys` the file's own."""

    part: str
    layer: str
    down: Stored
    up: Stored
    alpha: float
    keys: tuple[str, ...]

    @property
    def rank(self) -> int:
        """How many numbers the change goes through."""
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFacts:
    """What a LoRA's file holds: the `form` of its keys, its `changes`, and the keys that are `ignored`."""

    path: Path
    form: str
    changes: tuple[LayerChange, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Alphas:
    """A layer's alpha by peft's settings: `patterns` of layers' names, then what holds for all, then the rank."""

    alpha: float | None
    patterns: Mapping[str, float]
    by_root: bool

    def of(self, layer: str, rank: int) -> float:
        found = next(
            (value for pattern, value in self.patterns.items() if layer == pattern or layer.endswith(f".{pattern}")),
            rank if self.alpha is None else self.alpha,
        )
        return found * math.sqrt(rank) if self.by_root else found


def inspect_lora(path: str | Path) -> LoraFacts:
    """What the LoRA at `path` changes. Raises: BowerbirdError for a file that is none, is damaged, or changes layers by
    another rule."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BowerbirdError(
            f"LoRA {str(path)!r}: only .safetensors files are read, as others may run code; give one (--lora FILE)"
        )
    stored: dict[str, Stored] = read_torch_file(path)
    if other := next((key for key in stored if any(f".{mark}" in key for mark in OTHER)), None):
        raise BowerbirdError(
            f"{path}: {printable(other)[:100]} is of another kind (DoRA, LoHa, LoKr or LoCon); only plain LoRA is read,"
            " so merge it into its base with the program that made it"
        )
    factors: dict[str, dict[str, str]] = {}
    forms: dict[str, str] = {}
    for key in stored:
        for pattern, form in ROLES:
            if (found := pattern.search(key)) is not None:
                role = "down" if found[1] in ("A", "down") else "up"
                factors.setdefault(key[: found.start()], {})[role] = key
                forms[key[: found.start()]] = form
                break
    alphas, changes = _alphas(path), []
    used: set[str] = set()
    for name, keys in factors.items():
        if len(keys) == 2:
            change = _change(path, name, keys, stored, alphas)
            changes.append(change)
            used.update(change.keys)
    if not changes:
        raise BowerbirdError(
            f"{path}: holds no LoRA in the forms of PEFT, diffusers or kohya ({len(stored)} other tensors); give a"
            " LoRA's file (--lora FILE)"
        )
    form = KOHYA if any(change.keys[0].startswith("lora_") for change in changes) else next(iter(forms.values()))
    return LoraFacts(path, form, tuple(changes), tuple(key for key in stored if key not in used))


def _change(
    path: Path, name: str, keys: Mapping[str, str], stored: Mapping[str, Stored], alphas: Mapping[str, _Alphas]
) -> LayerChange:
    down, up = (stored[keys[role]] for role in ("down", "up"))
    if len(down.shape) < 2 or len(up.shape) < 2 or not down.shape[0] or up.shape[1] != down.shape[0]:
        raise BowerbirdError(
            f"{path}: the factors of {printable(name)[:100]} are {down.shape} and {up.shape}, which do not go together;"
            " fetch it again"
        )
    plain = name.removeprefix("base_model.model.")
    prefix = next((prefix for prefix in PREFIXES if plain.startswith(prefix)), "")
    part, layer = PREFIXES.get(prefix, DENOISER), plain[len(prefix) :]
    own: tuple[str, ...] = (keys["down"], keys["up"])
    if f"{name}.alpha" in stored:
        own += (f"{name}.alpha",)
        read = stored[own[-1]].read().flatten()
        alpha = float(read[0]) if len(read) == 1 else math.nan
    else:
        settings = alphas.get(part) or alphas.get("unet" if part == DENOISER else "")
        alpha = float(down.shape[0] if settings is None else settings.of(layer, down.shape[0]))
    if not math.isfinite(alpha):
        raise BowerbirdError(f"{path}: the alpha of {printable(name)[:100]} is no number; fetch it again")
    return LayerChange(part, layer, down, up, alpha, own)


def _alphas(path: Path) -> dict[str, _Alphas]:
    """By component, what the file's header or the configuration beside it says. Raises: BowerbirdError where that is
    unsound, or asks for another rule."""
    text = files.read_tensor_metadata(path).get(METADATA)
    beside = path.with_name(PEFT_CONFIG)
    if text is not None:
        said = parse_json(text, str(path), "note on its settings")
    elif path.name == PEFT_FILE and beside.is_file():
        said = {f"unet.{key}": value for key, value in files.read_json(beside, "settings of PEFT").items()}
    else:
        return {}
    settings: dict[str, dict[str, Any]] = {}
    for key, value in (said if isinstance(said, dict) else {}).items():
        part, _, name = str(key).partition(".")
        settings.setdefault(part, {})[name] = value
    found: dict[str, _Alphas] = {}
    try:
        for part, each in settings.items():
            alpha, patterns = each.get("lora_alpha"), dict(each.get("alpha_pattern") or {})
            found[part] = _Alphas(
                None if alpha is None else float(alpha),
                {str(key).removeprefix("^"): float(value) for key, value in patterns.items()},
                bool(each.get("use_rslora")),
            )
    except (TypeError, ValueError) as error:
        raise BowerbirdError(f"{path}: its settings say nothing sound of alpha; fetch it again") from error
    if any(each.get("use_dora") for each in settings.values()):
        raise BowerbirdError(f"{path}: is a DoRA; only plain LoRA is read, so merge it into its base with peft")
    return found
