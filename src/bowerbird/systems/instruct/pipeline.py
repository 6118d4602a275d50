"""Editing by instruction as a diffusers pipeline: a picture, what is to change in it, and what a knowledge base shows
of the thing that the instruction names.

What is on disk is diffusers' `StableDiffusionInstructPix2PixPipeline`, or the one for SDXL, and beside it, where the
model reads references, one more file. Without a reference both generate the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import files, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import last_part
from bowerbird.core.images import framed
from bowerbird.core.opening import opening
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import guidance
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps, Tokens
from bowerbird.models import clip_text, network_files
from bowerbird.models.weights import bundled
from bowerbird.systems import base_text, common, hub, model_index
from bowerbird.systems.base import Callback, Capabilities, Defaults, Denoising, System, SystemOutput
from bowerbird.systems.grounded.bases import CALL
from bowerbird.systems.grounded.lora import AppliedLora, apply_loras, inspect_all, lora_facts
from bowerbird.systems.grounded.recorded_base import check_recorded_base
from bowerbird.systems.instruct import network, placing
from bowerbird.systems.instruct.named import named_thing
from bowerbird.systems.instruct.network import FILE, ReferenceInput
from bowerbird.systems.instruct.usual import IMAGE_SCALE, PAPER, read_usual, write_usual
from bowerbird.systems.knn import edit_source
from bowerbird.systems.knn.edit_source import Source
from bowerbird.systems.queries import Request, nothing_found, with_prompts
from bowerbird.systems.reference_settings import LoraFile, ReferenceSettings

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

REFERENCE, LARGE = 2, 256
"""References are read at an edge of so many times the model's, as a drawing in them may be small; not those of models
with an edge from `LARGE` on."""
PLAIN, PLAIN_XL = "StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"


class InstructPipeline(System):
    """Edits pictures by instructions; `references` reads what was found of the thing that one names.

    The second text encoder is SDXL's. `force_zeros_for_empty_prompt`: no instruction is zeros, and not the tokens of an
    empty one. `is_cosxl_edit`: the latents of the picture are scaled, as CosXL's edit model reads them.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    generating = ("unet", "vae", "text_encoder", "text_encoder_2", "references")
    _optional_components = ["text_encoder_2", "tokenizer_2"]  # noqa: RUF012  # diffusers' own
    takes_loras = True

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        k: int = 1,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        force_zeros_for_empty_prompt: bool = False,
        is_cosxl_edit: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_modules(text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2)
        self.register_to_config(
            k=k, force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, is_cosxl_edit=is_cosxl_edit
        )
        self.references: ReferenceInput | None = None
        self.loras: tuple[AppliedLora, ...] = ()
        self.usual = PAPER

    @property
    def capabilities(self) -> Capabilities:
        """An instruction and a picture, with references where it was trained to read them, and without."""
        return Capabilities(
            (common.trained_size(self.unet, self.vae),),
            needs_images=True,
            without_neighbors=True,
            edits=True,
            starts_from_image=True,
            any_size=True,
            multiple_of=common.edge_step(self.unet, self.vae),
            max_references=0 if self.references is None else 1,
            instructs=True,
        )

    @property
    def defaults(self) -> Defaults:
        """One reference; the rest as the model says, else the paper's (`systems/instruct/usual.py`)."""
        return Defaults(
            k=0 if self.references is None else int(self.config.k),
            num_inference_steps=self.usual.steps,
            guidance_scale=self.usual.guidance_scale,
            sampler=self.capabilities.samplers[0],
            change_threshold=self.usual.change_threshold,
        )

    @torch.no_grad()
    def __call__(
        self,
        instruction: str | Sequence[str] | None = None,
        *,
        source: Image.Image | Sequence[Image.Image] | None = None,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        search_mode: str | None = None,
        where: str | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance: float = IMAGE_SCALE,
        change_threshold: float | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Edit `source`, a picture for all or one a picture made, as each `instruction` says. One that is no square
        keeps its shape (as PIL; `pt` and `np` are squares with its margins).

        `guidance_scale`: how much the instruction counts; `image_guidance`: how much of the picture stays; both 1
        is one pass without guidance. `change_threshold`: see `KNNDiffusionPipeline`; 0 takes all of the edit. None is
        the model's own (`defaults`).
        `knowledge_base`: the thing that an instruction names (`named_thing`) is looked up there, and the model is shown
        it; `neighbors` wins over that, and has the instructions where none is given.

        Raises: BowerbirdError (MismatchError for a knowledge base of another encoder), before anything is generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        if source is None:
            raise BowerbirdError("there is no picture to edit; give source=")
        _check_finite(guidance_scale=guidance_scale, image_guidance=image_guidance, change_threshold=change_threshold)
        if neighbors is None:
            given = (instruction,) if isinstance(instruction, str) else tuple(instruction or ())
            request = Request(prompts=given, k=k, search_mode=search_mode, where=where)
            neighbors = self.retrieve(request, knowledge_base)
        elif instruction is not None:
            neighbors = with_prompts(neighbors, instruction)
        hits = neighbors.repeat(num_images_per_prompt)
        _check_instructions(hits.queries)
        edge = common.one_edge(height, width) or common.trained_size(self.unet, self.vae)
        started = self._read(source, len(hits), edge)
        shown = started.latents / (1.0 if self.config.is_cosxl_edit else self._scale())
        both = self.condition(hits, shown, started)
        nothing, pooled = self._text([""] * len(hits))
        if self.config.force_zeros_for_empty_prompt:
            nothing = replace(nothing, keys=torch.zeros_like(nothing.keys))
            pooled = None if pooled is None else torch.zeros_like(pooled)
        image = replace(both, neighbors=both.neighbors.absent(), text=nothing, pooled=pooled)
        assert both.image is not None
        neither = replace(image, image=torch.zeros_like(both.image))
        scale = self.usual.guidance_scale if guidance_scale is None else guidance_scale
        steps = self.usual.steps if num_inference_steps is None else num_inference_steps
        predict = guidance.instruct(self.predict, both, image, neither, scale, image_guidance)
        generators = common.generators_for(generator, seed, len(hits))
        timesteps, options = common.schedule(self.scheduler, steps, eta, generators, self._execution_device)
        shape = (self.vae.config.latent_channels, *common.latent_shape(self.unet, self.vae, height, width))
        latents = common.initial_noise(self.scheduler, shape, generators, self._execution_device)
        transition = common.step_scheduler(self.scheduler, options)
        run = Denoising(self, latents, timesteps, transition, callback_on_step_end)
        for i, t in run:
            run.advance(predict(self.scheduler.scale_model_input(run.sample, t), t, i))
        images = run.sample
        if output_type != "latent":
            pixels = common.decode_latents(self.vae, run.sample)
            least = self.usual.change_threshold if change_threshold is None else change_threshold
            pixels = edit_source.paste_unchanged(pixels, started, run.sample, least)
            images = edit_source.without_frame(common.as_output(pixels, output_type), started)
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    # -- conditions ----------------------------------------------------------------------------------------------------

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents -> pictures `(n, 3, H, W)` in [-1, 1]."""
        return common.decode_latents(self.vae, latents)

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """For each instruction the nearest items to the thing that it names, weight 0 where it names none; none at all
        without a knowledge base or with k = 0. Raises: BowerbirdError for a knowledge base where the model was trained
        without references, and where the search finds nothing and that is not allowed."""
        if kb is not None:
            self._check_references("a knowledge base", 1 if request.k is None else request.k)
        request = self.resolve(request, kb)
        instructions = request.prompts or ()
        _check_instructions(instructions)
        k = request.k or 0
        if kb is None or k == 0:
            return Neighbors.empty(instructions).repeat(count)
        names = [named_thing(text) for text in instructions]
        if not any(names):
            return Neighbors.empty(instructions).repeat(count)
        asked = [text if name is None else name for text, name in zip(instructions, names, strict=True)]
        hits = kb.search(
            text=asked,
            k=k,
            mode=request.search_mode or "hybrid",
            where=request.where,
            min_score=request.min_score,
            typos=False,
            operators=False,
        )
        for text, name, row in zip(asked, names, hits.mask, strict=True):
            if name is not None and not row.any() and not request.allow_no_neighbors:
                raise nothing_found(kb, f"for {text!r}", request.where, request.min_score)
        named = np.array([[name is not None] * hits.k for name in names])
        return replace(
            hits, queries=tuple(instructions), weights=(hits.effective_weights * named).astype(np.float32)
        ).repeat(count)

    def own_references(self, prompt: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Neighbors:
        """A person's own picture of what the instruction `prompt` names. Raises: BowerbirdError for several, or a model
        without references."""
        self._check_references("a reference", len(pictures))
        return super().own_references(prompt, pictures, captions)

    def reference_picture(self, picture: Image.Image) -> Image.Image:
        """The whole of `picture` in a square, which is what is brought to its place and what a record keeps; of
        `REFERENCE` times the model's edge, or smaller where it is, however large the edit is."""
        edge = max(self.capabilities.sizes)
        return framed(picture, min(max(picture.size), edge if edge >= LARGE else REFERENCE * edge))

    def _check_references(self, what: str, count: int) -> None:
        """Raises: BowerbirdError for more references than the network is shown."""
        if count and self.references is None:
            raise BowerbirdError(
                f"this model was trained without references, so {what} changes nothing; leave it out, or use one like"
                " tiny-instruct"
            )
        if count > 1:
            raise BowerbirdError(f"this model reads at most 1 reference; got `k={count}`")

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` itself: any will do, as its pictures are what counts."""
        return kb

    def condition(self, hits: Neighbors, image: Tensor, source: Source, *args: Any, **kwargs: Any) -> Conditioning:
        """The instructions' tokens, and the unscaled latents `(n, C, h, w)` of the pictures in `source`, with those of
        references, each brought to where something is drawn in its picture. Raises: BowerbirdError for several
        references, or one without a picture."""
        text, pooled = self._text(list(hits.queries))
        near = FeatureMaps((torch.zeros_like(image)[:, None],), torch.zeros(len(hits), 1, device=image.device))
        if hits.k and (hits.effective_weights > 0).any():
            self._check_references("a reference", hits.k)
            near = self._read_references(hits, image, source)
        return Conditioning(near, text=text, image=image, pooled=pooled)

    def _read_references(self, hits: Neighbors, image: Tensor, source: Source) -> FeatureMaps:
        """The latents of each row's reference; the same one for the same picture is encoded once, and each alone."""
        weights = torch.from_numpy(np.ascontiguousarray(hits.effective_weights)).to(image.device)
        latents, known = torch.zeros_like(image), dict[tuple[bytes, bytes], Tensor]()
        for row, (picture, box, shown) in enumerate(zip(source.pictures, source.boxes, hits.images(), strict=True)):
            if not weights[row, 0]:
                continue
            if shown[0] is None:
                raise common.no_picture(int(hits.ids[row, 0]))
            reference = self.reference_picture(shown[0])
            key = reference.tobytes(), picture.tobytes()
            if key not in known:
                place = placing.find_place(np.asarray(picture), box)
                put = placing.put(np.asarray(reference), place, picture.width)
                known[key] = self._encode(tensors.to_float(torch.from_numpy(put).permute(2, 0, 1)[None]))[0]
            latents[row] = known[key]
        return FeatureMaps((latents[:, None],), weights)

    def _text(self, texts: list[str]) -> tuple[Tokens, Tensor | None]:
        """The tokens of texts, and of SDXL the vector of each."""
        tokens = [each.to(self._execution_device) for each in base_text.token_ids(self, texts)]
        made = base_text.encode([getattr(self, name) for name in base_text.encoder_names(self)], tokens)
        return Tokens(made.tokens, torch.ones(made.tokens.shape[:2], device=made.tokens.device)), made.pooled

    def _scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    def _read(self, source: Image.Image | Sequence[Image.Image], count: int, edge: int) -> Source:
        """The pictures with their scaled latents, in the autoencoder's own precision."""
        squares, boxes = edit_source.framed_sources(source, count, edge)
        pixels = tensors.to_float(tensors.stack(squares)).to(self._execution_device)
        return edit_source.repeated(squares, boxes, pixels, self._encode(pixels) * self._scale(), count)

    def _encode(self, pixels: Tensor) -> Tensor:
        """Pictures in [-1, 1] -> the modes of their latents, unscaled, float32."""
        parts = torch.split(pixels.to(self._execution_device, self.vae.dtype), 16)
        return torch.cat([self.vae.encode(part).latent_dist.mode().float() for part in parts])

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network: latents `(n, C, h, w)` -> the prediction, the same shape in float32."""
        edge = sample.shape[-1] * common.vae_scale_factor(self.vae)
        return network.predict(self.unet, self.references, sample, timestep, condition, edge).float()

    def record_facts(self, settings: ReferenceSettings | None, kb: KnowledgeBase | None) -> dict[str, Any]:
        """The LoRAs that change it."""
        return lora_facts(self.loras)

    # -- files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def hub_patterns(cls, index: dict[str, Any]) -> tuple[str, ...]:
        """The files of diffusers' pipeline, without the checker of what is shown, and what reads references."""
        parts = ("vae", *base_text.ENCODERS, *base_text.TOKENIZERS, "unet", "scheduler")
        endings = ("json", "safetensors", "txt")
        return ("model_index.json", FILE, CALL, *(f"{part}/*.{ending}" for part in parts for ending in endings))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, loras: Sequence[LoraFile] = (), **kwargs: Any
    ) -> Self:
        """What diffusers' pipeline of this kind opens: a bundled name, a directory, or a hub id, with our references
        where there are some, changed by the files of `loras` in that order. Raises: BowerbirdError when it cannot be
        had or opened, its U-Net reads no picture, or a LoRA is of another base."""
        import diffusers

        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", torch.float32)
        changes = inspect_all(loras)
        name = str(pretrained_model_name_or_path)
        place = bundled(name) or Path(name)
        if not place.is_dir():
            place = hub.fetch(name, kwargs, patterns=cls.hub_patterns({}))
        kind = getattr(diffusers, PLAIN_XL if model_index.read_index(place)["_class_name"] == PLAIN_XL else PLAIN)
        with opening(f"model {name!r}", "fetch or export it again; bowerbird models lists those that come along"):
            ours = network_files.is_bundled(place)
            kinds = {} if ours else model_index.check(kind, place)
            absent: dict[str, Any] = {"add_watermarker": False}
            if kind.__name__ == PLAIN:
                absent = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
                absent["requires_safety_checker"] = False
            kwargs = {**model_index.load_shared(kind, place, set(kwargs), dtype), **kwargs}
            given = {*kwargs, *absent}
            networks = (
                model_index.load_quantized(kind, place, given, dtype)
                if ours
                else model_index.load_networks(kinds, place, given, dtype, {})
            )
            plain = kind.from_pretrained(
                str(place),
                dtype=dtype,
                **{"local_files_only": True, "use_safetensors": True, **absent, **kwargs, **networks},
            )
            read: dict[str, Any] = {name: getattr(plain, name, None) for name in base_text.ENCODERS}
            read |= {name: getattr(plain, name, None) for name in base_text.TOKENIZERS}
            pipe = cls(
                vae=plain.vae,
                unet=plain.unet,
                scheduler=plain.scheduler,
                **read,
                force_zeros_for_empty_prompt=bool(getattr(plain.config, "force_zeros_for_empty_prompt", False)),
                is_cosxl_edit=bool(vars(plain).get("is_cosxl_edit", False)),  # diffusers does not keep it
            )
            pipe.after_loading(place)
            network_files.without_place(pipe, last_part(name))
            pipe.strange = not ours
            _check_channels(pipe, place)
            if pipe.strange:
                model_index.check_model(pipe, place)
        for lora in loras:
            check_recorded_base(Path(lora.path), pipe, place, "bowerbird train dreambooth --base …")
        pipe.loras = apply_loras(pipe, loras, changes)
        return pipe

    def after_loading(self, place: Path) -> None:
        """How it usually edits, and what reads references, where there is such. An autoencoder that overflows in
        float16, as SDXL's does and says (`force_upcast`), computes in float32."""
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", False):
            self.vae.to(torch.float32)
        self.usual = read_usual(place)
        if (place / FILE).is_file():
            latents = int(self.vae.config.latent_channels)
            self.references = network.load_references(place / FILE, self.unet, latents)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Diffusers' pipeline of this kind, and our references beside it."""
        import diffusers

        out, names = Path(save_directory), base_text.encoder_names(self)
        read = dict(zip(base_text.TOKENIZERS, base_text.tokenizers(self), strict=False))
        read |= {name: getattr(self, name) for name in names}
        parts = {"vae": self.vae, "unet": self.unet, "scheduler": self.scheduler, **read}
        if len(names) > 1:
            zeros = bool(self.config.force_zeros_for_empty_prompt)
            plain = getattr(diffusers, PLAIN_XL)(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
        else:
            plain = getattr(diffusers, PLAIN)(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        plain.save_pretrained(out, **kwargs)
        if self.config.is_cosxl_edit:
            index = files.read_json(out / model_index.FILE, "description of a model")
            files.write_json(out / model_index.FILE, {**index, "is_cosxl_edit": True})
        for name in names:
            # transformers computes in what the file says, diffusers in float32, and both have to agree
            written = files.read_json(out / name / "config.json", "configuration")
            files.write_json(out / name / "config.json", {**written, "dtype": "float32"})
        for name, tokenizer in zip(base_text.TOKENIZERS, base_text.tokenizers(self), strict=False):
            clip_text.save_tokenizer(tokenizer, out / name)
        if self.references is not None:
            network.save_references(self.references, out / FILE)
        if self.usual != PAPER:
            write_usual(self.usual, out)


def _check_instructions(instructions: Sequence[str]) -> None:
    if not instructions or any(not isinstance(text, str) or not text.strip() for text in instructions):
        raise BowerbirdError("the instruction is empty; say what to change, for example 'make it blue'")


def _check_finite(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise BowerbirdError(f"{name} is a finite number; got {number}")


def _check_channels(pipe: InstructPipeline, place: Path) -> None:
    reads, latents = int(pipe.unet.config.in_channels), int(pipe.vae.config.latent_channels)
    if reads != 2 * latents:
        raise BowerbirdError(
            f"{place}: its U-Net reads {reads} channels, and noise beside a picture has {2 * latents}; it was not"
            " trained to edit by instruction"
        )
