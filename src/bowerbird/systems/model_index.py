"""A model's directory, which anybody may have made, before anything is opened of it: what its `model_index.json` says,
and the networks it names, which are those of diffusers, transformers and ours."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.models import network_files, quantized, weights
from bowerbird.systems.reference_settings import ADAPTER_FILE

FILE = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
OWN = ("bowerbird.models", "bowerbird.diffusion")
LARGEST, LONGEST_TEXT = 2**20, 1000
SEARCH_MODES = ("hybrid", "dense", "bm25", "mixed")
LEAST_EDGE, MOST_EDGE = 4, 4096
RANGES = {
    "k": (0, 1000),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (-1000, 1000),
    "guidance_interval": (0, 1),
    "text_ratio": (0, 1),
    "level": (0, 999),
    "smoothing": (0, 255),
    "embedding_length": (0, LARGEST),
    "shared_dim": (0, LARGEST),
    "temperature": (0, 100),
    "top_k": (0, LARGEST),
    "top_p": (0, 1),
    "min_p": (0, 1),
}


def read_index(folder: Path) -> dict[str, Any]:
    """The `model_index.json` in `folder`. Raises: BowerbirdError when there is none, it is damaged, or it names no
    class."""
    if not (folder / FILE).is_file():
        if (folder / ADAPTER_FILE).is_file():
            raise BowerbirdError(
                f"model {str(folder)!r}: holds an adapter and no model; give the base that it was trained on, and"
                " this as --adapter (docs/your-model.md)"
            )
        raise BowerbirdError(
            f"model {str(folder)!r}: the directory has no {FILE}; give one that bowerbird train wrote (…/model), or a"
            " base in diffusers layout (docs/your-model.md)"
        )
    index = files.read_json(folder / FILE, "description of a model")
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not re.fullmatch(r"\w{1,100}", kind):
        raise BowerbirdError(
            f"{folder / FILE}: its _class_name is {ascii(kind)[:60]}, not the name of a pipeline; give a model that"
            " bowerbird train wrote"
        )
    return index


def check_bundled(pipeline: type, folder: Path, name: str) -> None:
    """Raises: BowerbirdError where the bundled model `name` in `folder` is of another class than `pipeline`."""
    kind = read_index(folder)["_class_name"]
    if kind not in {one.__name__ for one in pipeline.__mro__}:
        raise BowerbirdError(
            f"model {name!r} is {with_article(kind)}, not {with_article(pipeline.__name__)}; open it with"
            f" bowerbird.{kind}.from_pretrained, or any model with bowerbird.load_pipeline"
        )


def check(pipeline: type, folder: Path) -> dict[str, Any]:
    """The classes of the components of the model in `folder`, which the class `pipeline` opens, by component. Raises:
    BowerbirdError."""
    index = read_index(folder)
    check_settings(pipeline, index, folder)
    return component_classes(pipeline, index, folder)


def check_model(pipe: Any, folder: Path) -> None:
    """Compare how the opened `pipe` generates by itself with what it can do. Raises: BowerbirdError for a sampler that
    it does not have (a name in a file loads no code), or sizes out of range."""
    can, own = pipe.capabilities, pipe.defaults
    if own.sampler not in can.samplers or own.search_mode not in SEARCH_MODES:
        wrong = f"sampler {own.sampler!r}" if own.sampler not in can.samplers else f"search_mode {own.search_mode!r}"
        raise BowerbirdError(f"{folder / FILE}: {wrong[:80]} is none of this model's; fetch the model again")
    if not all(LEAST_EDGE <= size <= MOST_EDGE for size in can.sizes):
        raise BowerbirdError(
            f"{folder}: generates pictures of {', '.join(map(str, can.sizes))} pixels, by its configuration; from"
            f" {LEAST_EDGE} to {MOST_EDGE} is possible"
        )


def check_settings(pipeline: type, index: dict[str, Any], folder: Path) -> None:
    """Compare the settings in the `index` of `folder` with those that the class `pipeline` takes. Raises:
    BowerbirdError for one of another type, or out of bounds."""
    made = pipeline.__init__  # type: ignore[misc]  # of the class, not of an instance
    try:
        hints = typing.get_type_hints(made)
    except NameError:  # somebody's own class, whose annotations name what is imported for checking types alone
        hints = {}
    for key in inspect.signature(made).parameters:
        if key not in index or _is_component(index[key]):
            continue
        value, hint = index[key], hints.get(key, object)
        low, high = RANGES.get(key, (-LARGEST, LARGEST))
        try:
            TypeAdapter(hint).validate_python(value, strict=True)
            fits = hint is not Any or value is None  # a component, which is two names, or none
        except ValidationError:
            fits = False
        numbers = [each for _, each in network_files.entries({key: value}) if isinstance(each, int | float)]
        if not fits or not all(math.isfinite(n) and low <= n <= high for n in numbers):
            raise BowerbirdError(
                f"{folder / FILE}: {key} is {ascii(value)[:60]}, which no {pipeline.__name__} has; fetch it again"
            )
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise BowerbirdError(f"{folder / FILE}: {key} has {len(value):,} characters; fetch the model again")


def component_classes(pipeline: type, index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The classes of the components that the `index` of `folder` names, by component.

    Imported is what lies in `LIBRARIES`, in our models, or in the package of `pipeline` itself. Raises: BowerbirdError
    for anything else, and for a class that is no network, tokenizer or scheduler.
    """
    named = {key: value for key, value in index.items() if not key.startswith("_") and _is_component(value)}
    top = pipeline.__module__.split(".")[0]
    packages = OWN if top == "bowerbird" else (*OWN, top)
    found = {}
    for part, (library, name) in named.items():
        if library is None and name is None:
            continue
        if pipeline.__module__.startswith(f"diffusers.pipelines.{library}."):  # a network that is one pipeline's own
            library = f"diffusers.pipelines.{library}"
        known = library in LIBRARIES or any(f"{library}.".startswith(f"{each}.") for each in packages)
        kind = None
        if known and re.fullmatch(r"[\w.]+", library) and re.fullmatch(r"[A-Za-z]\w*", str(name)):
            try:
                kind = getattr(importlib.import_module(library), name, None)
            except ImportError:
                kind = None
        if not _fits(part, kind, library):
            raise BowerbirdError(
                f"{folder / FILE}: its {part[:60]} is of {ascii(library)[:60]}, {ascii(name)[:60]}; bowerbird opens"
                " networks, tokenizers and schedulers of diffusers, transformers and its own"
            )
        found[part] = kind
    return found


def load_quantized(pipeline: type, folder: Path, given: set[str], dtype: Any) -> dict[str, Any]:
    """The networks that the bundled model in `folder` holds at 8 bits, but for those `given`."""
    kinds = component_classes(pipeline, read_index(folder), folder)
    there = [part for part in kinds if part not in given and (folder / part / quantized.FILE).is_file()]
    return {part: quantized.load(kinds[part], folder / part, dtype) for part in there}


def load_shared(pipeline: type, folder: Path, given: set[str], dtype: Any) -> dict[str, Any]:
    """The components that the bundled model in `folder` has from another's, but for those `given`; of any other folder
    none."""
    from torch import nn

    shared = weights.SHARED.get(folder.name, {}) if network_files.is_bundled(folder) else {}
    kinds = component_classes(pipeline, read_index(folder), folder) if shared else {}
    found = {}
    for part, place in shared.items():
        if part not in given:
            options = {"dtype": dtype} if issubclass(kinds[part], nn.Module) else {}
            found[part] = kinds[part].from_pretrained(weights.FOLDER / place, **options)
    return found


def load_networks(
    kinds: dict[str, Any], folder: Path, given: set[str], dtype: Any, options: dict[str, Any]
) -> dict[str, Any]:
    """The networks among the components of `kinds`, but for those `given`; a scheduler's configuration is looked at.

    Raises: BowerbirdError for what is missing or damaged; whatever the libraries raise.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    loaded = {}
    for part, kind in kinds.items():
        if part in given:
            continue
        place = folder / part
        if not place.is_dir():
            raise BowerbirdError(f"{folder}: {part} is missing; fetch the whole model again")
        if issubclass(kind, ModelMixin | PreTrainedModel):
            variant = network_files.only_variant(place)
            own = options if variant is None else {"variant": variant, **options}
            loaded[part] = network_files.load_network(kind, place, dtype=dtype, **own).eval()
        elif part == "scheduler":
            network_files.check_config(place / "scheduler_config.json")
    return loaded


def _is_component(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(each is None or isinstance(each, str) for each in value)


def _fits(part: str, kind: Any, library: str | None) -> bool:
    """Whether the class `kind` is what a component called `part` can be."""
    if not isinstance(kind, type) or not hasattr(kind, "from_pretrained"):
        return False
    if library == "transformers":
        from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
        from transformers.image_processing_base import ImageProcessingMixin

        return issubclass(kind, PreTrainedModel | PreTrainedTokenizerBase | ProcessorMixin | ImageProcessingMixin)
    from diffusers import ModelMixin, SchedulerMixin

    if str(library).startswith("diffusers.pipelines."):
        from transformers import PreTrainedModel

        return issubclass(kind, ModelMixin | PreTrainedModel)
    theirs = library != "diffusers" and not str(library).startswith("bowerbird.")
    return theirs or issubclass(kind, SchedulerMixin if part == "scheduler" else ModelMixin)
