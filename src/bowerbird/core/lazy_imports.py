"""Parts of other libraries that a verb may never need are loaded when first needed.

Most of the CPU time of one small picture from the command line was importing: every transformer that diffusers has, the
REST client of LanceDB's cloud, the statistics of scipy, the compiler of torch. Only the command line does this, in its
own process; `import bowerbird` leaves the import system as it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

LAZY = frozenset(
    {
        "diffusers.models.autoencoders",
        "diffusers.models.transformers",
        "diffusers.models.unets",
        "lance_namespace_urllib3_client",
        "scipy.stats",
        "torch._dynamo",
    }
)
"""Modules whose code runs when something in them is first asked for."""
WHOLE = frozenset({"torch._dynamo"})
"""Those whose own modules are imported only after them."""


def _as_it_is(marked: Any = None, *args: Any, **kwargs: Any) -> Any:
    return _as_it_is if marked is None else marked


STAND_IN: dict[str, dict[str, Any]] = {
    "torch._dynamo": {
        **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _as_it_is),
        "eval_frame": SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),
    }
}
"""What stands in a module before its code runs: decorators that mark something for a compiler, and the class of what
was compiled. As long as nothing is compiled, they do nothing and nothing is of that class."""


class _FirstUse(Loader):
    """Runs a module's code when a name that it has not is asked for."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        lock, own = threading.RLock(), vars(module)
        own |= STAND_IN.get(module.__name__, {})

        def load(name: str) -> object:
            if name.startswith("__") and name != "__all__":  # whoever looks through all modules asks for such names
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            with lock:
                if own.get("__getattr__") is load:
                    del own["__getattr__"]
                    self.loader.exec_module(module)
            return getattr(module, name)

        own["__getattr__"] = load


class _There(Loader):
    """A module that came while its package was run."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    """Finds the modules named above where they lie, and gives them another loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = fullname.rpartition(".")[0]
        if package in WHOLE and "__getattr__" in vars(sys.modules[package]):
            with suppress(AttributeError):
                getattr(sys.modules[package], "")  # no module has that: its code runs
            found = sys.modules.get(fullname)
            if found is not None:  # the import system runs again what the module's own spec says
                found.__spec__ = ModuleSpec(
                    fullname, _There(), origin=found.__file__, is_package=hasattr(found, "__path__")
                )
            return None if found is None else found.__spec__
        spec = PathFinder.find_spec(fullname, path, target) if fullname in LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = _FirstUse(spec.loader)
        return spec


def install() -> None:
    """From now on, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
