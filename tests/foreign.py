"""Model directories as a stranger may have made them: `mutate` damages one in a way that a seed chooses."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    "",
    "x" * 300,
    "../../etc/passwd",
    "somebody/model",
    0,
    -1,
    7,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    [1, "two", None],
    {"a": {"b": []}},
    [[[[1]]]],
)
COMPONENTS = (
    ["evil", "Evil"],
    ["os", "system"],
    ["antigravity", "fly"],
    ["diffusers", "StableDiffusionPipeline"],
    ["diffusers", "AutoModel"],
    ["transformers", "AutoModel"],
    ["transformers", "pipeline"],
    ["transformers.utils.hub", "cached_file"],
    ["bowerbird.cli.main", "main"],
    ["bowerbird.models.weights", "bundled"],
    ["stable_diffusion", "StableDiffusionSafetyChecker"],
    ["diffusers", "__init__"],
    ["unet"],
    [None, "UNet2DConditionModel"],
    "diffusers",
    [["diffusers"], {}],
)
FILES = ("[]", "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "", "null", "\x00\xff", '{"_class_name": {}}', "{")


def mutate(folder: Path, rng: random.Random) -> str:
    """Damage one file of the model in `folder`; what was done."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    index = folder / "model_index.json"
    path = rng.choice([*files, *[index] * (2 * index.is_file())])
    what = _json(path, rng) if path.suffix == ".json" else _tensors(path, rng)
    return f"{path.relative_to(folder)}: {what}"


def _json(path: Path, rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind == 0:
        path.unlink()
        return "removed"
    if kind == 1:
        text = rng.choice(FILES)
        path.write_text(text, encoding="latin-1")
        return f"is {text[:20]!r}"
    value = json.loads(path.read_text())
    key = rng.choice(sorted(value))
    if kind == 2:
        del value[key]
        said = f"without {key}"
    elif kind == 3 and path.name == "model_index.json":
        key = rng.choice([each for each, entry in value.items() if isinstance(entry, list)] or ["unet"])
        value[key] = rng.choice(COMPONENTS)
        said = f"{key} = {value[key]!r}"
    elif kind == 4:
        key = rng.choice(("auto_map", "quantization_config", "_attn_implementation", "other", "_name_or_path"))
        value[key] = rng.choice((*ODD, {"AutoModel": "evil.Evil"}, {"quant_method": "bitsandbytes"}))
        said = f"{key} = {str(value[key])[:40]!r}"
    else:
        inner = value[key]
        odd = rng.choice(ODD)
        if isinstance(inner, list) and inner and rng.random() < 0.5:
            inner[rng.randrange(len(inner))] = odd
        else:
            value[key] = odd
        said = f"{key} = {str(value[key])[:60]!r}"
    path.write_text(json.dumps(value))
    return said


def _tensors(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    kind = rng.choice(
        (
            "missing",
            "empty",
            "cut",
            "length",
            "text",
            "overlap",
            "beyond",
            "shape",
            "dtype",
            "nan",
            "inf",
            "less",
            "pad",
        )
    )
    if kind == "missing":
        path.unlink()
        return kind
    if kind in ("empty", "cut", "length", "text"):
        texts = {
            "empty": b"",
            "cut": data[: rng.randrange(len(data))],
            "length": struct.pack("<Q", rng.choice((2**63, 2**40, len(data), 0))) + data[8:],
            "text": b"version https://git-lfs.github.com/spec/v1\n" * 3,
        }
        path.write_bytes(texts[kind])
        return kind
    start, end = entry["data_offsets"]
    if kind == "overlap":
        entry["data_offsets"] = [max(0, start - 4), max(0, end - 4)]
    elif kind == "beyond":
        entry["data_offsets"] = [2**40, 2**40 + end - start]
    elif kind == "shape":
        entry["shape"] = rng.choice(
            ([end - start], [2**40, 2**30], [-1], [0], "x", [1, *entry["shape"]], entry["shape"][::-1])
        )
    elif kind == "dtype":
        entry["dtype"] = rng.choice(("I64", "F4", "U8", 7, "BF16"))
    elif kind == "less":
        del header[name]
        header = _packed(header)
        rest = rest[:start] + rest[end:]
    elif kind == "pad":
        rest += bytes(64)
    else:
        size = {"F16": 2, "F32": 4}.get(entry["dtype"], 0)
        value = {2: "<e", 4: "<f"}.get(size)
        if value:
            rest = struct.pack(value, float(kind)).join((rest[:start], rest[start + size :]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    return f"{kind} {name}"


def _packed(header: dict[str, Any]) -> dict[str, Any]:
    """`header` with its tensors one after the other, without the gap of one that was left out."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda each: each[1].get("data_offsets", [0])[0]):
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            entry["data_offsets"] = [at, at + end - start]
            at += end - start
    return header
