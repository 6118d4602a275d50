"""The encoder that a knowledge base is embedded by: loaded, and compared with what the manifest records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Encoder, TokenEncoder


@overload
def load(given: Encoder | str, device: str) -> Encoder: ...
@overload
def load(given: Encoder | str | None, device: str) -> Encoder | None: ...
def load(given: Encoder | str | None, device: str) -> Encoder | None:
    """An encoder that a person gave, itself or by a name."""
    from bowerbird import encoders

    return encoders.load(given, device=device) if isinstance(given, str) else given


def load_recorded(manifest: Mapping[str, Any], place: str, device: str) -> Encoder:
    """The one that a manifest records. Raises: MismatchError when its name now means other weights, BowerbirdError when
    it is the name of code or of what would be fetched."""
    from bowerbird import encoders

    facts = manifest["encoder"]
    found = encoders.load_recorded(str(facts["name"]), str(facts["fingerprint"]), device=device)
    check(manifest, found, place)
    return found


def check(manifest: Mapping[str, Any], encoder: Encoder, place: str) -> None:
    """Raises: MismatchError for another encoder than the recorded one."""
    facts = manifest["encoder"]
    if encoder.fingerprint != facts["fingerprint"] or encoder.dim != facts["dim"]:
        raise MismatchError(
            f"{place}: made with encoder {facts['name']!r} ({facts['fingerprint']}, embedding dimension"
            f" {facts['dim']}), not with {encoder.name!r} ({encoder.fingerprint}, {encoder.dim}); open it"
            f" with its own, or build it again: bowerbird kb build NEW SOURCE --encoder {encoder.name}"
        )


def token_dim(encoder: Encoder) -> int:
    """The dimension of its tokens. Raises: BowerbirdError for an encoder that gives none."""
    if not isinstance(encoder, TokenEncoder):
        raise BowerbirdError(
            f"encoder {encoder.name!r} gives one vector of a picture and no tokens; leave out `tokens`, or take small,"
            " CLIP, SigLIP, ColPali, ColQwen2 or ColModernVBERT"
        )
    return encoder.token_dim
