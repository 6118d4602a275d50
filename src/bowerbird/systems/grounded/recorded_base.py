"""Whose weights a file of ours changes or reads: an adapter and a LoRA that were trained here say so in their header.
A LoRA goes into no other base; an adapter does, as into a fine-tune of its own, with a warning. Files of others say
nothing, and are judged by their shapes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bowerbird.core import files
from bowerbird.core.errors import MismatchError
from bowerbird.core.text import parse_json, printable
from bowerbird.models import quantized
from bowerbird.systems import common

HEADER = "bowerbird.base"
"""The entry of a safetensors header with the base's name and the fingerprints of its networks, as JSON."""
NOTE = "base.json"
"""The file of a model that was trained from a base, with the same: what was made for that base goes into it too."""


def base_header(name: str, networks: Mapping[str, torch.nn.Module]) -> dict[str, str]:
    """What a file says of the base called `name` that it is for: of the `networks` that have to be the same."""
    hashes = {part: common.fingerprint([network]) for part, network in networks.items()}
    return {HEADER: json.dumps({"name": files.portable(name), **hashes})}


def write_note(folder: Path, header: Mapping[str, str]) -> None:
    """Say in the folder of a model which base it was trained from, by its `base_header`."""
    files.write_json(folder / NOTE, json.loads(header[HEADER]))


def check_recorded_base(path: Path, base: Any, folder: Path | None, command: str) -> None:
    """`command`: how the file is made for another base. Raises: MismatchError where `other_base` says something."""
    if (said := other_base(path, base, folder)) is not None:
        raise MismatchError(f"{said}; give that base, or train it for this one: {command}")


def other_base(path: Path, base: Any, folder: Path | None) -> str | None:
    """How the base that the header of the file at `path` names differs from `base`, a diffusers pipeline, whose files
    are in `folder` where it was opened from one; None where it is the same, or none is named."""
    if path.suffix != ".safetensors" or not (text := files.read_tensor_metadata(path).get(HEADER)):
        return None
    said = parse_json(text, str(path), "note on its base")
    if not isinstance(said, dict):
        return None
    beside = None if folder is None else folder / NOTE
    grown_from = {} if beside is None or not beside.is_file() else files.read_json(beside, "note on its base")
    for part in ("unet", "text_encoder", "text_encoder_2"):
        wanted, network = said.get(part), getattr(base, part, None)
        if not isinstance(wanted, str) or not isinstance(network, torch.nn.Module):
            continue
        found = _fingerprint(network, None if folder is None else folder / part)
        if found is not None and found != wanted and grown_from.get(part) != wanted:
            return (
                f"{path}: was trained on the base {printable(str(said.get('name')))[:60]!r}, whose {part} is"
                f" {printable(wanted)[:16]}, and that of this base is {found}"
            )
    return None


def _fingerprint(network: torch.nn.Module, folder: Path | None) -> str | None:
    """Of the weights as they are stored, which half precision rounds; None where they are not at hand."""
    if next(network.parameters()).dtype == torch.float32:
        return common.fingerprint([network])
    stored = [] if folder is None else sorted(folder.glob("*.safetensors"))
    if len(stored) != 1:
        return None
    if stored[0].name == quantized.FILE:
        return common.fingerprint([quantized.load(type(network), stored[0].parent, torch.float32)])
    return common.fingerprint_of(files.load_tensors(stored[0]))
