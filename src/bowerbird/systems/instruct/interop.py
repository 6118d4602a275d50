"""The released InstructPix2Pix checkpoint (`bowerbird import compvis`): a Stable Diffusion whose first convolution
reads twice its latents' channels, by which it is distinguished from one that only reads a text.

U-Net, first stage and text model are in the file, the tokenizer is not: it is CLIP's, and has to be given. Attention
has 8 heads at every level, latents the scale 0.18215, pictures 512 px. Source: arXiv 2211.09800 and its release.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.torch_file import Stored
from bowerbird.systems import hub
from bowerbird.systems.rdm.interop import compvis, compvis_schedule, compvis_state, compvis_unet, compvis_vae
from bowerbird.systems.rdm.interop.compvis import Choices, Part
from bowerbird.systems.rdm.interop.compvis_state import EMA, FIRST_STAGE, UNET

TEXT = "cond_stage_model.transformer."
FIRST = "input_blocks.0.0.weight"
HEADS, SIZE, SCALE = 8, 512, 0.18215
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOKENIZER = "openai/clip-vit-large-patch14"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
HEAD_WIDTH = 64
"""Of CLIP's text models, all of them."""


@dataclass(frozen=True)
class InstructPlan:
    """Everything about an import before a tensor is read; `ignored` counts tensors by what they are."""

    file: Path
    unet: Part
    vae: Part
    text_encoder: Part
    schedule: dict[str, Any]
    weights: str
    assumed: dict[str, str]
    dtype: str
    ignored: dict[str, int]
    missing: tuple[str, ...]
    tokenizer: str | None

    @property
    def parts(self) -> dict[str, Part]:
        """The networks, by folder."""
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    def report(self) -> dict[str, Any]:
        """What goes where, as plain values."""
        said = {
            name: {"class": part.class_name, "parameters": part.parameters, **part.config}
            for name, part in self.parts.items()
        }
        return {
            "file": str(self.file),
            **said,
            "unet": {**said["unet"], "weights": self.weights},
            "scheduler": self.schedule,
            "pipeline": {"class": "InstructPipeline", "tokenizer": files.portable(self.tokenizer or "")},
            "not in the file": self.assumed,
            "matched": sum(len(part.tensors) for part in self.parts.values()),
            "missing": list(self.missing),
            "ignored": self.ignored,
        }


def is_instruct(tensors: Mapping[str, Stored]) -> bool:
    """Whether these are of a network that reads a text and a picture: its first convolution has twice the channels that
    it gives."""
    if not any(name.startswith(TEXT) for name in tensors):
        return False
    for prefix, first, last in (
        (UNET, FIRST, "out.2.weight"),
        (f"{EMA}diffusion_model", FIRST.replace(".", ""), "out2weight"),
    ):
        reads, gives = tensors.get(prefix + first), tensors.get(prefix + last)
        if reads is not None and gives is not None and len(reads.shape) == 4:
            return reads.shape[1] == 2 * gives.shape[0]
    return False


def plan_state(path: Path, tensors: Mapping[str, Stored], choices: Choices, ignored: Counter[str]) -> InstructPlan:
    """Where the tensors of the checkpoint at `path` go.

    Raises: BowerbirdError for one that was cut down, or has a tensor that the released one has not.
    """
    import diffusers

    source, weights, why = compvis_state.unet_weights(tensors, ema=choices.ema)
    first_stage = compvis_state.first_stage(tensors)
    if not first_stage:
        raise BowerbirdError(f"holds a U-Net but no first stage ({FIRST_STAGE}*); pictures cannot be read or made")
    unet, vae = compvis_unet.layout(source), compvis_vae.layout(first_stage)
    if vae.codes or vae.embed_dim != unet.out_channels:
        raise BowerbirdError(f"its U-Net gives {unet.out_channels} channels, its first stage has {vae.embed_dim}")
    text = compvis_state.below(tensors, TEXT)
    counted = {name for name in tensors if name.endswith(".position_ids")}
    if counted:
        ignored["positions (counted)"] = len(counted)
    others = {name: stored for name, stored in tensors.items() if name not in counted}
    compvis_state.count_left_out(others, ignored, weights, parts=(FIRST_STAGE, TEXT), model="InstructPix2Pix")
    size = compvis_state.picture_size(choices.size, SIZE, unet, vae)
    heads = _heads(unet, choices)
    scale = SCALE if choices.scale_factor is None else choices.scale_factor
    parts = {
        "unet": compvis.part_of(
            diffusers.UNet2DConditionModel,
            unet.config(size // vae.factor, heads),
            source,
            lambda name: compvis_unet.diffusers_name(name, unet),
        ),
        "vae": compvis.vae_part(first_stage, vae, size, scale),
        "text_encoder": _text_part({name: t for name, t in text.items() if not name.endswith("position_ids")}),
    }
    schedule = (
        compvis_schedule.schedule(tensors, kl=True) if "betas" in tensors else {**BETAS, **compvis_schedule.SAMPLER}
    )
    assumed = {
        "weights": f"{weights} ({why})",
        "heads": ", ".join(map(str, heads)),
        "picture size": f"{size} px",
        "latent scale": f"{scale:g}",
        "tokenizer": choices.tokenizer or f"CLIP's, to be given (--tokenizer {TOKENIZER})",
    }
    return InstructPlan(
        path, **parts, schedule=schedule, weights=weights, assumed=assumed, dtype=choices.dtype,
        ignored=dict(ignored), missing=compvis.missing_tensors(parts), tokenizer=choices.tokenizer,
    )  # fmt: skip


def _heads(unet: compvis_unet.UNetLayout, choices: Choices) -> tuple[int, ...]:
    """Attention heads by level. Raises: BowerbirdError when they do not divide a width."""
    each = choices.head_channels
    heads = tuple((choices.heads or HEADS) if each is None else width // each for width in unet.channels)
    if any(count < 1 or width % count for width, count in zip(unet.channels, heads, strict=True)):
        raise BowerbirdError(f"{heads} heads do not divide the widths {unet.channels}; say --head-channels, or --heads")
    return heads


def _text_part(source: Mapping[str, Stored]) -> Part:
    """CLIP's text model, its sizes read from its tensors."""
    from transformers import CLIPTextConfig, CLIPTextModel

    stem = "text_model."
    words, places = (source[f"{stem}embeddings.{kind}_embedding.weight"].shape for kind in ("token", "position"))
    layers = {name.split(".")[3] for name in source if name.startswith(f"{stem}encoder.layers.")}
    config = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "projection_dim": words[1],
        "intermediate_size": source[f"{stem}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, words[1] // HEAD_WIDTH),
        "max_position_embeddings": places[0],
        "bos_token_id": words[0] - 2,
        "eos_token_id": words[0] - 1,
        "pad_token_id": words[0] - 1,
    }

    def network(**sizes: Any) -> Any:
        return CLIPTextModel(CLIPTextConfig(**sizes))

    network.__name__ = CLIPTextModel.__name__
    nested = any(name.startswith(stem) for name in _meta(network, config))
    return compvis.part_of(
        network, config, source, lambda name: name if nested else name.removeprefix(stem), file="model.safetensors"
    )


def _meta(network: Any, config: dict[str, Any]) -> list[str]:
    import torch

    with torch.device("meta"):
        return list(network(**config).state_dict())


def write(made: InstructPlan, out: str | Path, *, progress: Any = None) -> None:
    """Write `made` to the directory `out`, which `InstructPipeline` and diffusers' pipeline of this kind open.

    `progress(done, total)` counts tensors. Raises: BowerbirdError when tensors are missing or damaged, or no
    tokenizer is given; nothing is left then.
    """
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    compvis.check_complete(made.file, made.missing)
    if made.tokenizer is None:
        raise BowerbirdError(
            f"{made.file}: holds no tokenizer; give the folder of CLIP's, or its hub id: --tokenizer {TOKENIZER}"
        )
    place = Path(made.tokenizer)
    folder_of_words = place if place.is_dir() else hub.fetch(made.tokenizer, {}, patterns=TOKENIZER_FILES)
    if not any((folder_of_words / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise BowerbirdError(f"{folder_of_words}: no tokenizer here (vocab.json and merges.txt, or tokenizer.json)")
    tokenizer = CLIPTokenizer.from_pretrained(folder_of_words, local_files_only=True)
    wanted = made.text_encoder.config["vocab_size"]
    if len(tokenizer) != wanted:
        raise BowerbirdError(f"{folder_of_words}: has {len(tokenizer)} tokens, the text model {wanted}; give its own")
    positions = int(made.text_encoder.config["max_position_embeddings"])
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    with torch.device("meta"):
        networks = {
            "unet": diffusers.UNet2DConditionModel(**made.unet.config),
            "vae": diffusers.AutoencoderKL(**made.vae.config),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**made.text_encoder.config)),
        }
    scheduler = diffusers.DDIMScheduler(**made.schedule)
    with files.atomic_directory(out) as folder:
        parts = {name: (part, networks[name]) for name, part in made.parts.items()}
        compvis.write_parts(made.file, parts, folder, dtype=made.dtype, progress=progress)
        scheduler.save_pretrained(folder / "scheduler")
        tokenizer.save_pretrained(folder / "tokenizer")
        diffusers.StableDiffusionInstructPix2PixPipeline(
            **networks,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_config(folder)
        (folder / "README.md").write_text(card(made.report()), encoding="utf-8")


def card(report: dict[str, Any]) -> str:
    """README.md of an imported model."""
    taken = "; ".join(f"{what}: {value}" for what, value in report["not in the file"].items())
    return f"""---
library_name: diffusers
tags: [image-to-image, instruct-pix2pix]
---

Made by `bowerbird import compvis` from `{Path(report["file"]).name}`, a checkpoint in the layout that the authors of
InstructPix2Pix published (arXiv 2211.09800). The weights are theirs, and so is their license: ask where you got the
file.

- U-Net: {report["unet"]["parameters"]:,} parameters, first stage {report["vae"]["parameters"]:,}, text
  model {report["text_encoder"]["parameters"]:,}.
- Not in the file, and so taken for granted: {taken}.

```python
import bowerbird as bb
pipe = bb.InstructPipeline.from_pretrained("this directory")
pipe("make it winter", source=picture)
```
"""
