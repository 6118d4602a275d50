"""The objective of editing by instruction, from its settings and pictures: the base is opened, edits are found and
composed, their pictures rendered and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import cache, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.text import with_article
from bowerbird.data.edits.build import EditSettings, build_edits
from bowerbird.data.edits.pair import NONE, Edits, Shown, instruction
from bowerbird.data.edits.rendering import render_parts
from bowerbird.data.edits.said import said_edits, stored_parts
from bowerbird.data.edits.variants import plain
from bowerbird.data.pictures import Pictures, others_of
from bowerbird.diffusion import schedulers
from bowerbird.models import clip_text
from bowerbird.models.latent_scale import without_shift
from bowerbird.models.unet import build_unet
from bowerbird.models.weights import bundled
from bowerbird.systems.base_text import ENCODERS, TOKENIZERS, encoder_names
from bowerbird.systems.components import SCALE, base_parts, load_autoencoder, weights_hash
from bowerbird.systems.grounded.wrapped import open_base
from bowerbird.systems.instruct.config import InstructConfig
from bowerbird.systems.instruct.objective import Base, EditData, HeldOut, InstructObjective, chosen_edits
from bowerbird.systems.instruct.placing import find_place
from bowerbird.systems.instruct.usual import read_usual
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.model_index import read_index
from bowerbird.systems.objective import RunContext

KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
SHOWN = 96
"""Held-out edits that are kept to be looked at."""
TEXTS = 20_000
"""So many instructions the vocabulary of a new text model is made from."""
Draw = Callable[[Sequence[Shown]], Iterator[Tensor]]
"""From what is shown to float pictures in [-1, 1], a part at a time."""


def build(config: InstructConfig, pictures: Pictures, run: RunContext) -> InstructObjective:
    """The objective over the edits of `pictures`. Raises: BowerbirdError where they give no edit."""
    base = _open_base(config.base) if config.base is not None else None
    edits, held_out, draw = _edits(config, pictures, run.seed)
    if not edits.edits:
        raise BowerbirdError(f"{len(pictures)} pictures give no edit; give drawings with names and styles")
    if base is None:
        base = _new_base(config, edits, run.seed)
    if run.device != "cpu":
        base.autoencoder.to(run.device)
        for name in encoder_names(base):
            getattr(base, name).to(run.device)
    stored = _stored(config, edits, draw, pictures.fingerprint(), base, run)
    others = others_of([plain(caption) for caption in pictures.captions])
    held = _held_out(config, held_out, draw, pictures, others)
    data = EditData(edits, stored["latents"], stored["places"], pictures.pixels, others, held)
    return InstructObjective(config, data, base, run.seed)


def frozen(config: InstructConfig) -> dict[str, str]:
    """The fingerprints of the base, or of the autoencoder of a new one."""
    if config.base is None:
        return {"autoencoder": weights_hash(load_autoencoder(config.autoencoder))}
    base = _open_base(config.base)
    return base_parts(base.unet, base.text_encoder, base.autoencoder, base.scheduler, base.text_encoder_2)


def _edits(config: InstructConfig, pictures: Pictures, seed: int) -> tuple[Edits, Edits, Draw]:
    """The edits that are trained on, those held out, and what draws them: of a table of edits, else composed by code.
    Raises: BowerbirdError where settings do not fit a table."""
    said = said_edits(pictures)
    if said is None and not config.composes:
        raise BowerbirdError(
            f"{len(pictures)} pictures and no edit: each row of a table has two pictures and an instruction, such as"
            " original_image, edited_image and edit_prompt; drawings of which edits are composed are for tiny-instruct"
        )
    if said is None:
        settings = EditSettings(**{name: getattr(config, name) for name in EditSettings.__dataclass_fields__})
        edits, held_out, vocabulary = build_edits(settings, pictures, seed)
        return (
            edits,
            held_out,
            partial(render_parts, vocabulary=vocabulary, pictures=pictures, size=config.picture_size),
        )
    if config.references:
        raise BowerbirdError(
            "a table of edits does not say which picture shows the thing that comes in, so references cannot be"
            " learned from it; leave them out: --set system.references=false"
        )
    if pictures.size != config.picture_size:
        raise BowerbirdError(
            f"pictures of a table of edits are taken as they are, at {pictures.size} px (size), and"
            f" system.picture_size={config.picture_size}; set both to one number"
        )
    return *said, partial(stored_parts, pictures=pictures)


def _open_base(name: str) -> Base:
    """Raises: BowerbirdError when there is no Stable Diffusion called `name`, or it reads a picture already."""
    folder = bundled(name) or Path(name)
    if not (folder / "model_index.json").is_file():
        raise BowerbirdError(
            f"base {name!r}: no model in diffusers layout there; train one: bowerbird train tiny-sd, or name another:"
            " --set system.base=…"
        )
    kind = read_index(folder)["_class_name"]
    if kind not in KINDS:
        raise BowerbirdError(
            f"base {name!r} is {with_article(kind)}; editing by instruction is trained on a {' or '.join(KINDS)}"
        )
    with opening(f"base {name!r}", "fetch it again in diffusers layout"):
        opened = open_base(folder, torch.float32, {})
    if getattr(opened, "text_encoder", None) is None:
        raise BowerbirdError(
            f"base {name!r} has no first text encoder, as SDXL's refiner; name the base itself: --set system.base=…"
        )
    autoencoder = without_shift(opened.vae)
    if opened.unet.config.in_channels != autoencoder.config.latent_channels:
        raise BowerbirdError(
            f"base {name!r}: its U-Net reads {opened.unet.config.in_channels} channels of"
            f" {autoencoder.config.latent_channels}, so it was widened before; name a text-to-image model"
        )
    read = {name: getattr(opened, name) for name in ENCODERS + TOKENIZERS if getattr(opened, name, None) is not None}
    for part in (autoencoder, *(getattr(opened, name) for name in encoder_names(opened))):
        part.eval().requires_grad_(False)
    return Base(opened.unet, autoencoder=autoencoder, scheduler=opened.scheduler, usual=read_usual(folder), **read)


def _new_base(config: InstructConfig, edits: Edits, seed: int) -> Base:
    autoencoder = without_shift(load_autoencoder(config.autoencoder))
    rng = seeds.numpy_generator(seed, "instructions")
    texts = (instruction(edit, rng) for edit in edits.edits[:TEXTS])
    tokenizer = clip_text.build_tokenizer(clip_text.learn_pairs(texts, config.text.vocabulary), config.text.positions)
    sizes = config.unet.model_copy(
        update={"in_channels": autoencoder.config.latent_channels, "cross_attention_dim": config.text.width}
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seeds.derive(seed, "base"))
        unet, text_encoder = build_unet(sizes, None), clip_text.build_text_model(config.text, tokenizer)
    own = {"prediction_type": config.prediction_type, "steps_offset": 1}
    scheduler = schedulers.scheduler("dpmsolver++", config={**schedulers.BETAS, **own})
    return Base(unet, text_encoder, tokenizer, autoencoder, scheduler)


def _stored(
    config: InstructConfig, edits: Edits, draw: Draw, fingerprint: str, base: Base, run: RunContext
) -> dict[str, Any]:
    """The latents of what is shown, float16, and for references where in it something is drawn, of pictures with this
    `fingerprint`; from the run's file where the same were made before."""
    key = cache.key(
        fingerprint, weights_hash(base.autoencoder), _scale(base), config.picture_size, repr(edits.shown),
        "places on even light" if config.references else False,
    )  # fmt: skip
    name = "cache" if run.database is None else "validation"
    path = run.out / f"{name}.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"
    size = config.picture_size

    @torch.no_grad()
    def make() -> dict[str, Any]:
        latents, places = [], [np.zeros((0, 7), np.int16)]
        for part in draw(edits.shown):
            latents.append(encode_latents(base.autoencoder, part, run.device))
            if config.references:
                pixels = tensors.to_uint8(part).permute(0, 2, 3, 1).numpy()
                places.append(np.stack([find_place(each).numbers() for each in pixels]))
        return {"latents": torch.cat(latents), "places": torch.from_numpy(np.concatenate(places))}

    stored = cache.memoize(path, key, make)
    edge, own = stored["latents"].shape[-1], base.unet.config.sample_size
    if edge != own and not (config.base is not None and own % edge == 0 and edge < own):
        raise BowerbirdError(
            f"pictures of {size} px give latents of edge {edge}, and the network's is {own}; set"
            f" system.picture_size={size * own // edge}"
        )
    return stored


def _scale(base: Base) -> str:
    """By what latents are scaled before they are kept."""
    return repr([base.autoencoder.config.get(name) for name in SCALE])


def _held_out(
    config: InstructConfig,
    edits: Edits,
    draw: Draw,
    pictures: Pictures,
    others: tuple[tuple[int, ...], ...],
) -> HeldOut:
    chosen = chosen_edits(edits, SHOWN)
    rng = seeds.numpy_generator(0, "held-out wordings")
    empty = torch.zeros(0, 3, config.picture_size, config.picture_size)

    def drawn(shown: list[Shown]) -> torch.Tensor:
        return torch.cat(list(draw(shown))) if shown else empty

    there = [edit.drawing != NONE and config.references for edit in chosen]
    rows = [(others[edit.drawing] or (edit.drawing,))[0] if yes else 0 for edit, yes in zip(chosen, there, strict=True)]
    return HeldOut(
        drawn([edits.shown[edit.source] for edit in chosen]),
        drawn([edits.shown[edit.target] for edit in chosen]),
        tuple(instruction(edit, rng, held_out=True) for edit in chosen),
        tuple(edit.kind for edit in chosen),
        pictures.pixels[rows],
        torch.tensor(there, dtype=torch.float32),
    )
