"""LoRAs in a base: the changes of a file go into the weights when the base is opened, W + scale alpha / rank B A, and a
report says which layers changed and which keys of the file found none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import printable, with_article
from bowerbird.core.weight_files import file_fingerprint
from bowerbird.systems.grounded.lora_file import DENOISER, LayerChange, LoraFacts, inspect_lora
from bowerbird.systems.reference_settings import LoraFile

LDM_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?")
LDM_NAMES = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block in CompVis' and Stability's code, after which kohya names those of SDXL."""


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is in a base: the file's `name`, its `hash`, `scale` and `form`; the layers that are `matched`, by
    component, and the file's keys that are `ignored`."""

    name: str
    hash: str
    scale: float
    form: str
    matched: tuple[str, ...]
    ignored: tuple[str, ...]

    def line(self) -> str:
        """The report in a line."""
        parts = sorted({name.partition(".")[0] for name in self.matched})
        said = f"{self.name}: a LoRA of {self.form}'s form at {self.scale:g}; changes {len(self.matched)} layers of"
        said += f" {' and '.join(parts)}"
        if not self.ignored:
            return f"{said}, every key matched"
        shown = ", ".join(printable(key)[:100] for key in self.ignored[:3])
        return f"{said}, {len(self.ignored)} keys ignored: {shown}{', …' if len(self.ignored) > 3 else ''}"


def lora_facts(loras: Sequence[AppliedLora]) -> dict[str, Any]:
    """What a record says of the LoRAs in a base; nothing where there is none."""
    return {"loras": [{"name": each.name, "hash": each.hash, "scale": each.scale} for each in loras]} if loras else {}


def inspect_all(loras: Sequence[LoraFile]) -> list[LoraFacts]:
    """What the files change; no weight is read. Raises: BowerbirdError."""
    return [inspect_lora(each.path) for each in loras]


@torch.no_grad()
def apply_loras(base: Any, loras: Sequence[LoraFile], facts: Sequence[LoraFacts]) -> tuple[AppliedLora, ...]:
    """Change the weights of `base`, a diffusers pipeline that is in main memory, by the files `facts`.

    Raises: BowerbirdError where a file changes nothing of this base, or layers of other shapes.
    """
    found = [_matches(base, each) for each in facts]
    made = []
    for asked, each, pairs in zip(loras, facts, found, strict=True):
        for _, change, layer in pairs:
            delta = change_of(change, each)
            layer.weight.copy_(layer.weight.float() + asked.scale * delta.view_as(layer.weight).to(layer.weight.device))
        used = {key for _, change, _ in pairs for key in change.keys}
        unused = (key for change in each.changes for key in change.keys if key not in used)
        made.append(
            AppliedLora(
                each.path.name,
                file_fingerprint(each.path),
                asked.scale,
                each.form,
                tuple(name for name, _, _ in pairs),
                (*unused, *each.ignored),
            )
        )
    return tuple(made)


def change_of(change: LayerChange, facts: LoraFacts) -> Tensor:
    """alpha / rank B A, `(out, in …)` flattened to two dimensions. Raises: BowerbirdError where it is not finite."""
    up, down = change.up.read().float(), change.down.read().float()
    delta = (up.flatten(1) @ down.flatten(1)) * (change.alpha / change.rank)
    if not torch.isfinite(delta).all():
        raise BowerbirdError(f"{facts.path}: {change.layer[:100]} holds numbers that are none (NaN); fetch it again")
    return delta


def _matches(base: Any, facts: LoraFacts) -> list[tuple[str, LayerChange, Any]]:
    """(component and layer, change, layer) for every change that finds its layer. Raises: BowerbirdError."""
    denoiser = "unet" if getattr(base, "unet", None) is not None else "transformer"
    names: dict[str, dict[str, tuple[str, Any]]] = {}
    pairs = []
    for change in facts.changes:
        part = denoiser if change.part == DENOISER else change.part
        network = getattr(base, part, None)
        if not isinstance(network, nn.Module):
            continue
        if part not in names:
            names[part] = _layers(network)
        per_block = getattr(getattr(network, "config", None), "layers_per_block", 2)
        candidates = _candidates(change.layer, part, per_block if isinstance(per_block, int) else 2)
        found = next((names[part][name] for name in candidates if name in names[part]), None)
        if found is None:
            continue
        name, layer = found
        have, want = (change.up.shape[0], *change.down.shape[1:]), tuple(layer.weight.shape)
        if _sides(have) != _sides(want) or any(side != 1 for side in change.up.shape[2:]):
            raise BowerbirdError(
                f"{facts.path}: is a LoRA of another base: it changes {part}.{name} as {have}, and here that is {want};"
                " give a LoRA of this base, or the base of this LoRA"
            )
        pairs.append((f"{part}.{name}", change, layer))
    if not pairs:
        first = printable(facts.changes[0].keys[0])[:100]
        raise BowerbirdError(
            f"{facts.path}: none of its {len(facts.changes)} layers is in {with_article(type(base).__name__)} (the"
            f" first is {first}); give a LoRA of this base"
        )
    return pairs


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without a kernel of one place, which a linear layer lacks."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _layers(network: nn.Module) -> dict[str, tuple[str, Any]]:
    """Every layer that a LoRA may change, by its dotted name and by the one kohya gives it."""
    own = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    plain = {name.replace(".", "_"): (name, each) for name, each in own.items()}
    return plain | {name: (name, each) for name, each in own.items()}


def _candidates(layer: str, part: str, per_block: int) -> list[str]:
    """The names that a layer of a file may have in the network, the likeliest first."""
    layer = layer.replace(".processor.", ".")  # diffusers before 0.20 changed attention by processors
    found = [layer, f"{layer}.0"]  # which called to_out.0 to_out
    if part.startswith("text_encoder"):
        # transformers 5 has no `text_model` around a text encoder without projection
        found += [f"text_model.{layer}", layer.removeprefix("text_model.").removeprefix("text_model_")]
    block = LDM_BLOCK.match(layer)
    if block is not None:
        found.append(_from_ldm(block, layer[block.end() :], per_block))
    return found


def _from_ldm(block: re.Match[str], rest: str, per_block: int) -> str:
    """A layer of kohya's SDXL files, which follow Stability's code, by the name that diffusers gives it."""
    kind, number, inner = block[1], int(block[2]), block[3]
    if kind == "middle_block":
        place, attention = f"mid_block_{'attentions_0' if number == 1 else f'resnets_{number // 2}'}_", number == 1
        rest = rest if inner is None else f"{inner}_{rest}"
    else:
        attention = inner == "1"
        at, layer = divmod(number - 1, per_block + 1) if kind == "input_blocks" else divmod(number, per_block + 1)
        side = "down_blocks" if kind == "input_blocks" else "up_blocks"
        if rest == "op":
            return f"{side}_{at}_downsamplers_0_conv"
        if rest == "conv":
            return f"{side}_{at}_upsamplers_0_conv"
        place = f"{side}_{at}_{'attentions' if attention else 'resnets'}_{layer}_"
    return place + (rest if attention else LDM_NAMES.get(rest, rest))
