"""The released RARM checkpoints (`bowerbird import compvis`): a transformer over the tokens of taming's VQGAN f16.

Its tensors have the names of our `RARMTransformer`, so nothing is renamed; sizes are read from the tensors, as the
released first stage is not the one of its training configuration. What no tensor tells is taken from the released
configurations: attention heads of 64 channels, raw CLIP ViT-B/32 embeddings, k = 4, top-k 256, no guidance, neighbors
without the text's own embedding, and that no training showed a null.
Source: arXiv 2204.11824, `scripts/rarm_sample.py` and `models/rarm/imagenet/*/config.yaml` of its repository.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems.rdm.interop import compvis, compvis_state, compvis_vae
from bowerbird.systems.rdm.interop.compvis import Choices, Part
from bowerbird.systems.rdm.interop.compvis_state import FIRST_STAGE

TRANSFORMER = "transformer."
BLOCKS = f"{TRANSFORMER}transformer_blocks."
HEAD_CHANNELS = 64
CODEBOOK = "quantize.embedding.weight"
BUFFERS = {"sos_token": 1, "mask_token": 0}
"""Symbols beside the codebook's, counted from its end."""


@dataclass(frozen=True)
class RARMPlan:
    """Everything about an import before a tensor is read; `ignored` counts tensors by what they are."""

    file: Path
    transformer: Part
    vae: Part
    pipeline: dict[str, Any]
    assumed: dict[str, str]
    dtype: str
    ignored: dict[str, int]
    missing: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """What goes where, as plain values."""
        parts = {"transformer": self.transformer, "vae": self.vae}
        return {
            "file": str(self.file),
            **{
                name: {"class": part.class_name, "parameters": part.parameters, **part.config}
                for name, part in parts.items()
            },
            "pipeline": self.pipeline,
            "not in the file": self.assumed,
            "matched": sum(len(part.tensors) for part in parts.values()),
            "missing": list(self.missing),
            "ignored": self.ignored,
        }


def is_rarm(tensors: Mapping[str, Stored]) -> bool:
    """Whether these are of a RARM, whole or cut down."""
    return any(name.startswith((BLOCKS, f"{TRANSFORMER}positional_encoding")) for name in tensors)


def plan_state(path: Path, tensors: Mapping[str, Stored], choices: Choices, ignored: Counter[str]) -> RARMPlan:
    """Where the tensors of the checkpoint at `path` go.

    Raises: BowerbirdError for one that was cut down, has another first stage, or a tensor that the released have not.
    """
    if choices.heads is not None and choices.head_channels is not None:
        raise BowerbirdError("give --heads or --head-channels, not both")
    if choices.scale_factor is not None:
        raise BowerbirdError("is a RARM, which predicts tokens: it has no latents to scale (--scale-factor)")
    source = compvis_state.below(tensors, TRANSFORMER)
    first_stage = compvis_state.first_stage(tensors)
    if not first_stage:
        raise BowerbirdError(f"holds a RARM without its first stage ({FIRST_STAGE}*); no picture comes of its tokens")
    vae = compvis_vae.layout(first_stage)
    config = _sizes(source, choices)
    _check_symbols(tensors, config["symbols"], vae)
    side = isqrt(config["positions"])
    size = side * vae.factor
    if side * side != config["positions"] or choices.size not in (None, size):
        raise BowerbirdError(
            f"its {config['positions']} positions are pictures of {size} px with this first stage; got --size"
            f" {choices.size}"
        )
    for name in tensors:
        if name.startswith((TRANSFORMER, FIRST_STAGE)) or name in BUFFERS:
            reason = compvis_state.left_out(name) if name.startswith(FIRST_STAGE) else None
            if reason is not None or name in BUFFERS:
                ignored[reason or "symbols beside the codebook (checked)"] += 1
        elif (reason := compvis_state.left_out(name)) is not None:
            ignored[reason] += 1
        else:
            raise compvis_state.foreign_tensor(name, "RARM")
    from bowerbird.models.rarm_transformer import RARMTransformer

    parts = {
        "transformer": compvis.part_of(RARMTransformer, config, source, lambda name: name),
        "vae": compvis.vae_part(first_stage, vae, size, 1.0),
    }
    assumed = {
        "heads": f"{config['channels'] // config['head_channels']} of {config['head_channels']} channels"
        f" ({'said' if choices.heads or choices.head_channels else 'as published'})",
        "sampling": "top-k 256 without guidance (as published)",
    }
    missing = compvis.missing_tensors(parts)
    pipeline = _pipeline(config["embed_dim"], choices)
    return RARMPlan(path, parts["transformer"], parts["vae"], pipeline, assumed, choices.dtype, dict(ignored), missing)


def _sizes(source: Mapping[str, Stored], choices: Choices) -> dict[str, Any]:
    """The arguments of `RARMTransformer`, from its tensors."""
    rows, channels = source["proj_in.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in source if name.startswith("transformer_blocks."))
    each = channels // choices.heads if choices.heads else choices.head_channels or HEAD_CHANNELS
    if each < 1 or channels % each:
        raise BowerbirdError(f"heads of {each} channels do not divide its width {channels}; say --head-channels")
    return {
        "symbols": rows - 2,
        "positions": source["positional_encoding"].shape[1],
        "channels": channels,
        "layers": layers,
        "head_channels": each,
        "embed_dim": source["transformer_blocks.0.attn2.to_k.weight"].shape[1],
    }


def _check_symbols(tensors: Mapping[str, Stored], symbols: int, vae: compvis_vae.FirstStageLayout) -> None:
    """Raises: BowerbirdError when transformer and first stage are not of one model."""
    if vae.codes != symbols:
        there = f"has {vae.codes} codes" if vae.codes else "is KL, which makes no tokens"
        raise BowerbirdError(f"its transformer reads {symbols} codes, its first stage {there}: they are of two models")
    for name, beyond in BUFFERS.items():
        stored = int(tensors[name].read().reshape(-1)[0]) if name in tensors else symbols + beyond
        if stored != symbols + beyond:
            raise BowerbirdError(f"its {name} is {stored}, where one with {symbols} codes has {symbols + beyond}")


def _pipeline(embed_dim: int, choices: Choices) -> dict[str, Any]:
    """The conventions that a checkpoint does not hold and that generate wrongly when they are mixed up."""
    unit = choices.embeddings == "unit"
    return {
        "k": choices.k or 4,
        "normalize_embeddings": unit,
        "embedding_length": 1.0 if unit else None,
        "encoder_name": compvis.encoder_name(choices, embed_dim),
        "encoder_fingerprint": "",
        "trained_null": False,
        "guidance_scale": 1.0,
        "top_k": 256,
        "top_p": 1.0,
        "text_mode": "neighbors",
    }


def write(made: RARMPlan, out: str | Path, *, progress: Any = None) -> None:
    """Write `made` to the directory `out`, which `RARMPipeline.from_pretrained` opens.

    `progress(done, total)` counts tensors. Raises: BowerbirdError when tensors are missing or damaged; nothing is left
    then.
    """
    import diffusers
    import torch

    from bowerbird.models.rarm_transformer import RARMTransformer
    from bowerbird.models.vq import sample_codebook
    from bowerbird.systems.rarm.pipeline import RARMPipeline

    compvis.check_complete(made.file, made.missing)
    with torch.device("meta"):
        transformer = RARMTransformer(**made.transformer.config)
        vae = diffusers.VQModel(**made.vae.config)
    codebook = sample_codebook(made.vae.tensors[CODEBOOK].read().float())
    with files.atomic_directory(out) as folder:
        parts = {"transformer": (made.transformer, transformer), "vae": (made.vae, vae)}
        compvis.write_parts(made.file, parts, folder, dtype=made.dtype, progress=progress)
        RARMPipeline(transformer=transformer, vae=vae, codebook=codebook, **made.pipeline).save_config(folder)
        (folder / "README.md").write_text(card(made.report()), encoding="utf-8")


def card(report: dict[str, Any]) -> str:
    """README.md of an imported model."""
    transformer, vae, pipeline = report["transformer"], report["vae"], report["pipeline"]
    wanted = "at length 1" if pipeline["normalize_embeddings"] else "raw, as the encoder gives them"
    encoder = pipeline["encoder_name"] or f"an encoder of {transformer['embed_dim']} numbers (which is not in the file)"
    taken = "; ".join(f"{what}: {value}" for what, value in report["not in the file"].items())
    return f"""---
library_name: diffusers
tags: [retrieval-augmented-generation, autoregressive]
---

Made by `bowerbird import compvis` from `{Path(report["file"]).name}`, a checkpoint in the layout that the
authors of retrieval-augmented diffusion published (arXiv 2204.11824). The weights are theirs, and so is their
license: ask where you got the file.

- Transformer: {transformer["parameters"]:,} parameters, {transformer["positions"]} tokens, each
  of {transformer["symbols"]} codes.
- Not in the file, and so taken for granted: {taken}.
- First stage: VQModel, pictures of {vae["sample_size"]} px.
- Neighbors: embeddings of {encoder}, {wanted}. A model that is given the other kind loads
  without an error and generates wrong pictures.
- Null: zero vectors that no training showed it (`trained_null` is false).

```python
import bowerbird as bb
pipe = bb.RARMPipeline.from_pretrained("this directory")
pipe(image=picture, knowledge_base=kb)
```
"""
