"""The text encoder that captions are searched by: loaded, compared with what a knowledge base records, recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import TextEncoder
from bowerbird.knowledge.storage.protocol import CAPTIONS, HoldsCaptionVectors

if TYPE_CHECKING:
    from bowerbird.knowledge.storage.protocol import Store


def load(given: TextEncoder | str | None, device: str) -> TextEncoder | None:
    """A text encoder that a person gave, itself or by a name."""
    from bowerbird import encoders

    return encoders.load_text(given, device=device) if isinstance(given, str) else given


def load_recorded(manifest: Mapping[str, Any], place: str, device: str) -> TextEncoder | None:
    """The one that a manifest records; None where it records none. Raises: BowerbirdError when it is not on this
    machine, MismatchError when its name now means other weights."""
    from bowerbird import encoders

    facts = manifest.get(CAPTIONS)
    if facts is None:
        return None
    found = encoders.load_recorded_text(str(facts["name"]), str(facts["fingerprint"]), device=device)
    check(manifest, found, place)
    return found


def recorded(encoder: TextEncoder | None) -> dict[str, Any]:
    """What a manifest says of it."""
    if encoder is None:
        return {}
    return {CAPTIONS: {"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim}}


def keep(store: Store, encoder: TextEncoder | None) -> None:
    """Record it in a new store. Raises: BowerbirdError for a store that keeps no vectors of captions."""
    if encoder is None or recorded(encoder).items() <= store.manifest.items():
        return
    if not isinstance(store, HoldsCaptionVectors):
        raise BowerbirdError(
            f"{store.path}: keeps no vectors of captions, only a directory does; leave out `caption_encoder`"
        )
    with store.writing():
        store.keep(recorded(encoder))


def check(manifest: Mapping[str, Any], encoder: TextEncoder, place: str) -> None:
    """Raises: MismatchError when captions have no vectors, or those of another encoder."""
    facts = manifest.get(CAPTIONS)
    if facts is None:
        raise MismatchError(
            f"{place}: its captions have no vectors; build it again to search them so: bowerbird kb build NEW SOURCE"
            f" --caption-encoder {encoder.name}"
        )
    if (encoder.fingerprint, encoder.dim) != (facts["fingerprint"], facts["dim"]):
        raise MismatchError(
            f"{place}: captions were embedded by {facts['name']!r} ({facts['fingerprint']}, dimension {facts['dim']}),"
            f" not by {encoder.name!r} ({encoder.fingerprint}, {encoder.dim}); open it with its own, or build it again"
        )
