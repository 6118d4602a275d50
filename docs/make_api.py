"""Write docs/api.md from signatures and docstrings, or check that it is up to date (`--check`). Nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).parent / "api.md"
SOURCE = Path(__file__).parent.parent / "src"

CONTRACTS = (
    ("Systems", "what a pipeline offers, and how one becomes known", ("systems.base", "systems.registry")),
    (
        "Loading and generating",
        "from a name to a pipeline, from a request to files",
        ("systems.loading", "systems.generation", "systems.records", "systems.regeneration", "systems.output"),
    ),
    (
        "Phrases and critics",
        "a prompt read phrase by phrase",
        (
            "systems.phrases.phrase",
            "systems.choice",
            "systems.grounded.structure",
            "systems.grounded.critic.protocol",
            "systems.grounded.critic.loop",
        ),
    ),
    (
        "Base models",
        "references for a pipeline of somebody else's, and how a way of taking them is added",
        (
            "systems.reference_settings",
            "systems.grounded.references",
            "systems.grounded.injectors.protocol",
            "systems.grounded.injectors.registry",
            "systems.grounded.adapter_file",
        ),
    ),
    ("Rerankers", "what a search found, in a better order", ("knowledge.rerank.protocol", "knowledge.rerank.registry")),
    ("Storage", "where a knowledge base keeps its rows", ("knowledge.storage.protocol", "knowledge.storage.open")),
    ("Sources", "where pictures come from", ("data.sources.base", "data.sources.registry", "data.item")),
    (
        "Encoders",
        "frozen networks that embed pictures and texts",
        ("core.types:Encoder", "core.types:TokenEncoder", "encoders"),
    ),
    ("Training", "the one loop, recipes, and what an objective is", ("training.loop", "training.recipe")),
    ("Diffusion", "guidance, schedules, conditions: mathematics without a network", ("diffusion",)),
    ("Metrics", "pure functions of features", ("evaluation.metrics",)),
)
"""Heading, what it holds, and the modules or packages (with their own modules) that people extend."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Documented = tuple[str, ast.expr | None, str]


def main() -> None:
    """Write the page, or leave with 1 when it differs."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        sys.exit("docs/api.md is out of date: make docs")


def page() -> str:
    """The whole reference, as Markdown."""
    parts = [
        "# API reference",
        "",
        "Made from signatures and docstrings by `docs/make_api.py`; `make check` fails when it is out of date.",
        "",
        "- [The flat list](#the-flat-list): `import bowerbird as bb`, everything most programs need",
        *(f"- [{heading}](#{_anchor(heading)}): {what}" for heading, what, _ in CONTRACTS),
        "",
        "## The flat list",
        "",
        *_flat_list(),
    ]
    for heading, what, names in CONTRACTS:
        parts += [f"## {heading}", "", f"{what[0].upper()}{what[1:]}.", ""]
        for name in names:
            module, _, only = name.partition(":")
            parts += [line for file in _files(module) for line in _module(file, only)]
    return "\n".join(parts).rstrip() + "\n"


def _flat_list() -> list[str]:
    """Every name of `bowerbird.__all__`, found through the package's table of lazy names."""
    values = {}
    for node in ast.parse((SOURCE / "bowerbird/__init__.py").read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id in ("_LAZY", "__all__"):
            values[target.id] = ast.literal_eval(node.value)
    parts = []
    for name in values["__all__"]:
        if name not in values["_LAZY"]:
            continue  # __version__
        module, attribute = values["_LAZY"][name]
        if attribute is None:
            parts += [f"### `bowerbird.{name}`", "", *_docstring(ast.parse(_file(module).read_text())), ""]
            parts += _functions_of(_file(module))
        else:
            parts += _definition(_find(_file(module), attribute), f"bowerbird.{name}", 3)
    return parts


def _functions_of(file: Path) -> list[str]:
    """One line for each public function of a module that the flat list names whole."""
    tree = ast.parse(file.read_text())
    lines = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and file.name == "__init__.py":
            names = [a.asname or a.name for a in node.names if not (a.asname or a.name).startswith("_")]
            if node.module.startswith("bowerbird."):
                found = [_find(_file(node.module), name) for name in names if _has(_file(node.module), name)]
                lines += [_line(each) for each in found]
        elif isinstance(node, Definition) and not node.name.startswith("_"):
            lines.append(_line(node))
    return [*lines, ""] if lines else []


def _line(node: Definition) -> str:
    """`name`: the first sentence of its docstring."""
    first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return f"- `{node.name}`: {_escape(first)}"


def _module(file: Path, only: str = "") -> list[str]:
    """One module, or `only` one name of it: its docstring, documented constants, public functions and classes."""
    tree = ast.parse(file.read_text())
    body = [n for n in tree.body if isinstance(n, Definition) and not n.name.startswith("_") and only in ("", n.name)]
    constants = [] if only else [c for c in _documented(tree.body) if not c[0].startswith("_")]
    if not body and not constants:
        return []
    dotted = ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    parts = [f"### `{dotted}`", "", *([] if only else [*_docstring(tree), ""])]
    parts += [f"- `{name}`: {_escape(doc)}" for name, _, doc in constants] + ([""] if constants else [])
    return parts + [line for node in body for line in _definition(node, node.name, 4)]


def _definition(node: Definition, name: str, level: int) -> list[str]:
    """Heading, signature and docstring of a function or class, and a class's fields and methods."""
    kind = "class " if isinstance(node, ast.ClassDef) else ""
    parts = [f"{'#' * level} `{kind}{name}`", "", "```python", _signature(node), "```", "", *_docstring(node), ""]
    if isinstance(node, ast.ClassDef):
        bases = [ast.unparse(b) for b in node.bases]
        parts += [f"Bases: {', '.join(f'`{b}`' for b in bases)}.", ""] if bases else []
        fields = [f for f in _documented(node.body) if f[2] and not f[0].startswith("_")]
        parts += [f"- `{field}`: {_escape(doc)}" for field, _, doc in fields] + ([""] if fields else [])
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and (method.name == "__call__" or not method.name.startswith("_")):
                parts += [f"**`{node.name}.{method.name}`**", "", "```python", _signature(method), "```", ""]
                parts += [*_docstring(method), ""]
    return parts


def _signature(node: Definition) -> str:
    """As it is written, one parameter a line where it is long; of a data class its fields."""
    if not isinstance(node, ast.ClassDef):
        decorators = [f"@{ast.unparse(d)}" for d in node.decorator_list]
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return "\n".join([*decorators, _wrapped(f"def {node.name}", _parameters(node.args), returns)])
    start = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if start is not None:
        return _wrapped(f"class {node.name}", _parameters(start.args), "")
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")]
    return "\n".join(
        [f"class {node.name}:" if fields else f"class {node.name}", *(f"    {ast.unparse(n)}" for n in fields)]
    )


def _parameters(given: ast.arguments) -> list[str]:
    """Parameters as written, without `self` and `cls`."""
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    parts = [_parameter(a, d) for a, d in zip(plain, defaults, strict=True) if a.arg not in ("self", "cls")]
    if given.vararg:
        parts.append(f"*{_parameter(given.vararg, None)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [_parameter(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return parts + ([f"**{_parameter(given.kwarg, None)}"] if given.kwarg else [])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation else argument.arg
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _wrapped(head: str, parameters: list[str], tail: str) -> str:
    line = f"{head}({', '.join(parameters)}){tail}"
    return line if len(line) <= 100 else "\n".join([f"{head}(", *(f"    {p}," for p in parameters), f"){tail}"])


def _documented(body: list[ast.stmt]) -> list[Documented]:
    """Assignments that a string follows, which is their documentation: (name, annotation, text)."""
    found = []
    for node, after in pairwise(body):
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
            found.append((target.id, annotation, " ".join(text.split())))
    return found


def _docstring(node: Definition | ast.Module) -> list[str]:
    """The docstring as Markdown: what looks like a tag is written out, code stays code."""
    lines = (ast.get_docstring(node) or "").splitlines()
    return [line if line.startswith("    ") else _escape(line) for line in lines]


def _escape(text: str) -> str:
    return "".join(
        p if p.startswith("`") else p.replace("<", "&lt;").replace("*", "\\*") for p in re.split(r"(`[^`]*`)", text)
    )


def _files(name: str) -> list[Path]:
    """The file of a module; of a package its own and those of its modules."""
    folder = SOURCE / "bowerbird" / Path(*name.split("."))
    if folder.is_dir():
        inside = sorted(f for f in folder.glob("*.py") if not f.name.startswith("_"))
        return [folder / "__init__.py", *inside]
    return [folder.with_suffix(".py")] if folder.with_suffix(".py").is_file() else []


def _file(module: str) -> Path:
    path = SOURCE / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _find(file: Path, name: str) -> Definition:
    """Where `name` is defined, in this module or the one it comes from."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and any((a.asname or a.name) == name for a in node.names):
            return _find(_file(node.module), next(a.name for a in node.names if (a.asname or a.name) == name))
    sys.exit(f"docs/make_api.py: {name} is not defined in {file.relative_to(SOURCE)}")


def _has(file: Path, name: str) -> bool:
    return any(isinstance(n, Definition) and n.name == name for n in ast.parse(file.read_text()).body)


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


if __name__ == "__main__":
    main()
