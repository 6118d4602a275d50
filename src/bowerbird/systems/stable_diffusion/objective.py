"""A small Stable Diffusion (arXiv 2112.10752) from nothing: the U-Net and its text model learn together; the
autoencoder is frozen.

What it is shown is a fixed choice of drawings (`data.scenes.vocabulary`), as they are and composed to scenes with other
colors, sizes, places and grounds, under captions that say so. So it is known what it knows: the names, the styles and
the words of scenes are in `known.json` beside the weights. Scenes are composed and encoded once; their captions are
written again each time.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import cache, files, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.processes import in_processes
from bowerbird.data.edits.variants import plain
from bowerbird.data.pictures import Pictures, others_of
from bowerbird.data.scenes.grammar import Scene, caption, draw_scene, renamed, whole_drawing
from bowerbird.data.scenes.render import render
from bowerbird.data.scenes.vocabulary import Vocabulary, build_vocabulary
from bowerbird.data.scenes.words import COLORS, KNOWN, SHAPES, SIZES, invented_name, with_article
from bowerbird.diffusion import schedulers
from bowerbird.models import clip_text
from bowerbird.models.clip_text import TextConfig
from bowerbird.models.latent_scale import without_shift
from bowerbird.models.unet import UNetConfig, build_unet, with_short_attention
from bowerbird.systems import from_rdm
from bowerbird.systems.components import load_autoencoder, weights_hash
from bowerbird.systems.grounded.bases import CALL
from bowerbird.systems.latent_cache import encode_latents
from bowerbird.systems.objective import Objective, ObjectiveConfig, RunContext
from bowerbird.systems.settings import Count, Share, column, network

CAPTIONS = 20_000
"""So many captions of scenes the vocabulary of tokens is made from."""
UNNAMED = "a drawing"
ITSELF = 0.25
"""The share of a drawing's pictures that are itself, where others have its name."""
HELD_OUT = 512
"""Scenes that the loss on held-out pictures is measured on."""


class StableDiffusionConfig(ObjectiveConfig):
    """Everything that shapes the model and what it is shown; stored in `recipe.json`.

    Of `unet`, the channels of the latents and the width of the text are those of the autoencoder and of `text`.
    `names`: how many things, drawn in `styles` (all when empty). `own_colors`: groups, by `group_key`, of which nothing
    is given another color. `scenes`: how many are composed; `whole`: the share of samples that are a drawing as it is;
    `unnamed`: the share that is any other drawing, of whatever style, under the caption `UNNAMED`: so the network draws
    more than what it knows by name. `invented`: the share of captions that call drawings by words nobody uses: so a
    word it does not know says nothing of how a thing looks, and an adapter's reference has not to overcome it. `start`:
    an RDM whose U-Net the weights begin with (see `from_rdm.py`); the autoencoder has to be its own. `pictured`: the
    share of samples, any drawings, with what that RDM attends to for others of their name in the place of a text: so
    the network's attention can say more than its few names, as a large model's can.
    """

    kind: Literal["stable-diffusion"] = "stable-diffusion"
    unet: UNetConfig = UNetConfig(block_out_channels=(64, 128, 192))
    text: TextConfig = TextConfig()
    autoencoder: str = network("tiny-autoencoder")
    start: str | None = network(None)
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    names: Count = 300
    styles: tuple[str, ...] = ()
    style_key: str | None = column("style")
    group_key: str | None = column("group")
    own_colors: tuple[str, ...] = ()
    scenes: Count = 60_000
    whole: Share = 0.4
    unnamed: Share = 0.0
    invented: Share = 0.0
    pictured: Share = 0.0
    null_probability: Share = 0.1
    picture_size: Annotated[int, Field(ge=8, le=4096)] = 64


class StableDiffusionBatch(TypedDict):
    """n items: latents `clean` and noise `eps` `(n, C, h, w)`, `timestep` `(n,)`, and the captions' `tokens` `(n,
    L)`. Of those in the mask `pictured` `(n,)` the tokens `seen` `(n, 2, D)` of two pictures stand in their place."""

    clean: Tensor
    tokens: Tensor
    pictured: NotRequired[Tensor]
    seen: NotRequired[Tensor]
    eps: Tensor
    timestep: Tensor


@dataclass(frozen=True)
class Seen:
    """What an RDM attends to for each drawing, `tokens` `(m, D)` float16: of those with a name here, then of the
    others; and for each drawing the rows of the `others` of its name."""

    tokens: Tensor
    others: tuple[tuple[int, ...], ...]


class StableDiffusionObjective(Objective[StableDiffusionBatch]):
    """The U-Net and the text model with the loss of latent diffusion: `latents` `(n, C, h, w)` of `shown`, whole
    drawings first, and after them of those that have no name here."""

    def __init__(
        self,
        config: StableDiffusionConfig,
        shown: Sequence[Scene],
        latents: Tensor,
        vocabulary: Vocabulary,
        tokenizer: Any,
        autoencoder: Any,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.shown, self.latents, self.seed = config, shown, latents, seed
        self.vocabulary, self.tokenizer = vocabulary, tokenizer
        self.seen: Seen | None = None
        self.frozen = (autoencoder,)  # a tuple hides it from nn.Module: it is not trained and not checkpointed
        sizes = config.unet.model_copy(
            update={"in_channels": latents.shape[1], "cross_attention_dim": config.text.width}
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seeds.derive(seed, "init"))
            self.unet = with_short_attention(build_unet(sizes, None))
            self.text_encoder = clip_text.build_text_model(config.text, tokenizer)
        self.noise_scheduler = schedulers.scheduler("ddim", prediction_type=config.prediction_type)

    def batch(self, step: int, size: int, rank: int = 0) -> StableDiffusionBatch:
        """`size` drawings and scenes with captions, a share of them without."""
        rng = seeds.numpy_generator(self.seed, "batch", step, rank)
        generator = seeds.torch_generator(self.seed, "noise", step, rank)
        drawings = len(self.vocabulary)
        whole = rng.random(size) < (self.config.whole if drawings else 0.0)
        rows = [
            int(rng.integers(drawings)) if alone else drawings + int(rng.integers(len(self.shown) - drawings))
            for alone in whole
        ]
        if self.config.unnamed and len(self.latents) > len(self.shown):
            others = rng.integers(len(self.shown), len(self.latents), size)
            rows = [
                int(b) if u < self.config.unnamed else a for a, b, u in zip(rows, others, rng.random(size), strict=True)
            ]
        texts = ["" if rng.random() < self.config.null_probability else self._caption(i, rng) for i in rows]
        seen = self._pictured(rows, rng)
        clean = self.latents[rows].float()
        made: StableDiffusionBatch = {
            "clean": clean,
            "tokens": clip_text.token_ids(self.tokenizer, texts),
            "eps": torch.randn(clean.shape, generator=generator),
            "timestep": torch.randint(schedulers.TIMESTEPS, (size,), generator=generator),
        }
        if seen is not None:
            made["pictured"], made["seen"] = seen
        return made

    def _pictured(self, rows: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
        """Put any drawing in the place of some `rows`: of which, and the tokens of two pictures that ask for it."""
        if self.seen is None:
            return None
        named, size = len(self.vocabulary), len(rows)
        drawings = rng.integers(len(self.seen.tokens), size=size)
        chosen = rng.random(size) < self.config.pictured
        references = np.empty((size, 2), int)
        for i, drawing in enumerate(drawings.tolist()):
            others = self.seen.others[drawing]
            for j in range(2):
                itself = not others or rng.random() < ITSELF
                references[i, j] = drawing if itself else others[int(rng.integers(len(others)))]
            if chosen[i]:
                rows[i] = drawing if drawing < named else len(self.shown) + drawing - named
        return torch.from_numpy(chosen), self.seen.tokens[references].float()

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        invented = self.config.invented > 0 and rng.random() < self.config.invented
        if row >= len(self.shown):
            return with_article(invented_name(rng)) if invented else UNNAMED
        return caption(renamed(self.shown[row], rng) if invented else self.shown[row], rng)

    def forward(self, batch: StableDiffusionBatch) -> Tensor:
        """E || target - network(z_t, t, text) ||^2. Source: latent diffusion, equation 3."""
        text = self.text_encoder(batch["tokens"]).last_hidden_state
        if "seen" in batch:
            by_turns = batch["seen"][:, torch.arange(text.shape[1], device=text.device) % 2]
            text = torch.where(batch["pictured"][:, None, None], by_turns.to(text), text)
        noisy = self.noise_scheduler.add_noise(batch["clean"], batch["eps"], batch["timestep"])
        predicted = self.unet(noisy, batch["timestep"], encoder_hidden_states=text).sample
        return F.mse_loss(
            predicted.float(),
            schedulers.training_target(self.noise_scheduler, batch["clean"], batch["eps"], batch["timestep"]),
        )

    def pipeline(self) -> Any:
        """The current weights as a pipeline of bowerbird's."""
        from bowerbird.systems.grounded.pipeline import ReferencePipeline

        return ReferencePipeline(self._plain(self.frozen[0], self.text_encoder, self.unet))

    def export(self, out: Path) -> None:
        """Write diffusers' `StableDiffusionPipeline`, in half precision, and what the model was shown."""
        autoencoder = copy.deepcopy(self.frozen[0]).half()
        networks = (self.unet.half(), self.text_encoder.half())
        self._plain(autoencoder, networks[1], networks[0]).save_pretrained(out)
        for trained in networks:
            trained.float()
        # transformers computes in what the file says, diffusers in float32, and both have to agree
        written = files.read_json(out / "text_encoder" / "config.json", "configuration")
        files.write_json(out / "text_encoder" / "config.json", {**written, "dtype": "float32"})
        clip_text.save_tokenizer(self.tokenizer, out / "tokenizer")
        files.write_json(out / KNOWN, known(self.vocabulary))
        files.write_json(out / CALL, {"num_inference_steps": 20, "guidance_scale": 3.0})

    def _plain(self, autoencoder: Any, text_encoder: Any, unet: Any) -> Any:
        """Diffusers' own pipeline of these networks."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=text_encoder,
            tokenizer=self.tokenizer,
            unet=unet,
            scheduler=self._scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _scheduler(self) -> Any:
        # diffusers' pipeline warns of any other offset; with trailing times none is added
        own = {"prediction_type": self.config.prediction_type, "steps_offset": 1}
        return schedulers.scheduler("dpmsolver++", config={**schedulers.BETAS, **own})


def known(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """What a model was shown: every other thing is unknown to it."""
    return {
        "names": vocabulary.known,
        "styles": list(vocabulary.by_style),
        "shapes": list(SHAPES),
        "colors": list(COLORS),
        "sizes": [size for size in SIZES if size],
    }


def compose(vocabulary: Vocabulary, count: int, seed: int) -> list[Scene]:
    """`count` scenes, the same for a seed."""
    rng = seeds.numpy_generator(seed, "scenes")
    return [draw_scene(vocabulary, rng) for _ in range(count)]


def build(config: StableDiffusionConfig, pictures: Pictures, run: RunContext) -> StableDiffusionObjective:
    """The objective over `pictures`. What is held out is shown in scenes of its own, of things that are trained on.
    Raises: BowerbirdError for `pictured` without an RDM to start from."""
    if config.pictured and config.start is None:
        raise BowerbirdError("system.pictured needs an RDM that says what a picture is: --set system.start=tiny-rdm")
    trained = _vocabulary(config, pictures if run.database is None else run.database)
    vocabulary = trained if run.database is None else _vocabulary(config, pictures, trained.known)
    count, seed = (config.scenes, run.seed) if run.database is None else (HELD_OUT, seeds.derive(run.seed, "held out"))
    shown = [whole_drawing(vocabulary, row) for row in range(len(vocabulary))] + compose(vocabulary, count, seed)
    tokenizer = _tokenizer(config, trained, run.seed)
    autoencoder = without_shift(load_autoencoder(config.autoencoder))
    objective = StableDiffusionObjective(
        config,
        shown,
        _latents(config, shown, vocabulary, pictures, autoencoder, run),
        vocabulary,
        tokenizer,
        autoencoder,
        run.seed,
    )
    if config.start is not None and run.database is None:
        _start(config.start, objective, pictures, run)
    if config.pictured and run.database is None:
        objective.seen = _seen(config, vocabulary, pictures, run)
    return objective


LENGTHS = "embeddings as long as the RDM reads them"
"""In the keys of what is kept of an RDM's tokens: before, they were of length 1."""


def _start(name: str, objective: StableDiffusionObjective, pictures: Pictures, run: RunContext) -> None:
    """The first weights from the RDM called `name`; the text model's from the run's file where they were made
    before."""
    rdm, encoder = from_rdm.load_start(name)
    if weights_hash(without_shift(rdm.vae)) != weights_hash(objective.frozen[0]):
        raise BowerbirdError(
            f"the network of {name!r} draws for another autoencoder: set system.autoencoder to its own, or"
            " system.start=null"
        )
    from_rdm.start_unet(objective.unet, rdm)
    rows = list(objective.vocabulary.rows)
    if not rows:  # no drawing has a name that could be learned
        return
    targets = from_rdm.neighbor_tokens(rdm, encoder, pictures, rows)
    rng = seeds.numpy_generator(run.seed, "start")

    def texts(chosen: np.ndarray) -> Tensor:
        said = [caption(objective.shown[row], rng) if row < len(rows) else "" for row in chosen.tolist()]
        return clip_text.token_ids(objective.tokenizer, said)

    def make() -> dict[str, Tensor]:
        from_rdm.teach_text(objective.text_encoder, texts, targets, rng)
        return {key: tensor.detach().clone() for key, tensor in objective.text_encoder.state_dict().items()}

    key = cache.key(weights_hash(rdm.unet), encoder.fingerprint, pictures.fingerprint(), repr(rows), run.seed, LENGTHS)
    path = run.out / "start.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"
    objective.text_encoder.load_state_dict(cache.memoize(path, key, make))


def _seen(config: StableDiffusionConfig, vocabulary: Vocabulary, pictures: Pictures, run: RunContext) -> Seen:
    """The tokens of every drawing, from the run's file where they were made before."""
    assert config.start is not None
    rdm, encoder = from_rdm.load_start(config.start)
    rows = [*vocabulary.rows, *_without_name(vocabulary, pictures)]
    key = cache.key(weights_hash(rdm.unet), encoder.fingerprint, pictures.fingerprint(), "seen", repr(rows), LENGTHS)
    path = run.out / "seen.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"
    tokens = cache.memoize(
        path, key, lambda: {"tokens": from_rdm.neighbor_tokens(rdm, encoder, pictures, rows)[:-1].half()}
    )["tokens"]
    return Seen(tokens, others_of([plain(pictures.captions[row]) for row in rows]))


def frozen(config: StableDiffusionConfig) -> dict[str, str]:
    """The fingerprints of the autoencoder, and of the network to start from."""
    found = {"autoencoder": weights_hash(load_autoencoder(config.autoencoder))}
    if config.start is not None:
        found["start"] = weights_hash(from_rdm.load_start(config.start)[0].unet)
    return found


def _vocabulary(config: StableDiffusionConfig, pictures: Pictures, names: Sequence[str] | None = None) -> Vocabulary:
    return build_vocabulary(
        pictures,
        config.names,
        style_key=config.style_key,
        styles=config.styles,
        group_key=config.group_key,
        own_colors=config.own_colors,
        names=names,
    )


def _tokenizer(config: StableDiffusionConfig, vocabulary: Vocabulary, seed: int) -> Any:
    rng = seeds.numpy_generator(seed, "captions")
    shown = [whole_drawing(vocabulary, row) for row in range(len(vocabulary))]
    shown += compose(vocabulary, min(config.scenes, CAPTIONS), seed)
    merges = clip_text.learn_pairs((caption(scene, rng) for scene in shown), config.text.vocabulary)
    return clip_text.build_tokenizer(merges, config.text.positions)


def _latents(
    config: StableDiffusionConfig,
    shown: Sequence[Scene],
    vocabulary: Vocabulary,
    pictures: Pictures,
    autoencoder: Any,
    run: RunContext,
) -> Tensor:
    """The latents of what is shown, float16 `(n, C, h, w)`, from the run's file where the same were made before."""
    key = cache.key(pictures.fingerprint(), weights_hash(autoencoder), config.picture_size, repr(shown))
    name = "cache" if run.database is None else "validation"
    path = run.out / f"{name}.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"
    autoencoder.to(run.device)

    def make() -> dict[str, Tensor]:
        def part(first: int) -> Tensor:
            return render(shown[first : first + 64], vocabulary, pictures, config.picture_size)

        starts = range(0, len(shown), 64)
        on_gpu = run.device != "cpu"  # which one process that draws would keep waiting
        pictured = in_processes(part, starts, min(8, os.cpu_count() or 1)) if on_gpu else map(part, starts)
        return {"latents": torch.cat([encode_latents(autoencoder, x, run.device) for x in pictured])}

    latents = cache.memoize(path, key, make)["latents"]
    rest = _without_name(vocabulary, pictures) if config.unnamed or config.pictured else []
    if rest and run.database is None:
        latents = torch.cat([latents, _others(config, rest, pictures, autoencoder, run)])
    if latents.shape[-1] != config.unet.sample_size:
        raise BowerbirdError(
            f"pictures of {config.picture_size} px give latents of edge {latents.shape[-1]}, and the network's is"
            f" {config.unet.sample_size}; set system.unet.sample_size={latents.shape[-1]}"
        )
    return latents


def _without_name(vocabulary: Vocabulary, pictures: Pictures) -> list[int]:
    """The drawings that are not in the vocabulary."""
    known = set(vocabulary.rows)
    return [row for row in range(len(pictures)) if row not in known]


def _others(
    config: StableDiffusionConfig, rows: list[int], pictures: Pictures, autoencoder: Any, run: RunContext
) -> Tensor:
    """The latents of the drawings in `rows`, float16 `(n, C, h, w)`, as `_latents` keeps them."""
    key = cache.key(pictures.fingerprint(), weights_hash(autoencoder), config.picture_size, "unnamed", repr(rows))
    path = run.out / "unnamed.safetensors" if run.caches is None else run.caches / f"{key[:16]}.safetensors"

    def make() -> dict[str, Tensor]:
        parts = []
        for first in range(0, len(rows), 64):
            x = tensors.to_float(pictures.pixels[rows[first : first + 64]])
            x = F.interpolate(x, size=config.picture_size, mode="bicubic", antialias=True).clamp(-1, 1)
            parts.append(encode_latents(autoencoder, x, run.device))
        return {"latents": torch.cat(parts)}

    return cache.memoize(path, key, make)["latents"]
