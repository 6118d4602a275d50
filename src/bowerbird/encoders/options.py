"""Settings in an encoder's name, as in `Qwen/Qwen3-VL-Embedding-2B?dim=512&instruction=Find%20the%20same%20place`.

Vectors of other settings are no more comparable than those of other weights, so the settings are part of the name that
is recorded and of the fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from bowerbird.core.errors import BowerbirdError

KEYS = ("dim", "instruction")
LONGEST = 1000
"""Characters of an instruction."""


@dataclass(frozen=True)
class Options:
    """`dim`: how many of the first numbers of an embedding are kept (Matryoshka representations), all when None;
    `instruction`: what the model is asked to represent, its own default when None."""

    dim: int | None = None
    instruction: str | None = None

    def __str__(self) -> str:
        """The part of a name from `?` on; empty where nothing is set."""
        given = {key: getattr(self, key) for key in KEYS if getattr(self, key) is not None}
        return "?" + "&".join(f"{key}={quote(str(value))}" for key, value in given.items()) if given else ""

    def marked(self, fingerprint: str) -> str:
        """The fingerprint of an encoder with these settings, of that of its weights."""
        if not str(self):
            return fingerprint
        return hashlib.sha256(f"{fingerprint}{self}".encode()).hexdigest()[:16]

    def checked_dim(self, name: str, whole: int) -> int:
        """The dimension of the embeddings, of `whole` in the weights. Raises: BowerbirdError for more."""
        if self.dim is not None and self.dim > whole:
            raise BowerbirdError(f"encoder {name!r}: dim={self.dim} of the {whole} numbers that it gives; choose fewer")
        return whole if self.dim is None else self.dim


NONE = Options()


def split(text: str) -> tuple[str, Options]:
    """A name as it was given -> the encoder's name, and its settings. Raises: BowerbirdError for what is no setting."""
    name, mark, query = text.partition("?")
    if not mark or Path(text).exists():
        return text, NONE
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in KEYS or key in found or not value or len(unquote(value)) > LONGEST:
            raise BowerbirdError(
                f"encoder {text[:200]!r}: {key[:60]!r} is no setting; after ? stand dim=NUMBER and instruction=TEXT, as"
                " in NAME?dim=512"
            )
        found[key] = value
    number = found.get("dim")
    if not found or (number is not None and not (number.isdecimal() and int(number[:9]) >= 1 and len(number) < 9)):
        raise BowerbirdError(f"encoder {text[:200]!r}: dim is a whole number of 1 or more, as in NAME?dim=512")
    return name, Options(None if number is None else int(number), found.get("instruction"))


def check_taken(name: str, options: Options, taken: Collection[str]) -> None:
    """Raises: BowerbirdError when an encoder is given a setting that it does not have."""
    for key in KEYS:
        if getattr(options, key) is not None and key not in taken:
            raise BowerbirdError(
                f"encoder {name!r} has no {key}; settings are for Qwen3-VL-Embedding and for text encoders"
            )
