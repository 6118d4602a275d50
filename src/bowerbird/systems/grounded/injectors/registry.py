"""Which injectors there are: one line each."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.models.weights import bundled
from bowerbird.systems.grounded import adapter_file
from bowerbird.systems.grounded.bases import IN_CONTEXT, BaseFacts

if TYPE_CHECKING:
    from bowerbird.systems.grounded.adapter_file import AdapterFacts
    from bowerbird.systems.grounded.injectors.protocol import Injector

INJECTORS = {
    "ip-adapter": "bowerbird.systems.grounded.injectors.ip_adapter:IPAdapter",
    "ip-adapter-sd3": "bowerbird.systems.grounded.injectors.ip_adapter_sd3:IPAdapterSD3",
    "ip-adapter-flux": "bowerbird.systems.grounded.injectors.ip_adapter_flux:IPAdapterFlux",
    "redux": "bowerbird.systems.grounded.injectors.redux:Redux",
    "in-context": "bowerbird.systems.grounded.injectors.in_context:InContext",
}
"""By the name that records call it; a file is for the first that recognizes it."""


def injector_class(name: str) -> type[Injector]:
    """The injector called `name`."""
    module, _, kind = INJECTORS[name].partition(":")
    found: type[Injector] = getattr(importlib.import_module(module), kind)
    return found


def inspect_adapter(path: str | Path) -> AdapterFacts:
    """What the adapter at `path`, or the bundled one of that name, is, by its header alone; no weight is read.

    Raises: BowerbirdError for a file that is damaged, a FaceID adapter, or nothing that is known here.
    """
    shipped = bundled(str(path))
    path = Path(path) if shipped is None else shipped / adapter_file.ADAPTER
    if path.is_dir():
        raise BowerbirdError(f"{path}: is a folder; give the adapter's file in it (.safetensors or .bin)")
    if not path.exists():
        raise BowerbirdError(
            f"{path}: no such file; give the file of an adapter, one of the hub fetched before: hf download"
            " OWNER/NAME FILE --local-dir DIR"
        )
    with opening(f"adapter {str(path)!r}", "fetch it again"):
        tensors = adapter_file.read_tensors(path)
        if adapter_file.is_face(tensors):
            raise BowerbirdError(f"{path}: {adapter_file.FACE}")
        for name in INJECTORS:
            found = injector_class(name).recognize(tensors)
            if found is not None:
                return found
    shapes = ", ".join(f"{key} {list(each.shape)}" for key, each in list(tensors.items())[:2])
    raise BowerbirdError(
        f"{path}: no adapter that bowerbird knows (it begins with {shapes[:160]}); it opens IP-Adapters for SD 1 and 2,"
        " SDXL, SD3 and FLUX.1, and FLUX.1 Redux"
    )


def injector_for(base: BaseFacts, facts: AdapterFacts | None) -> type[Injector] | None:
    """What takes references into `base`: the adapter's injector, or the base itself; None for a base that takes none.

    Raises: BowerbirdError when the adapter is for another base.
    """
    if facts is None:
        return injector_class("in-context") if base.family == IN_CONTEXT else None
    facts.check_base(base)
    kind = injector_class(facts.injector)
    if (reason := kind.refuse(base)) is not None:
        raise BowerbirdError(f"{facts.path}: {reason}")
    return kind
