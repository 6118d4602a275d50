"""What makes a base read references: an adapter's file, its encoder, and the injector that fits both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.systems.grounded.bases import BaseFacts
from bowerbird.systems.grounded.injectors.protocol import Injector
from bowerbird.systems.grounded.injectors.registry import injector_for, inspect_adapter
from bowerbird.systems.grounded.picture_encoder import PictureEncoder, find_encoder

if TYPE_CHECKING:
    from bowerbird.systems.grounded.adapter_file import AdapterFacts


def find_parts(
    base: BaseFacts, adapter: str | Path | None, image_encoder: str | Path | None
) -> tuple[AdapterFacts | None, PictureEncoder | None, type[Injector] | None]:
    """What an adapter's file is, its encoder and its injector; nothing is loaded. Raises: BowerbirdError when they do
    not fit the base or each other."""
    facts = None if adapter is None else inspect_adapter(adapter)
    kind = injector_for(base, facts)
    if facts is None:
        if image_encoder is not None:
            raise BowerbirdError("`image_encoder` is an adapter's; give the adapter too (`adapter`)")
        return None, None, kind
    return facts, find_encoder(facts.encoder, image_encoder, facts.path), kind
