"""CLIP, SigLIP and SigLIP2 through transformers, behind the same two methods as our own encoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.quiet import quiet_loading
from bowerbird.core.weight_files import folder_fingerprint
from bowerbird.encoders.clip_tokens import image_tokens, text_tokens
from bowerbird.models import network_files

if TYPE_CHECKING:
    import torch
    from PIL import Image


class ClipEncoder:
    """`Encoder` over a transformers model with `get_text_features` and `get_image_features` and its own
    preprocessing."""

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, name: str, fingerprint: str, device: str
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.name, self.fingerprint, self.device = name, fingerprint, device
        self.preprocessing = (
            f"the model's own: {type(image_processor).__name__}, {getattr(image_processor, 'size', '')}"
        )
        config = model.config
        text, vision = config.text_config, config.vision_config
        own = getattr(config, "projection_dim", None) or getattr(text, "projection_size", None)
        self.dim = self.shared_dim = int(own or text.hidden_size)
        # SigLIP2 of any aspect ratio has a number of patches in place of a size
        self.picture_size = int(
            getattr(vision, "image_size", None) or vision.patch_size * math.ceil(vision.num_patches**0.5)
        )
        self.siglip = config.model_type.startswith("siglip")
        self.max_length = int(config.text_config.max_position_embeddings)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts (cut at the model's length) -> raw float32 `(n, dim)`."""
        import torch

        if not texts:
            return np.zeros((0, self.dim), np.float32)
        parts = []
        with torch.inference_mode():
            for i in range(0, len(texts), 64):
                parts.append(_pool(self._read(list(texts[i : i + 64]))[1]))
        return np.concatenate(parts)

    def _read(self, texts: list[str]) -> tuple[Any, Any]:
        """What goes into the text half, and what comes out."""
        # SigLIP and SigLIP2 were trained on small letters, and on padding that is read as text is. Those of SigLIP2
        # that come with Gemma's tokenizer lower nothing themselves (transformers#43054).
        made = self.tokenizer(
            [text.lower() for text in texts] if self.siglip else texts,
            padding="max_length" if self.siglip else True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        given = {"input_ids": made["input_ids"]} if self.siglip else made
        return made, self.model.get_text_features(**given)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        import torch

        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        parts = []
        with torch.inference_mode():
            for i in range(0, len(pictures), 32):
                made = self.image_processor(images=list(pictures[i : i + 32]), return_tensors="pt").to(self.device)
                parts.append(_pool(self.model.get_image_features(**made)))
        return np.concatenate(parts)

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """What the network is given of n pictures, float32 `(n, 3, S, S)`."""
        return self.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]

    @property
    def token_dim(self) -> int:
        """As of a `TokenEncoder`: the space of the whole."""
        return self.dim

    def embed_images_with_tokens(self, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
        """As `TokenEncoder`: the patches, see `clip_tokens.py`."""
        import torch

        vectors, tokens = [np.zeros((0, self.dim), np.float32)], list[np.ndarray]()
        with torch.inference_mode():
            for i in range(0, len(pictures), 32):
                made = self.image_processor(images=list(pictures[i : i + 32]), return_tensors="pt").to(self.device)
                seen = self.model.get_image_features(**made)
                tokens += image_tokens(self.model, made, seen)
                vectors.append(_pool(seen))
        return np.concatenate(vectors), tokens

    def embed_text_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `TokenEncoder`."""
        import torch

        with torch.inference_mode():  # one alone: what it gives is not to depend on the padding of others
            return [text_tokens(self.model, *self._read([text]))[0] for text in texts]

    def tower(self) -> torch.nn.Module:
        """The network for pictures: pixels -> raw embeddings `(n, dim)`."""
        from bowerbird.models.tower import Tower

        if not hasattr(self.model.config.vision_config, "image_size"):
            raise BowerbirdError(f"encoder {self.name!r} takes pictures of any shape, with more than their pixels")
        return Tower(self.model, "get_image_features", _pooled)


def _pool(output: Any) -> np.ndarray:
    found: np.ndarray = _pooled(output).float().cpu().numpy()
    return found


def _pooled(output: Any) -> torch.Tensor:
    """transformers 5 returns an object, 4 a tensor."""
    tensor: torch.Tensor = getattr(output, "pooler_output", output)
    return tensor


def load_clip(path: str | Path, *, name: str, device: str = "cpu", fetch: bool = False) -> ClipEncoder:
    """Open CLIP, SigLIP or SigLIP2 from a directory or hub id; safetensors alone. A hub's is one that was fetched
    before, unless `fetch`.

    Raises: BowerbirdError when it is not there or not complete.
    """
    from huggingface_hub import snapshot_download
    from transformers import AutoModel, AutoTokenizer

    with opening(f"encoder {name!r}", "give a directory or hub id of CLIP or SigLIP with safetensors"):
        place = str(path)
        if not Path(place).is_dir() and not fetch:  # of a name some things are asked in any case, of a folder nothing
            place = snapshot_download(place, local_files_only=True)
        if Path(place).is_dir():
            network_files.check_folder(Path(place))
        options: dict[str, Any] = {"local_files_only": not fetch}
        with quiet_loading():
            model = AutoModel.from_pretrained(place, use_safetensors=True, **options)
        network_files.check_finite(model, Path(place))
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        processor = _processor(model.config.model_type).from_pretrained(place, **options)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise BowerbirdError(
            f"encoder {name!r} is a {model.config.model_type} model, which has no common space for text and pictures;"
            " give CLIP or SigLIP"
        )
    return ClipEncoder(model, tokenizer, processor, name, _fingerprint(str(path), model), device)


def _processor(kind: str) -> Any:
    """The class that prepares pictures for a model of this type."""
    from transformers import CLIPImageProcessorPil, Siglip2ImageProcessorPil, SiglipImageProcessorPil

    return {"siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}.get(kind, CLIPImageProcessorPil)


def _fingerprint(path: str, model: Any) -> str:
    """Hash of the weights: of the files where they are local, of the tensors where they came from a hub's cache."""
    if Path(path).is_dir() and any(Path(path).glob("*.safetensors")):
        return folder_fingerprint(path)
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
