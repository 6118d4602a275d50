"""The image encoder of an adapter: what it makes of pictures, and whether a knowledge base holds just that already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bowerbird import encoders
from bowerbird.core import cache, files
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.opening import opening
from bowerbird.core.torch_file import read_torch_file
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.models import network_files
from bowerbird.systems.grounded.adapter_file import ENCODER, LAST, PENULTIMATE, POOLED, EncoderNeed
from bowerbird.systems.grounded.references import square_picture

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Encoder
    from bowerbird.knowledge.base import KnowledgeBase

CLIP_KINDS, SIGLIP_KINDS = ("clip_vision_model", "clip"), ("siglip_vision_model", "siglip")
BESIDE = (ENCODER, "../image_encoder", "../models/image_encoder", "../sdxl_models/image_encoder")
"""Where h94's and Redux's files have their encoder, from the adapter's folder."""
UNIT_LENGTH = 1e-3
"""So near to 1 are the lengths of normalized embeddings; raw ones of CLIP are about ten times as long."""


class PictureEncoder:
    """The frozen vision network in a folder, as an adapter's `need` reads it. Its weights are read when the first
    picture is encoded: with stored embeddings, never. `stays_loaded`: on the accelerator; else it goes back to main
    memory when pictures are encoded."""

    def __init__(self, folder: Path, need: EncoderNeed) -> None:
        """Raises: BowerbirdError for a folder that holds another encoder, by its configuration."""
        self.folder, self.need = folder, need
        config = network_files.check_config(folder / "config.json")
        self.kind = str(config.get("model_type", "something else"))
        if (there := _output_dim(config, need.output)) != need.dim:
            raise BowerbirdError(
                f"{folder}: an image encoder of {there} dimensions ({self.kind}), and the adapter needs {need.title}"
            )
        vision = config.get("vision_config", config) if self.kind in ("clip", "siglip") else config
        self.size = int(vision.get("image_size", 224))
        self.stays_loaded = True
        self._network: Any = None
        self._processor: Any = None

    @property
    def name(self) -> str:
        """What a record calls it: its folder's name, and that of the folder above."""
        place = self.folder.resolve()
        return f"{place.parent.name}/{place.name}"

    @property
    def fingerprint(self) -> str:
        """That of its weights' files, as knowledge bases keep it of a CLIP."""
        return folder_fingerprint(self.folder)

    def load(self, device: Any, dtype: torch.dtype) -> Any:
        """The network on a device. Raises: BowerbirdError when it cannot be opened."""
        if self._network is None:
            import transformers

            classes = {
                "clip_vision_model": transformers.CLIPVisionModelWithProjection,
                "clip": transformers.CLIPVisionModelWithProjection,
                "siglip_vision_model": transformers.SiglipVisionModel,
                "siglip": transformers.SiglipVisionModel,
            }
            with opening(f"image encoder {str(self.folder)!r}", "fetch it again"):
                network = network_files.load_network(classes[self.kind], self.folder, dtype=dtype)
                self._network = network.eval().requires_grad_(False)
                self._processor = _processor(self.folder, self.kind, self.size)
        return self._network.to(device)

    def prepare(self, picture: Image.Image, fit: str) -> Image.Image:
        """A picture as the network sees it, a square of its size."""
        return square_picture(picture, self.size, fit)

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image], fit: str, device: Any, dtype: torch.dtype) -> np.ndarray:
        """n pictures -> what the adapter reads of each, float32 `(n, …)`. One at a time, so that none depends on the
        others."""
        network = self.load(device, dtype)
        made = []
        for picture in pictures:
            pixels = self._processor(images=self.prepare(picture, fit), return_tensors="pt")["pixel_values"]
            made.append(self._read(network, pixels.to(device, dtype)))
        self._make_room()
        return np.concatenate(made)

    @torch.no_grad()
    def blank(self, device: Any, dtype: torch.dtype) -> np.ndarray:
        """What the adapter reads of no picture at all, all pixels 0, as IP-Adapter plus was trained with."""
        pixels = torch.zeros(1, 3, self.size, self.size, device=device, dtype=dtype)
        made = self._read(self.load(device, dtype), pixels)
        self._make_room()
        return made

    def _make_room(self) -> None:
        if not self.stays_loaded:
            self._network.to("cpu")

    def _read(self, network: Any, pixels: torch.Tensor) -> np.ndarray:
        if self.need.output == POOLED:
            out = network(pixels)
            found = out.image_embeds if hasattr(out, "image_embeds") else out.pooler_output
        elif self.need.output == PENULTIMATE:
            found = network(pixels, output_hidden_states=True).hidden_states[-2]
        else:
            found = network(pixels).last_hidden_state
        array: np.ndarray = found.float().cpu().numpy()
        return array


class OwnPictureEncoder(PictureEncoder):
    """An encoder of bowerbird's, as the adapters read it that were trained here."""

    def __init__(self, encoder: Encoder, need: EncoderNeed, given: str | Path | None = None) -> None:
        """Raises: BowerbirdError for another than the adapter's."""
        if encoder.fingerprint != need.fingerprint or encoder.dim != need.dim:
            raise BowerbirdError(
                f"image encoder {str(given or encoder.name)!r}: {encoder.dim} dimensions, {encoder.fingerprint}, and"
                f" the adapter needs {need.title}"
            )
        self.encoder, self.need = encoder, need
        self.size = int(getattr(encoder, "picture_size", 224))

    @property
    def name(self) -> str:
        """As it was opened."""
        return self.encoder.name

    @property
    def fingerprint(self) -> str:
        """The encoder's own."""
        return self.encoder.fingerprint

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image], fit: str, device: Any, dtype: torch.dtype) -> np.ndarray:
        """n pictures -> raw embeddings `(n, d)`; the encoder computes where it was opened."""
        return self.encoder.embed_images([self.prepare(picture, fit) for picture in pictures])


def find_encoder(need: EncoderNeed, given: str | Path | None, adapter: Path) -> PictureEncoder | None:
    """The encoder in the folder `given`, or beside the adapter's file where one there fits; None where there is none.

    Raises: BowerbirdError when the one given is another.
    """
    if need.fingerprint:
        return _find_own(need, given, adapter)
    if given is not None:
        place = Path(given)
        if not (place / "config.json").is_file():
            raise BowerbirdError(f"image encoder {str(given)!r}: no folder with a config.json; give {need.title}")
        return PictureEncoder(place, need)
    for part in BESIDE:
        place = adapter.parent / part
        if (place / "config.json").is_file():
            try:
                return PictureEncoder(place.resolve(), need)
            except BowerbirdError:
                continue
    return None


def _find_own(need: EncoderNeed, given: str | Path | None, adapter: Path) -> PictureEncoder | None:
    """The encoder of bowerbird's that was given, or lies beside the adapter's file, or is on this machine."""
    if given is not None:
        return OwnPictureEncoder(encoders.load(given), need, given)
    try:
        beside = adapter.parent / ENCODER
        if (beside / "config.json").is_file():
            return OwnPictureEncoder(encoders.load(beside), need, beside)
        return OwnPictureEncoder(encoders.load_recorded(need.name, need.fingerprint), need)
    except BowerbirdError:
        return None


def check_raw(embeddings: np.ndarray, where: str) -> None:
    """Raises: MismatchError for embeddings that were normalized, whose lengths an adapter needs."""
    lengths = np.linalg.norm(embeddings.reshape(-1, embeddings.shape[-1]), axis=-1)
    if len(lengths) and np.abs(lengths - 1).max() < UNIT_LENGTH:
        raise MismatchError(
            f"{where}: the embeddings are normalized, and an adapter needs them raw, as the encoder gives them; build"
            " the knowledge base again from the pictures: bowerbird kb build NEW SOURCE --encoder DIR"
        )


def holds_same_embeddings(kb: KnowledgeBase, need: EncoderNeed, encoder: PictureEncoder | None) -> bool:
    """Whether `kb` was built with the encoder that the adapter needs, so that its embeddings are the adapter's input:
    the same files, the same weights in a whole CLIP, or, where the encoder is not at hand, its published name."""
    if need.output != POOLED or kb.dim != need.dim:
        return False
    if need.fingerprint:
        return kb.encoder_fingerprint == need.fingerprint
    if encoder is None:
        return kb.encoder_name in need.hub_ids
    if kb.encoder_fingerprint == encoder.fingerprint:
        return True
    key = cache.key("same vision tower", kb.encoder_fingerprint, encoder.fingerprint)
    path = cache.directory("encoders") / f"{key[:32]}.safetensors"
    made = cache.memoize(path, key, lambda: {"same": torch.tensor([_same_weights(kb, encoder)])})
    return bool(made["same"][0])


def _same_weights(kb: KnowledgeBase, encoder: PictureEncoder) -> bool:
    """Whether the vision half of the knowledge base's CLIP has the encoder's weights, to half precision."""
    network = getattr(kb.encoder, "model", None)
    if network is None:
        return False
    theirs = dict(network.named_parameters())
    stored = {name: each for path in sorted(encoder.folder.glob("*.safetensors")) for name, each in _tensors(path)}
    shared = [name for name in stored if name in theirs]
    if "visual_projection.weight" not in shared or len(shared) < len(stored):
        return False
    return all(
        theirs[name].shape == stored[name].shape
        and torch.equal(theirs[name].detach().cpu().half(), stored[name].read().half())
        for name in shared
    )


def _tensors(path: Path) -> list[tuple[str, Any]]:
    return [(name, each) for name, each in read_torch_file(path).items() if not name.endswith("position_ids")]


def _output_dim(config: dict[str, Any], output: str) -> int:
    """The dimension of an encoder's output, by its configuration; 0 where it has none."""
    kind = str(config.get("model_type"))
    vision = config.get("vision_config") if kind in ("clip", "siglip") else config
    vision = vision if isinstance(vision, dict) else {}
    if kind not in CLIP_KINDS + SIGLIP_KINDS or (output == LAST and kind in CLIP_KINDS):
        return 0
    if output == POOLED and kind in CLIP_KINDS:
        return int(config.get("projection_dim") or vision.get("projection_dim") or 0)
    return int(vision.get("hidden_size") or 0)


def _processor(folder: Path, kind: str, size: int) -> Any:
    """The preprocessing that lies beside the weights, CLIP's or SigLIP's own where none does; at the network's size."""
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    siglip = kind in SIGLIP_KINDS
    options: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        said = files.read_json(folder / "preprocessor_config.json", "preprocessing")
        options = {key: said[key] for key in ("image_mean", "image_std") if key in said}
    edges = {"height": size, "width": size}
    if siglip:
        return SiglipImageProcessorPil(size=edges, **options)
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=edges, **options)
