"""The RDM pipeline of diffusers' research examples (`fusing/rdm` on the hub) in our layout.

It keeps CLIP inside the pipeline and conditions on L2-normalized embeddings of the text and of retrieved pictures,
with zeros as the null; ours keeps the encoder with the knowledge base. So its CLIP, tokenizer and picture settings
become one folder, `encoder/`, that knowledge bases are built with. diffusers and transformers read the parts:
safetensors, or pickles of tensors and nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.models import network_files

PARTS = ("vae", "clip", "tokenizer", "unet", "scheduler", "feature_extractor")
PICTURES = "preprocessor_config.json"


def convert(source: str | Path, out: str | Path, *, dtype: str = "float32") -> dict[str, Any]:
    """Write the pipeline in the directory `source` to `out`; what was found, as plain values.

    Raises: BowerbirdError for a directory of another kind, or one with a part missing or damaged.
    """
    import diffusers
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    from bowerbird.systems.rdm.pipeline import AS_SAVED, RDMPipeline

    source, out = Path(source), Path(out)
    index = files.read_json(source / "model_index.json", "diffusers pipeline")
    said = index.get("_class_name")
    said = said[-1] if isinstance(said, list) and said else said  # code of its own is listed as [file, class]
    if said != "RDMPipeline" or "clip" not in index:
        kind = "already in bowerbird's layout" if "normalize_embeddings" in index else f"a {said}"
        raise BowerbirdError(
            f"{source}: {kind}, not the RDMPipeline of diffusers' research examples (with clip, vae, unet, scheduler)"
        )
    lacking = [part for part in (*PARTS, f"feature_extractor/{PICTURES}") if not (source / part).exists()]
    if lacking:
        raise BowerbirdError(f"{source}: {lacking[0]} is missing; fetch the whole pipeline again")
    named = {part: _class(diffusers, index, part) for part in ("unet", "vae", "scheduler")}
    with opening(f"pipeline {str(source)!r}", "fetch it again"):
        for part in ("unet", "vae", "clip"):
            network_files.check_config(source / part / "config.json")
        network_files.check_config(source / "scheduler" / "scheduler_config.json")
        # where there are no safetensors it is a pickle, read with weights_only
        unet, vae = (
            _whole(
                *named[part].from_pretrained(
                    source / part,
                    dtype=getattr(torch, dtype),
                    output_loading_info=True,
                    local_files_only=True,
                    **_files(source / part),
                )
            )
            for part in ("unet", "vae")
        )
        scheduler = named["scheduler"].from_pretrained(source / "scheduler", local_files_only=True)
        options = {"output_loading_info": True, "local_files_only": True, **_files(source / "clip")}
        clip = _whole(*CLIPModel.from_pretrained(source / "clip", **options))
        tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer", local_files_only=True)
        width = int(clip.config.projection_dim)
    if unet.config.cross_attention_dim != width:
        raise BowerbirdError(
            f"{source}: its U-Net reads {unet.config.cross_attention_dim} numbers, its CLIP makes {width}; the parts"
            " are of two models"
        )
    settings: dict[str, Any] = {
        "k": 11,  # the prompt, and the ten pictures it retrieves
        "text_mode": "text+neighbors",
        "normalize_embeddings": True,
        "embedding_length": 1.0,
        "encoder_name": f"{out.name}/encoder",
        "trained_null": False,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "sampler": AS_SAVED,
    }
    with files.atomic_directory(out) as folder:
        RDMPipeline(unet=unet, vae=vae, scheduler=scheduler, **settings).save_pretrained(folder)
        clip.save_pretrained(folder / "encoder")
        tokenizer.save_pretrained(folder / "encoder")
        shutil.copyfile(source / "feature_extractor" / PICTURES, folder / "encoder" / PICTURES)
    return {
        "unet": {"parameters": unet.num_parameters(), **_sizes(unet)},
        "vae": type(vae).__name__,
        "scheduler": type(scheduler).__name__,
        "pipeline": settings,
    }


def _files(folder: Path) -> dict[str, Any]:
    """Which of the weight files in `folder` to read, as `from_pretrained` takes it: safetensors rather than pickles,
    and a variant (`model.fp16.safetensors`) where there is nothing else."""
    safe = sorted(folder.glob("*.safetensors"))
    names = [file.name.split("-0")[0].removesuffix(file.suffix) for file in safe or sorted(folder.glob("*.bin"))]
    variants = [name.partition(".")[2] for name in names]
    chosen = {"variant": variants[0]} if variants and all(variants) else {}
    return {"use_safetensors": bool(safe), **chosen}


def _whole(network: Any, info: dict[str, Any]) -> Any:
    """`network` when all of its weights were there. Raises: ValueError for one that was partly made up at random."""
    missing = sorted(name for name in info.get("missing_keys", ()) if not name.endswith("position_ids"))
    if missing:
        raise ValueError(
            f"{missing[0]} and {len(missing) - 1} more weights are missing"
            if len(missing) > 1
            else f"the weight {missing[0]} is missing"
        )
    return network_files.without_place(network, type(network).__name__)


def _class(diffusers: Any, index: dict[str, Any], part: str) -> Any:
    """The diffusers class that the index names for a part. Raises: BowerbirdError for any that is not of its kind."""
    said = index.get(part)
    name = str(said[1]) if isinstance(said, list) and len(said) == 2 else ""
    allowed = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "VQModel")}.get(part)
    if (allowed is not None and name not in allowed) or (
        part == "scheduler" and not (name.endswith("Scheduler") and hasattr(diffusers, name))
    ):
        raise BowerbirdError(
            f"its {part} is a {name or 'thing without a name'}; known are"
            f" {', '.join(allowed or ('the schedulers of diffusers',))}"
        )
    return getattr(diffusers, name)


def _sizes(unet: Any) -> dict[str, Any]:
    return {
        key: unet.config[key]
        for key in ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim", "attention_head_dim")
    }
