"""Frozen networks as measures use them: found by name or path, their outputs cached by picture.

judge directory              bowerbird train judge             "judge:DIR"
CLIP, SigLIP or our encoders a directory, a hub id, or "small"     "encoder:NAME"
Inception-v3                 .safetensors, .pth or TorchScript     "inception:FILE"
SSCD                         TorchScript                           "sscd:FILE", short edge 288: "sscd-288:FILE"
near copies, bundled         bowerbird train tiny-copies           "tiny-copies", "copies:DIR"
gradients                    needs no weights                      "gradients"
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import cache, files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.lock import lock
from bowerbird.models import weights

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bowerbird.core.types import FeatureExtractor

KINDS = ("judge", "encoder", "inception", "sscd", "sscd-288", "copies")
BARE = ("tiny-copies", "gradients")


def load(spec: str) -> FeatureExtractor:
    """The extractor for `kind:path` (see above). Raises: BowerbirdError when there is no such kind or file."""
    kind, _, path = spec.partition(":")
    if spec == "tiny-copies":
        from bowerbird.encoders.copy_descriptor import CopyDescriptor

        return CopyDescriptor(weights.FOLDER / spec)
    if spec == "gradients":
        from bowerbird.encoders.gradients import GradientEncoder

        return GradientEncoder()
    if kind not in KINDS or not path:
        raise BowerbirdError(
            f"features {spec!r}: write KIND:PATH with one of {', '.join(KINDS)}; or {' or '.join(BARE)}"
        )
    if kind == "judge":
        from bowerbird.evaluation.judge import Judge

        return Judge(Path(path))
    if kind == "encoder":
        from bowerbird import encoders

        return encoders.load(path)  # type: ignore[return-value]  # every encoder of ours says how it prepares pictures
    if kind == "copies":
        from bowerbird.encoders.copy_descriptor import CopyDescriptor

        return CopyDescriptor(Path(path))
    if kind == "inception":
        from bowerbird.encoders.inception import InceptionFeatures

        return InceptionFeatures(path)
    from bowerbird.encoders.sscd import SSCDFeatures

    return SSCDFeatures(path, square=kind == "sscd")


class Remembering:
    """A `FeatureExtractor` that looks at a picture once while it is among the last `most`: neighbors come again with
    every picture that is generated from them. Only for one whose vectors do not depend on what else is in the call."""

    def __init__(self, extractor: FeatureExtractor, most: int) -> None:
        self.extractor, self.most = extractor, most
        self.name, self.dim, self.fingerprint = extractor.name, extractor.dim, extractor.fingerprint
        self.preprocessing = extractor.preprocessing
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n pictures -> float32 `(n, dim)`."""
        keys = [_content(picture) for picture in pictures]
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._known}
        if missing:
            made = self.extractor.embed_images(list(missing.values()))
            self._known |= dict(zip(missing, made, strict=True))
        found = np.stack([self._known[key] for key in keys]) if keys else np.zeros((0, self.dim), np.float32)
        for key in keys:
            self._known.move_to_end(key)
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return found


def _content(picture: Image.Image) -> bytes:
    return hashlib.blake2b(f"{picture.mode} {picture.size} ".encode() + picture.tobytes(), digest_size=16).digest()


def load_or_make(kind: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that are made once: those kept under `key` in the cache folder `kind`, else what `make` returns."""
    return cache.memoize(cache.directory(kind) / f"{key}.safetensors", key, make)


def picture_hash(picture: Image.Image) -> int:
    """A 63-bit hash of a picture's RGB pixels and size."""
    rgb = picture.convert("RGB")
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height}".encode() + rgb.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def extract(extractor: FeatureExtractor, pictures: Sequence[Image.Image], *, cached: bool = True) -> np.ndarray:
    """Features float32 `(n, dim)` of n pictures; those met before come from the cache, the others are computed once
    and added."""
    if not cached:
        return extractor.embed_images(list(pictures))
    import torch

    file = cache.directory("features") / f"{extractor.name.replace('/', '_')}-{extractor.fingerprint}.safetensors"
    keys = [picture_hash(p) for p in pictures]
    with lock(Path(f"{file}.lock"), f"{file}: another process has been adding to it for a day"):
        known: dict[int, np.ndarray] = {}
        if file.is_file():
            try:
                stored = files.load_tensors(file)
                known = dict(zip(stored["keys"].tolist(), stored["features"].numpy(), strict=True))
            except (BowerbirdError, KeyError, ValueError):  # a damaged cache is an empty one
                known = {}
        missing = {key: i for i, key in enumerate(keys) if key not in known}
        if missing:
            made = extractor.embed_images([pictures[i] for i in missing.values()])
            known |= dict(zip(missing, made, strict=True))
            files.save_tensors(
                file,
                {
                    "keys": torch.tensor(list(known), dtype=torch.int64),
                    "features": torch.from_numpy(np.stack(list(known.values()))),
                },
            )
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, extractor.dim), np.float32)
