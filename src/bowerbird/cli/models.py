"""`bowerbird models` and `bowerbird doctor`: what is bundled, and what works on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from typing import Any

from bowerbird.cli.common import JsonOption, print_json, print_line
from bowerbird.models.weights import DESCRIPTIONS, bundled


def models(as_json: JsonOption = False) -> None:
    """List the bundled models.

    Example: bowerbird models
    """
    rows: list[dict[str, Any]] = []
    for name, description in DESCRIPTIONS.items():
        path = bundled(name)
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path else 0
        rows.append({"name": name, "description": description, "path": str(path) if path else None, "bytes": size})
    if as_json:
        print_json({"models": rows})
        return
    for row in rows:
        print_line(f"{row['name']:18} {row['bytes'] / 1e6:5.1f} MB  {row['description']}")
    print_line("any other MODEL is a directory in diffusers layout, or a hub id")


def doctor(as_json: JsonOption = False) -> None:
    """Check what works on this machine, and how to fix the rest.

    Example: bowerbird doctor
    """
    checks = [_python(), *_libraries(), _torchvision(), _devices(), _half_precision(), _weights(), _font(), _disk()]
    if as_json:
        print_json({"checks": checks, "ok": all(c["ok"] for c in checks)})
        return
    for check in checks:
        print_line(f"{'ok  ' if check['ok'] else 'look'}  {check['name']:14} {check['found']}")
        if check["fix"]:
            print_line(f"      {check['fix']}")


def _check(name: str, ok: bool, found: str, fix: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found, "fix": "" if ok else fix}


def _python() -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    return _check("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _libraries() -> list[dict[str, Any]]:
    rows = []
    for name in ("torch", "diffusers", "transformers", "lancedb", "faiss-cpu"):
        try:
            rows.append(_check(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_check(name, False, "missing", "pip install -c constraints.txt bowerbird"))
    return rows


def _torchvision() -> dict[str, Any]:
    """bowerbird does without torchvision; transformers imports one that is there, which fails where it is built for
    another torch."""
    if importlib.util.find_spec("torchvision") is None:
        return _check("torchvision", True, "not installed, and not needed")
    version = importlib.metadata.version("torchvision")
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError, ImportError or OSError, as its operators do not fit
        return _check(
            "torchvision",
            False,
            f"{version} does not fit torch {importlib.metadata.version('torch')} ({str(error).splitlines()[0][:80]})",
            "install the torchvision that goes with this torch, or none: pip uninstall torchvision",
        )
    return _check("torchvision", True, f"{version}, fits this torch")


def _devices() -> dict[str, Any]:
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        gpus.append("Apple GPU (mps)")
    return _check(
        "compute",
        True,
        f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
        + (f", {', '.join(gpus)}" if gpus else ", no GPU: small models run well without"),
    )


def _half_precision() -> dict[str, Any]:
    from bowerbird.core.half_precision import has_fast_bfloat16

    fast = has_fast_bfloat16("cpu")
    found = "the processor has instructions for it" if fast else "none in the processor: leave --dtype at float32 there"
    return _check("bfloat16", True, found)


def _weights() -> dict[str, Any]:
    missing = [name for name in DESCRIPTIONS if bundled(name) is None]
    return _check(
        "models",
        not missing,
        ", ".join(n for n in DESCRIPTIONS if n not in missing),
        f"missing: {', '.join(missing)}; install bowerbird again",
    )


def _font() -> dict[str, Any]:
    from bowerbird.data.emoji_font import find_emoji_font

    font = find_emoji_font()
    return _check("emoji font", True, str(font) if font else "none; the demo draws its own collection")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free
    return _check(
        "disk",
        free > 2e9,
        f"{free / 1e9:.0f} GB free here",
        "free some space: knowledge bases keep the pictures' bytes",
    )
