"""An adapter's file before anything is loaded: for which base it is and which image encoder it needs, by the shapes of
its tensors. Its name says nothing.

Safetensors are known by their header; pickles (`.bin`) are walked by the restricted reader, which runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json, printable
from bowerbird.core.torch_file import Stored, read_torch_file
from bowerbird.core.types import TokenLayout
from bowerbird.systems.grounded.bases import BaseFacts
from bowerbird.systems.reference_settings import ADAPTER_FILE, SCALE, TRAINED_SCALE

if TYPE_CHECKING:
    import torch

ADAPTER, ENCODER, HEADER = ADAPTER_FILE, "image_encoder", "bowerbird.encoder"
"""The file that a training of ours writes, the folder beside it, and the entry of its header that names the encoder:
shapes alone would not tell two of one dimension apart."""
POOLED, PENULTIMATE, LAST = "pooled", "penultimate", "last"
ENCODERS = {
    (POOLED, 1024): (
        "CLIP ViT-H/14",
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K",),
        "h94/IP-Adapter models/image_encoder",
    ),
    (POOLED, 1280): (
        "CLIP ViT-bigG/14",
        ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",),
        "h94/IP-Adapter sdxl_models/image_encoder",
    ),
    (POOLED, 768): ("CLIP ViT-L/14", ("openai/clip-vit-large-patch14",), "openai/clip-vit-large-patch14"),
    (POOLED, 1152): ("SigLIP so400m/14-384", ("google/siglip-so400m-patch14-384",), "google/siglip-so400m-patch14-384"),
    (PENULTIMATE, 1280): ("CLIP ViT-H/14", (), "h94/IP-Adapter models/image_encoder"),
    (PENULTIMATE, 1664): ("CLIP ViT-bigG/14", (), "h94/IP-Adapter sdxl_models/image_encoder"),
    (PENULTIMATE, 1024): ("CLIP ViT-L/14", (), "openai/clip-vit-large-patch14"),
    (PENULTIMATE, 1152): ("SigLIP so400m/14-384", (), "google/siglip-so400m-patch14-384"),
    (LAST, 1152): ("SigLIP so400m/14-384", (), "black-forest-labs/FLUX.1-Redux-dev image_encoder"),
}
"""Image encoders by what an adapter reads of them and its dimension: name, hub ids of full CLIPs that a knowledge base
can be built with, and where the encoder alone is found."""
FACE = (
    "is a FaceID or InstantID adapter: it reads faces by insightface, whose models are for non-commercial research"
    " only, so bowerbird does not open it; take an IP-Adapter that reads pictures, e.g. ip-adapter-plus-face_sd15"
)
RENAMED = (
    ("image_proj_model.", "image_proj."),
    ("ip_adapter_proj_model.", "image_proj."),
    ("adapter_modules.", "ip_adapter."),
)
"""Prefixes that training programs and XLabs write, and what everybody else calls the same."""
DOUBLE = re.compile(r"double_blocks\.(\d+)\.processor\.ip_adapter_double_stream_([kv])_proj\.(weight|bias)")
IN_UNET = re.compile(r"(?:unet\.)?((?:down|up|mid)_block.*)\.processor\.(to_[kv]_ip)\.(?:0\.)?(weight)")


@dataclass(frozen=True)
class EncoderNeed:
    """The image encoder that an adapter reads: its `output` (`pooled`: the projected embedding; `penultimate`, `last`:
    a hidden state for each patch) and that output's dimension. `name`, `fingerprint`: of an encoder of bowerbird's, as
    the file records them; `layout`: where it describes patches, which the adapter reads as tokens."""

    output: str
    dim: int
    name: str = ""
    fingerprint: str = ""
    layout: TokenLayout | None = None

    @property
    def title(self) -> str:
        """The encoder in words, and where it is found."""
        if self.fingerprint:
            return f"encoder {self.name!r} ({self.fingerprint}, {self.dim} dimensions)"
        name, _, place = ENCODERS.get((self.output, self.dim), ("", (), ""))
        what = f"an image encoder whose {self.output} output has {self.dim} dimensions"
        return f"{what} ({name}, {place})" if name else what

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """CLIPs whose embeddings are this encoder's."""
        return ENCODERS.get((self.output, self.dim), ("", (), ""))[1]


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter's file holds: which `injector` runs it, its `kind` in words, the `base` that it was trained on
    (family, text dimension, widths of its layers), how many `tokens` it makes of a picture, the `encoder` it needs."""

    path: Path
    injector: str
    kind: str
    base: BaseFacts
    tokens: int
    encoder: EncoderNeed
    tensors: Mapping[str, Stored] = field(repr=False, compare=False, default_factory=dict)

    @property
    def usual_scale(self) -> float:
        """How strongly a base attends to this adapter's references where nothing is said."""
        return TRAINED_SCALE if self.encoder.fingerprint else SCALE

    def check_base(self, base: BaseFacts) -> None:
        """Raises: BowerbirdError where this adapter is of another base."""
        own = self.base
        same_text = own.context_dim in (0, base.context_dim)
        if own.family == base.family and same_text and own.widths in ((), base.widths):
            return
        theirs = base.title
        if theirs == own.title:  # as many layers
            sizes = zip((own.context_dim, *own.widths), (base.context_dim, *base.widths), strict=True)
            wanted, there = next((one, other) for one, other in sizes if one != other)
            theirs += f", of other widths ({there} where the adapter has {wanted})"
        raise BowerbirdError(
            f"{self.path}: {self.kind} for {own.title}, and this base is {theirs}; give an adapter for this base,"
            " or the base of this adapter"
        )

    def read(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {name[len(prefix) :]: each.read() for name, each in self.tensors.items() if name.startswith(prefix)}


def read_tensors(path: str | Path) -> dict[str, Stored]:
    """The tensors in an adapter's file, none of them read, by the names `image_proj.…` and `ip_adapter.N.…` whoever
    wrote it. Raises: BowerbirdError for a file that is damaged, or holds code."""
    flat = dict(_flatten(read_torch_file(path), ""))
    if not flat:
        raise BowerbirdError(f"{path}: holds no tensors; give an adapter's weights")
    return _in_order({_renamed(name): each for name, each in flat.items()})


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Stored]]:
    if isinstance(value, Stored):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flatten(each, f"{name}.{key}" if name else str(key))


def _renamed(name: str) -> str:
    name = name.removeprefix("module.")
    for theirs, ours in RENAMED:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    if found := DOUBLE.fullmatch(name):
        return f"ip_adapter.{found[1]}.to_{found[2]}_ip.{found[3]}"
    return name


def _in_order(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Layers that a training program left under their places in the U-Net, by number: down, up, then middle."""
    named = {name: found for name in tensors if (found := IN_UNET.fullmatch(name))}
    if any(name.startswith("ip_adapter.") for name in tensors):
        return {name: each for name, each in tensors.items() if name not in named}

    def place(layer: str) -> tuple[Any, ...]:
        return (("down", "up_b", "mid_").index(layer[:4]), [int(n) for n in re.findall(r"\.(\d+)", layer)])

    order = {layer: at for at, layer in enumerate(sorted({found[1] for found in named.values()}, key=place))}
    moved = {name: f"ip_adapter.{2 * order[found[1]] + 1}.{found[2]}.{found[3]}" for name, found in named.items()}
    return {moved.get(name, name): each for name, each in tensors.items()}


def recorded_need(path: Path) -> EncoderNeed | None:
    """The encoder of bowerbird's that the header of the adapter's file at `path` names, None where it names none.

    Anybody may have written it. Raises: BowerbirdError when it is damaged.
    """
    if path.suffix != ".safetensors" or not (text := files.read_tensor_metadata(path).get(HEADER)):
        return None
    try:
        said = parse_json(text, str(path), "note on its encoder")
        layout = None if said.get("layout") is None else TokenLayout(**said["layout"])
        found = EncoderNeed(POOLED, said["dim"], printable(said["name"])[:100], printable(said["fingerprint"]), layout)
        numbers = [found.dim, *(() if layout is None else (layout.semantic, layout.tokens, layout.token_dim))]
        sound = all(type(number) is int and 0 < number < 2**16 for number in numbers) and (
            layout is None or (layout.dim == found.dim and layout.style >= 0 and layout.token_length > 0)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BowerbirdError(f"{path}: its header says nothing sound of its encoder; fetch it again") from error
    if not sound:
        raise BowerbirdError(f"{path}: its header says nothing sound of its encoder; fetch it again")
    return found


def layer_shapes(tensors: Mapping[str, Stored], name: str = "to_k_ip.weight") -> list[tuple[int, ...]]:
    """The shapes of the tensor called `name` in each of an adapter's layers, in order."""
    found = {
        int(parts[1]): each.shape
        for key, each in tensors.items()
        if len(parts := key.split(".", 2)) == 3 and parts[0] == "ip_adapter" and parts[1].isdigit() and parts[2] == name
    }
    return [found[number] for number in sorted(found)]


def is_face(tensors: Mapping[str, Stored]) -> bool:
    """Whether it reads faces: by insightface's 512 numbers (FaceID, InstantID), or with the LoRA of FaceID files."""
    first = tensors.get("image_proj.proj.0.weight")
    by_face = first is not None and "image_proj.norm.weight" in tensors and first.shape[-1] == 512
    into = tensors.get("image_proj.proj_in.weight")  # InstantID's resampler
    return (
        by_face
        or (into is not None and into.shape[-1] == 512)
        or any(name.startswith("image_proj.perceiver_resampler.") for name in tensors)
        or any("_lora." in name for name in tensors)
    )
