"""Networks in directories that anybody may have made, as diffusers and transformers lay them out: the configuration is
checked before anything is built of it, the weights are whole, of the right shapes and finite.

Nothing is unpickled, no code of the directory runs, and nothing is fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.quiet import quiet_loading
from bowerbird.core.torch_file import read_torch_file
from bowerbird.models.weights import FOLDER

if TYPE_CHECKING:
    import torch

LARGEST, MOST_LAYERS, LONGEST_LIST, LONGEST_TEXT = 2**24, 256, 64, 10_000
"""Of the numbers in a configuration, of those that count layers, and of its lists and texts."""
LISTS_OF_TIMES = ("trained_betas",)
"""Lists in a scheduler's configuration with a number for each timestep."""
MOST_TIMES = 100_000
INFINITE = ("lambda_min_clipped",)
"""What diffusers writes as -Infinity."""
CODE = ("auto_map", "quantization_config", "adapter_config", "kernel_config")
"""Entries that ask for code from elsewhere, or for a format that is none of plain weights."""
ATTENTION = ("attn_implementation", "experts_implementation")
PLAIN_ATTENTION = (None, "eager", "sdpa")
VARIANT = re.compile(r"\.(fp16|bf16)(?:-\d+-of-\d+)?\.safetensors$")
CODE_FILES = ("*.py", "adapter_config.json")


def load_network(kind: Any, folder: Path, *, unused: Sequence[str] = (), **options: Any) -> Any:
    """The network of the class `kind` (of diffusers or transformers) in `folder`, from safetensors alone; `options` are
    those of its `from_pretrained`. Weights with one of `unused` in their name may be missing: nothing that is asked of
    the network goes through them.

    Raises: BowerbirdError when something of it is missing, out of bounds, or no number; whatever the library raises.
    """
    check_folder(folder)
    with quiet_loading():
        network, info = kind.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, use_safetensors=True, **options
        )
    missing = sorted(
        name
        for name in info.get("missing_keys", ())
        if not name.endswith("position_ids") and not any(part in name for part in unused)
    )
    if missing or info.get("mismatched_keys"):
        raise BowerbirdError(
            f"{folder}: the weights of {missing[0]} are missing ({len(missing)} in all); fetch the directory again"
            if missing
            else f"{folder}: the weights are of other shapes than config.json says; fetch the directory again"
        )
    check_finite(network, folder)
    return without_place(network, folder.name)


def only_variant(folder: Path) -> str | None:
    """The precision that the names of all weights in `folder` say (`model.fp16.safetensors`), as in a copy of one form
    alone; None where there are others, or none."""
    found = {VARIANT.search(path.name) for path in folder.glob("*.safetensors")}
    names = {None if match is None else match[1] for match in found}
    return names.pop() if len(names) == 1 else None


def without_place(network: Any, name: str) -> Any:
    """`network` itself, which takes with it that it is called `name` and not where it lies: what is opened is saved
    again, and goes to other people."""
    if hasattr(network, "register_to_config"):
        network.register_to_config(_name_or_path=name)
    elif hasattr(network, "name_or_path"):
        network.name_or_path = network.config._name_or_path = name
    return network


def check_folder(folder: Path) -> dict[str, Any]:
    """The configuration in `folder`, after a look at everything that a loader would read there.

    Raises: BowerbirdError.
    """
    found = next((file for pattern in CODE_FILES for file in folder.glob(pattern)), None)
    if found is not None:
        raise BowerbirdError(f"{found}: a directory of weights brings no code and no adapters; remove it")
    config = check_config(folder / "config.json")
    stored = [read_torch_file(path) for path in sorted(folder.glob("*.safetensors"))]
    if not stored:
        raise BowerbirdError(
            f"{folder}: no safetensors file here; fetch the directory again, or save it as safetensors"
        )
    levels = config.get("block_out_channels")
    deepest = max((number for key, number in _numbers(config) if _counts_layers(key)), default=0)
    deepest *= len(levels) if isinstance(levels, list) else 1
    if deepest > sum(map(len, stored)):
        raise BowerbirdError(
            f"{folder}: config.json says {deepest} layers, more than there are weights; fetch it again"
        )
    return config


def check_config(path: Path) -> dict[str, Any]:
    """The configuration of a network or scheduler at `path`. Raises: BowerbirdError when it is damaged, out of all
    bounds, or asks for code."""
    if not path.is_file():
        raise BowerbirdError(f"{path}: is missing; fetch the whole directory again")
    config = files.read_json(path, "configuration")
    for key, value in entries(config):
        attention = key.removeprefix("_") in ATTENTION and value not in PLAIN_ATTENTION
        if attention or (key in CODE and value is not None):
            raise BowerbirdError(f"{path}: {key} asks for code from elsewhere, which is not fetched; remove that entry")
        if isinstance(value, list) and len(value) > (MOST_TIMES if key in LISTS_OF_TIMES else LONGEST_LIST):
            raise BowerbirdError(f"{path}: {key[:60]} has {len(value):,} entries, too many for a model")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise BowerbirdError(f"{path}: {key[:60]} has {len(value):,} characters, too many for a model")
    for key, number in _numbers(config):
        most = MOST_LAYERS if _counts_layers(key) else LARGEST
        if not (abs(number) <= most or (key in INFINITE and number == -math.inf)):
            raise BowerbirdError(f"{path}: {key[:60]} is {number!s:.30}, out of range; fetch the directory again")
    return config


def check_finite(network: torch.nn.Module, place: Path) -> None:
    """Raises: BowerbirdError for a network with a weight that is no number, or infinite."""
    import torch

    if is_bundled(place):
        return
    for name, tensor in network.state_dict().items():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all()
        ):
            raise BowerbirdError(f"{place}: the weights {name} hold values that are not finite; fetch it again")


def check_shapes(build: Callable[[], torch.nn.Module], weights: Mapping[str, torch.Tensor], place: Path) -> None:
    """Compare what `build` makes, without memory for it, with the `weights` that are to go in.

    Raises: BowerbirdError when one is missing, left over or of another shape.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        """Numbers are not drawn: without memory there are none, and torch takes a second to find that out."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            drawn = func in (torch.Tensor.normal_, torch.nn.init.normal_)
            return (args[0] if args else given["tensor"]) if drawn else func(*args, **given)

    if is_bundled(place):
        return
    with torch.device("meta"), Unfilled():
        wanted = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if wrong:
        raise BowerbirdError(
            f"{place}: the weights {wrong[0][:100]} are {there.get(wrong[0], 'missing')}, where config.json says"
            f" {wanted.get(wrong[0], 'none')}; fetch the directory again"
        )


def is_bundled(place: Path) -> bool:
    """Whether `place` was installed with bowerbird, and is not a stranger's."""
    return FOLDER in place.parents


def _counts_layers(key: str) -> bool:
    return ("layers" in key and key != "max_window_layers") or "depth" in key  # that one may be beyond the last layer


def entries(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Every value in a configuration with its key, those within lists with the list's."""
    inner = list(value.items()) if isinstance(value, dict) else [(key, each) for each in value or ()]
    found: list[tuple[str, Any]] = []
    for name, each in inner:
        found.append((str(name), each))
        if isinstance(each, dict | list):
            found += entries(each, str(name))
    return found


def _numbers(config: dict[str, Any]) -> list[tuple[str, float]]:
    return [(key, each) for key, each in entries(config) if isinstance(each, int | float)]
