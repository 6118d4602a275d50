"""`load(name)`: from a bundled name, a directory, a hub id or a class of one's own to an `Encoder`, or one line that
says what would work. `load_text` does the same for encoders of texts alone.

An encoder of ours is one line of `BUILT_IN`. What an encoder must do is written in `core.types.Encoder`; a class of
somebody else's joins as the name `module:Class`, or for good by an entry point of a package in the group
`bowerbird.encoders`, under the entry point's name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.core import files, plugins
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.text import printable
from bowerbird.core.types import Encoder, TextEncoder
from bowerbird.encoders import engines, installed, known, options, photos, sentence
from bowerbird.encoders.clip import load_clip
from bowerbird.encoders.options import Options
from bowerbird.models.weights import bundled

BUILT_IN: Mapping[str, str] = {
    "bowerbird-small-encoder": "bowerbird.encoders.small:load_small",
    "bowerbird-patch-encoder": "bowerbird.encoders.small:load_small",
    "clip": "bowerbird.encoders.clip:load_clip",
    "siglip": "bowerbird.encoders.clip:load_clip",
    "colpali": "bowerbird.encoders.late_interaction:load_late_interaction",
    "colqwen2": "bowerbird.encoders.late_interaction:load_late_interaction",
    "colmodernvbert": "bowerbird.encoders.late_interaction:load_late_interaction",
    "siglip2": "bowerbird.encoders.clip:load_clip",
    "clip_vision_model": "bowerbird.encoders.clip_vision:load_clip_vision",
    "dinov2": "bowerbird.encoders.dino:load_dino",
    "dinov2_with_registers": "bowerbird.encoders.dino:load_dino",
    "dinov3_vit": "bowerbird.encoders.dino:load_dino",
    "dinov3_convnext": "bowerbird.encoders.dino:load_dino",
    "qwen3_vl": "bowerbird.encoders.qwen_embedding:load_qwen_embedding",
}
"""By what the `config.json` of a directory says it is (`type` or `model_type`): the function `(path, *, name, device)`
that opens it, with `options` where it is among `WITH_OPTIONS`."""
WITH_OPTIONS = ("qwen3_vl",)
FROM_A_HUB = ("clip", "siglip", "siglip2")
"""Those that transformers finds in a hub itself: some of theirs are safetensors on a branch of their own alone."""
MINILM = "minilm"
ENTRY_POINTS = "bowerbird.encoders"
MEMBERS = ("dim", "shared_dim", "fingerprint", "embed_text", "embed_images")
FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model"]
UNFETCHED = ["onnx/*", "openvino/*"]


def load(name: str | Path = "small", *, device: str = "cpu") -> Encoder:
    """The encoder called `name`: `small` and `small-patches` (bundled), `photos` (of the extra), a directory (ours, or
    in transformers layout CLIP, its vision half, SigLIP, SigLIP2, DINOv2, DINOv3, Qwen3-VL-Embedding, ColPali, ColQwen2
    or ColModernVBERT), a hub id of one of those, an installed encoder, or `module:Class` (a class of one's own, made
    with `device=` where it takes that). Settings stand behind the name (`encoders.options`),
    and behind them another program to run its network for pictures, as in `small@onnx` (`encoders.engines`).

    For a name that a person gave; see `load_recorded` for others. Its own `name` says nothing of the machine: of a
    directory elsewhere it is the last part. Raises: BowerbirdError when there is no such encoder or the directory
    holds something else.
    """
    text, engine = engines.split(str(name))
    if engine is not None:
        return _with_engine(load(text, device=engines.device_of(engine, device)), engine)
    if plugins.is_path(text):
        return _instance(plugins.load_object(text, "encoder"), text, device)
    return _named(text, device) or _hub(text, device, fetch=True)


def load_text(name: str | Path, *, device: str = "cpu") -> TextEncoder:
    """The text encoder called `name`: `minilm` (of the extra `photos`), or a directory or hub id in the layout of
    sentence-transformers. Settings stand behind the name.

    For a name that a person gave. Raises: BowerbirdError when there is none, or it is something else.
    """
    text = str(name)
    return _text_here(text, device) or _text_hub(text, device, fetch=True)


def _with_engine(encoder: Encoder, engine: str) -> Encoder:
    """The encoder in another engine; where it lies stays known."""
    made = engines.with_engine(encoder, engine)
    place = known.place_of(encoder.fingerprint)
    if place is not None and not bundled(encoder.name):
        known.remember(made.fingerprint, place)
    return made


def load_recorded(name: str, fingerprint: str, *, device: str = "cpu") -> Encoder:
    """The encoder that a file calls `name`, a knowledge base or a model, which may be anybody's: one that is on this
    machine. Nothing is fetched, and no code runs but that of installed encoders, which whoever installed them chose.

    With `fingerprint` a directory is found where it was last opened, too. Raises: BowerbirdError when it is not here.
    """
    name, engine = engines.split(name)
    if plugins.is_path(name):
        raise BowerbirdError(
            f"encoder {name!r} is somebody's own code, and a name that is recorded runs none; give it yourself:"
            f" `encoder={name}`"
        )
    bare, given = options.split(name)
    for place in (known.place_of(fingerprint), Path(bare)):
        if place is not None and not _has_a_name(bare) and place.is_dir():
            found = _directory(place, name, given, device)
            found = found if engine is None else _with_engine(found, engine)
            if found.fingerprint == fingerprint:
                return found
    try:
        here = _named(name, device) or _hub(name, device, fetch=False)
        return here if engine is None else _with_engine(here, engine)
    except BowerbirdError as error:
        raise _not_here(name, fingerprint, "encoder") from error


def load_recorded_text(name: str, fingerprint: str, *, device: str = "cpu") -> TextEncoder:
    """`load_recorded` for the text encoder that a knowledge base calls `name`."""
    bare, given = options.split(name)
    for place in (known.place_of(fingerprint), Path(bare)):
        if place is not None and bare != MINILM and place.is_dir():
            found = _text_directory(place, name, given, device)
            if found.fingerprint == fingerprint:
                return found
    try:
        return _text_here(name, device) or _text_hub(name, device, fetch=False)
    except BowerbirdError as error:
        raise _not_here(name, fingerprint, "caption encoder") from error


def _not_here(name: str, fingerprint: str, what: str) -> BowerbirdError:
    option = what.replace(" ", "_")
    return BowerbirdError(
        f"{what} {ascii(name)[:100]} ({fingerprint[:16]}) is recorded, and a recorded name fetches nothing; it is"
        f" not on this machine. If you trust it, give it yourself: `{option}={printable(name)[:100]}`, or the"
        " directory it lies in"
    )


def place_of(encoder: Encoder | TextEncoder) -> str:
    """What another process on this machine gives `load` or `load_text` to get this `encoder`."""
    name, engine = engines.split(encoder.name)
    bare, given = (name, options.NONE) if plugins.is_path(name) else options.split(name)
    place = None if _has_a_name(bare) else known.place_of(encoder.fingerprint)
    return encoder.name if place is None else engines.named(f"{place}{given}", engine or engines.TORCH)


def _named(text: str, device: str) -> Encoder | None:
    """The encoder called `text` that is on this machine; None for what may be a hub id. Raises: BowerbirdError for what
    can be nothing."""
    bare, given = options.split(text)
    if text == photos.NAME:  # also where a folder of photographs is called so
        return photos.PhotoEncoder(device=device)
    path = bundled(bare) or Path(bare)
    if path.is_dir():
        return _directory(path, text, given, device)
    if text in plugins.entry_point_names(ENTRY_POINTS):
        return _instance(plugins.entry_point(ENTRY_POINTS, text), text, device)
    if bare == MINILM:
        raise BowerbirdError(
            f"encoder {text!r}: embeds captions and no pictures; give it as `caption_encoder={text}`, beside an encoder"
            " of pictures"
        )
    if not _may_be_a_hub_id(bare):
        raise BowerbirdError(
            f"encoder {text!r}: not a bundled name (small, small-patches), photos, a directory, a hub id such as"
            " openai/clip-vit-base-patch32, an installed encoder or module:Class"
        )
    return None


def _has_a_name(text: str) -> bool:
    """Whether `text` is a name of ours, which no folder of that name stands for."""
    return bundled(text) is not None or text in (photos.NAME, MINILM)


def _may_be_a_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/"))


def _directory(path: Path, text: str, given: Options, device: str) -> Encoder:
    """The encoder in the directory `path`, which was given as `text` with these settings."""
    if bundled(text):
        return _open(path, text, given, device)
    found = _open(path, files.last_part(options.split(text)[0]) + str(given), given, device)
    known.remember(found.fingerprint, path)
    return found


def _hub(text: str, device: str, *, fetch: bool) -> Encoder:
    """The encoder with a hub id: one that was fetched before, unless `fetch`."""
    bare, given = options.split(text)
    what = f"encoder {text!r}"
    if _kind(_fetched(what, bare, ["config.json"], fetch=fetch)) in FROM_A_HUB:
        options.check_taken(text, given, ())
        return load_clip(bare, name=text, device=device, fetch=fetch)
    return _open(_fetched(what, bare, FETCHED, fetch=fetch), text, given, device)


def _fetched(what: str, name: str, patterns: list[str], *, fetch: bool) -> Path:
    """The folder of a hub id on this machine, with its files of these patterns."""
    from huggingface_hub import snapshot_download

    with opening(what, "give a directory or hub id with safetensors"):
        local = not fetch
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=UNFETCHED, local_files_only=local))


def _kind(path: Path) -> str:
    config = files.read_json(path / "config.json", "encoder configuration")
    kind = config.get("type") or config.get("model_type") or config.get("_class_name", "something else")
    return kind if isinstance(kind, str) else "something else"


def _open(path: Path, name: str, given: Options, device: str) -> Encoder:
    if (path / "model_index.json").is_file():
        raise BowerbirdError(
            f"encoder {name!r}: a whole model is there, which embeds nothing; give an encoder, as small"
        )
    kind = _kind(path)
    if kind not in BUILT_IN:
        remedy = (
            f"; it is a text encoder: give it beside an encoder of pictures, as `caption_encoder={name}`"
            if (path / sentence.MODULES).is_file()
            else ""
        )
        raise BowerbirdError(
            f"encoder {name!r}: its config.json says {ascii(kind)[:60]}; bowerbird reads its own encoders, clip,"
            f" siglip, siglip2, dinov2, dinov3, qwen3_vl, colpali, colqwen2 and colmodernvbert{remedy}"
        )
    options.check_taken(name, given, options.KEYS if kind in WITH_OPTIONS else ())
    module, _, function = BUILT_IN[kind].partition(":")
    more = {"options": given} if kind in WITH_OPTIONS else {}
    encoder: Encoder = getattr(importlib.import_module(module), function)(path, name=name, device=device, **more)
    return encoder


def _text_here(text: str, device: str) -> TextEncoder | None:
    """The text encoder called `text` that is on this machine; None for what may be a hub id."""
    bare, given = options.split(text)
    if bare == MINILM:
        folder = installed.weights_of(installed.MINILM, bare).parent
        return _open_text(folder, text, given, device)
    if Path(bare).is_dir():
        return _text_directory(Path(bare), text, given, device)
    if not _may_be_a_hub_id(bare):
        raise BowerbirdError(
            f"caption encoder {text!r}: not minilm, a directory, or a hub id such as"
            " sentence-transformers/all-MiniLM-L6-v2"
        )
    return None


def _text_directory(path: Path, text: str, given: Options, device: str) -> TextEncoder:
    found = _open_text(path, files.last_part(options.split(text)[0]) + str(given), given, device)
    known.remember(found.fingerprint, path)
    return found


def _text_hub(text: str, device: str, *, fetch: bool) -> TextEncoder:
    bare, given = options.split(text)
    return _open_text(_fetched(f"caption encoder {text!r}", bare, FETCHED, fetch=fetch), text, given, device)


def _open_text(path: Path, name: str, given: Options, device: str) -> TextEncoder:
    if (path / "config.json").is_file() and _kind(path) in BUILT_IN:
        raise BowerbirdError(
            f"caption encoder {name!r}: is an encoder of pictures ({_kind(path)[:60]}); give it as `encoder={name}`,"
            " and here a text encoder in the layout of sentence-transformers"
        )
    if not (path / sentence.MODULES).is_file():
        raise BowerbirdError(
            f"caption encoder {name!r}: no {sentence.MODULES} here; give a directory or hub id in the layout of"
            " sentence-transformers, such as sentence-transformers/all-MiniLM-L6-v2"
        )
    return sentence.load_sentence(path, name=name, device=device, options=given)


def _instance(found: Any, name: str, device: str) -> Encoder:
    """An encoder of somebody else's, made when it is a class. It is called by the name it was given by, so that a
    worker process finds it too.

    Raises: BowerbirdError when something of an encoder is missing.
    """
    if isinstance(found, type):
        found = found(device=device) if "device" in inspect.signature(found).parameters else found()
    missing = plugins.missing_members(found, MEMBERS)
    if missing:
        raise BowerbirdError(
            f"encoder {name!r}: has no {', '.join(missing)}; see bowerbird.core.types.Encoder for what it must have"
        )
    found.name = name
    encoder: Encoder = found
    return encoder
