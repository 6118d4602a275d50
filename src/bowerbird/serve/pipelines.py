"""The models and encoders that a worker holds: opened when first asked for; the least recently used leave when memory
is short."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.serve.shelf import seen

if TYPE_CHECKING:
    from bowerbird.core.types import Encoder, TextEncoder
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System
    from bowerbird.systems.reference_settings import Adapter

Held = TypeVar("Held")


class Recent(Generic[Held]):
    """What `make` gives by name, kept until all of it is over `most` bytes (`size` of each); what was used last
    stays."""

    def __init__(self, make: Callable[[str], Held], size: Callable[[Held], int], most: int) -> None:
        self.make, self.size, self.most = make, size, most
        self._held: OrderedDict[str, tuple[Held, int]] = OrderedDict()
        self._turn = threading.RLock()

    def get(self, name: str) -> Held:
        """The one called `name`, made if it is not there."""
        with self._turn:
            if name not in self._held:
                made = self.make(name)
                self._held[name] = (made, self.size(made))
                while len(self._held) > 1 and sum(size for _, size in self._held.values()) > self.most:
                    self._held.pop(next(iter(self._held)))
            self._held.move_to_end(name)
            return self._held[name][0]

    def names(self) -> list[str]:
        """Those that are held, the least recently used first."""
        with self._turn:
            return list(self._held)

    def drop(self, name: str) -> None:
        """Forget one."""
        with self._turn:
            self._held.pop(name, None)


class Workbench:
    """Everything that a worker needs for a job, on one `device` in one `dtype`; models take at most `memory` bytes.
    `adapters`: by the place of a base model, what it takes references by."""

    def __init__(self, device: str, dtype: str, memory: int, adapters: Mapping[str, Adapter] | None = None) -> None:
        own = adapters or {}

        def load(name: str) -> System:
            from bowerbird.systems.loading import load_pipeline

            return load_pipeline(name, device, dtype, own.get(name))

        def load_encoder(key: str) -> Encoder:
            from bowerbird.encoders.load import load_recorded

            fingerprint, _, name = key.partition(" ")
            return load_recorded(name, fingerprint, device=device)

        def load_text_encoder(key: str) -> TextEncoder:
            from bowerbird.encoders.load import load_recorded_text

            fingerprint, _, name = key.partition(" ")
            return load_recorded_text(name, fingerprint, device=device)

        self.device, self.dtype = device, dtype
        self.models: Recent[System] = Recent(load, _bytes_of, memory)
        self.encoders: Recent[Encoder] = Recent(load_encoder, _encoder_bytes, memory)
        self.text_encoders: Recent[TextEncoder] = Recent(load_text_encoder, _encoder_bytes, memory)
        # pictures are looked at and written while the next ones are generated
        self.finishing = ThreadPoolExecutor(1)
        self._fingerprints: WeakKeyDictionary[System, str] = WeakKeyDictionary()
        self._bases: dict[str, tuple[object, KnowledgeBase]] = {}
        self._turn = threading.Lock()

    def fingerprint(self, pipe: System) -> str:
        """That of a model that is held, whose weights are read for it once."""
        if pipe not in self._fingerprints:
            self._fingerprints[pipe] = pipe.fingerprint()
        return self._fingerprints[pipe]

    def encoder(self, name: str, fingerprint: str) -> Encoder:
        """The encoder that a knowledge base was made with; without a `fingerprint` the one that has this name. Raises:
        MismatchError when the name now means another."""
        found = self.encoders.get(f"{fingerprint} {name}")
        if fingerprint and found.fingerprint != fingerprint:
            raise MismatchError(f"encoder {name!r} is not the one that the knowledge base was made with")
        return found

    def text_encoder(self, name: str, fingerprint: str) -> TextEncoder:
        """The encoder of a knowledge base's captions. Raises: MismatchError when the name now means another."""
        found = self.text_encoders.get(f"{fingerprint} {name}")
        if found.fingerprint != fingerprint:
            raise MismatchError(f"caption encoder {name!r} is not the one that the knowledge base was made with")
        return found

    def knowledge_base(self, path: str) -> KnowledgeBase:
        """The knowledge base at `path` at its newest version, with the encoder held here."""
        from bowerbird.knowledge.base import KnowledgeBase
        from bowerbird.knowledge.search.planner import DEFAULT_MEMORY
        from bowerbird.knowledge.storage.open import open_store

        mark = seen(path)
        with self._turn:
            there = self._bases.get(path)
            if there is None or there[0] != mark or mark is None:
                store = open_store(path, DEFAULT_MEMORY, lambda line: None)
                facts = store.manifest["encoder"]
                encoder = self.encoder(str(facts["name"]), str(facts["fingerprint"]))
                there = self._bases[path] = (mark, KnowledgeBase(store, encoder, self.device))
            return there[1]


def _bytes_of(pipe: System) -> int:
    networks = [part for part in pipe.components.values() if hasattr(part, "parameters")]
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def _encoder_bytes(encoder: Any) -> int:
    model = getattr(encoder, "model", None)
    return 0 if model is None else sum(p.numel() * p.element_size() for p in model.parameters())


def default_memory(device: str) -> int:
    """Bytes that models may take where nobody says: half of what there is."""
    import os

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError) as error:
        raise BowerbirdError("the size of memory is not known here; give `memory`") from error
