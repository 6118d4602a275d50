"""Parts of other libraries that a verb may never need are loaded when first needed.

Most of the CPU time of one small picture from the command line was importing: every transformer that diffusers has, the
REST client of LanceDB's cloud, the statistics of scipy, peft where it is installed, the compiler of torch. Only the
command line does this, in its own process; `import bowerbird` leaves the import system as it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
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
        "peft",
        "peft.helpers",
        "peft.tuners",
        "peft.tuners.tuners_utils",
        "scipy.stats",
        "torch._dynamo",
    }
)
"""Modules whose code runs when something in them is first asked for."""
WHOLE = frozenset({"torch._dynamo"})
"""Those whose own modules are imported only after them."""


def _as_it_is(marked: Any = None, *args: Any, **kwargs: Any) -> Any:
    return _as_it_is if marked is None else marked


class _LateClass(type):
    """The class of a class in a module that has not run: its instances are those of the real one, once it is there."""

    place: tuple[str, str]

    def __instancecheck__(cls, instance: object) -> bool:
        real = vars(sys.modules[cls.place[0]]).get(cls.place[1]) if cls.place[0] in sys.modules else None
        return real is not None and real is not cls and isinstance(instance, real)


def _late_class(module: str, name: str) -> type:
    return _LateClass(name, (), {"place": (module, name)})


def _late_function(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with suppress(AttributeError):
            getattr(sys.modules[module], "")  # no module has that: its code runs
        return vars(sys.modules[module])[name](*args, **kwargs)

    return call


STAND_IN: dict[str, dict[str, Any]] = {
    "torch._dynamo": {
        **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _as_it_is),
        "eval_frame": SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),
    },
    "peft": {"PeftModel": _late_class("peft", "PeftModel")},
    "peft.helpers": {"disable_input_dtype_casting": _late_function("peft.helpers", "disable_input_dtype_casting")},
    "peft.tuners.tuners_utils": {"BaseTunerLayer": _late_class("peft.tuners.tuners_utils", "BaseTunerLayer")},
}
"""What stands in a module before its code runs: decorators that mark something for a compiler, the class of what was
compiled, and that of adapters' layers. As long as nothing is compiled and no adapter is there, they do nothing and
nothing is of these classes."""


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
