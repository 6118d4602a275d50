"""What a system is to everything above it: the contract, and the tail that all pipelines share.

A system generates pictures from neighbors. Its pipeline is a diffusers `DiffusionPipeline` that subclasses `System` and
says four things: what it can do (`capabilities`), how it turns a request into neighbors (`retrieve`), how it turns
neighbors into conditions (`condition`), and one pass of its network (`predict`). The library, the command line and the
server ask these; nobody looks at component names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from bowerbird.core import images, plugins, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import last_part
from bowerbird.core.opening import opening
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.models import network_files, training_pictures
from bowerbird.models.weights import bundled
from bowerbird.systems import common, hub, model_index, other_encoder
from bowerbird.systems.enlargement import Enlargement
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.diffusion.guidance import Guidance
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.patches import PatchDecoding, PatchSettings
    from bowerbird.systems.reference_settings import ReferenceSettings

Callback = Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]
"""diffusers' `callback_on_step_end`: (pipeline, step, timestep, {"latents": …}) -> what to go on with."""


FAR = 1.5
"""Beyond so many times its size a network draws worse: its attention and its field of view know that size alone."""


@dataclass(frozen=True)
class Capabilities:
    """What a system can do.

    `reads_text`: a text conditions the network beside the neighbors, and `Guidance` balances both.
    `needs_images`: it reads the neighbors' pictures and captions; otherwise their embeddings.
    `reads_query`: the query's own embedding is a condition beside the neighbors'.
    `without_neighbors`: it generates with k = 0 too.
    `edits`: it changes a picture where a text says so; `starts_from_image`: it can at least start from one.
    `guidance_interval`: guidance can be kept to a part of the steps.
    `sizes`: edge in pixels that each stage generates, the last is the picture's; `any_size`: others are possible, with
    edges in multiples of `multiple_of`.
    `samplers`: names that `set_sampler` takes. `max_references`: most neighbors it reads, None for any number.
    `instructs`: its text is an instruction, and `image_guidance` says how much of the picture stays.
    `likelihood`: it says how probable a picture is (`System.bits_per_token`).
    `captions`: it says in words what a picture shows (`System.caption`).
    `samples_tokens`: it draws a picture's tokens one by one, as `token_sampling` says.
    `fills`: it fills in the hole of a picture (`filling.with_hole`), and keeps the rest.
    `reads_patches`: tokens can be drawn with the nearest windows of a knowledge base too (`System.patch_decoding`).
    `takes_references`: it is somebody else's base model, whose references `ReferenceSettings` govern.
    """

    sizes: tuple[int, ...]
    reads_text: bool = False
    needs_images: bool = False
    reads_query: bool = False
    without_neighbors: bool = False
    edits: bool = False
    starts_from_image: bool = False
    guidance_interval: bool = False
    any_size: bool = False
    multiple_of: int = 1
    samplers: tuple[str, ...] = schedulers.SAMPLERS
    max_references: int | None = None
    takes_references: bool = False
    instructs: bool = False
    likelihood: bool = False
    captions: bool = False
    samples_tokens: bool = False
    reads_patches: bool = False
    fills: bool = False

    @property
    def stages(self) -> int:
        """How many networks a picture passes, one after the other."""
        return len(self.sizes)

    def far_size(self, height: int | None, width: int | None) -> str | None:
        """A line for a person where an edge is over `FAR` times as long, or as short, as all that were trained; None
        where none is. A cascade or a model of tokens refuses what is none of its sizes, so it has no such line."""
        trained = self.sizes[0]
        far = [e for e in (height, width) if e and max(e / trained, trained / e) > FAR]
        if not far or self.stages > 1 or self.samples_tokens:
            return None
        return (
            f"{far[0]} px is far from the {trained} px that this model was trained at: expect repeated or torn shapes;"
            " generate at its own size, and enlarge the picture"
        )


@dataclass(frozen=True)
class Defaults:
    """How a model generates unless asked otherwise: neighbors, steps (one number, or one a stage), guidance, sampler,
    and how it searches; from which to which share of the noise it is guided (None: in every step), the share of the
    steps that enhance the text (None: as `Guidance.from_scale` has it, or no text), how a cascade enlarges (None: as
    `Enlargement` does by itself, or no cascade), the scale of its references (None: they are not scaled), and what
    counts as a change where it edits (None: as KNN-Diffusion's edit has it)."""

    k: int
    num_inference_steps: int | tuple[int, ...]
    guidance_scale: float
    sampler: str
    search_mode: str = "hybrid"
    text_mode: str = "neighbors"
    image_mode: str = "image+neighbors"
    guidance_interval: tuple[float, float] | None = None
    text_ratio: float | None = None
    enlargement: Enlargement | None = None
    scale: float | None = None
    change_threshold: float | None = None


@dataclass(frozen=True)
class Caption:
    """A text for a picture, with its log-likelihood in nats a token, and the neighbors it was written after, one
    row."""

    text: str
    log_likelihood: float
    neighbors: Neighbors = field(compare=False)


@dataclass
class SystemOutput(BaseOutput):
    """`images`: PIL pictures, or an array or tensor as `output_type` says; `neighbors`: one row a picture."""

    images: Any
    neighbors: Neighbors


class System(DiffusionPipeline, ABC):
    """The pipeline of one system; calling it is diffusers' `__call__`, with `neighbors=` or a request and a knowledge
    base.

    `generating`: names of the components whose weights make the picture; `fingerprint` hashes them. `sampler_state`:
    the attributes that `set_sampler` changes, none for a system without a scheduler. `loads_in_dtype`: its weights are
    read in the number format it computes in, as they are too large to be in memory in two. `strange`: whether it was
    read from a directory that anybody may have made. `packed`: whether tokens are drawn by weights of 8 bits.
    `training_pictures`: what the model carries of them, if anything.
    """

    generating: ClassVar[tuple[str, ...]] = ("unet", "vae")
    sampler_state: ClassVar[tuple[str, ...]] = ("scheduler",)
    loads_in_dtype: ClassVar[bool] = False
    takes_loras: ClassVar[bool] = False
    strange: bool = False
    packed: bool = False
    training_pictures: training_pictures.TrainingPictures | None = None
    _callback_tensor_inputs = ("latents",)
    scheduler: Any

    # -- the contract ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this model can do."""

    @abstractmethod
    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """The neighbors for `request`, `count` rows for each prompt or for the one thing asked for.

        `proposal`: p_D's counts by item id, in place of the model's own. Row i draws from `seed + i`.
        Raises: BowerbirdError for a request the system cannot serve, MismatchError as `check_knowledge_base`.
        """

    @abstractmethod
    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> Conditioning:
        """What the network reads of `hits`, with its null, on the network's device.

        Raises: MismatchError when the embeddings have another dimension.
        """

    @abstractmethod
    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network, float32, of the sample's shape (logits for tokens): what guidance combines."""

    # -- what follows from it ----------------------------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """How this model generates unless asked otherwise: what its config says, else ours."""
        interval, steps = self.config.get("guidance_interval"), self.config.get("num_inference_steps", 20)
        return Defaults(
            k=int(self.config.k),
            num_inference_steps=int(steps) if isinstance(steps, int | float) else tuple(map(int, steps)),
            guidance_scale=float(self.config.get("guidance_scale", 3.0)),
            sampler=str(self.config.get("sampler", self.capabilities.samplers[0])),
            search_mode=str(self.config.get("search_mode", "hybrid")),
            guidance_interval=None if interval is None else (float(interval[0]), float(interval[1])),
        )

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The networks that `predict` runs, one a stage."""
        return [self.unet]

    @property
    def number_format(self) -> str:
        """What it computes in, one of `loading.DTYPES`."""
        return "int8" if self.packed else str(self.dtype).removeprefix("torch.")

    def pack_weights(self) -> None:
        """Draw tokens by weights of 8 bits from now on. Only systems that `samples_tokens` can."""
        for network in self.networks:
            network.pack()  # type: ignore[operator]
        self.packed = True

    @property
    def proposal_counts(self) -> dict[int, int]:
        """How often each item was a neighbor in training, by id: p_D. Empty where that is not kept."""
        return {}

    def resolve(self, request: Request, kb: KnowledgeBase | None = None) -> Request:
        """`request` with this model's number of neighbors (at most as many as `kb` holds) and search mode where it
        leaves them open."""
        own = self.defaults
        most = own.k if not kb else min(own.k, len(kb))
        k = most if request.k is None else request.k
        return replace(request, k=k, search_mode=request.search_mode or own.search_mode)

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` as this model reads it: itself, or with the embeddings of the encoder that the model was trained with.
        Raises: MismatchError when that encoder is not on this machine."""
        return other_encoder.read_with(kb, self.config)

    def find(self, request: Request, kb: KnowledgeBase, *, seed: int = 0) -> Neighbors:
        """The neighbors for `request`, to be shown: as `retrieve` has them, and nothing read of them that takes
        long."""
        return self.retrieve(request, kb, seed=seed)

    def read_neighbors(self, hits: Neighbors, kb: KnowledgeBase) -> Neighbors:
        """Items of `kb`, as `check_knowledge_base` gives it, with what this pipeline reads of each. Raises:
        MismatchError where it can read none of them."""
        return hits

    def own_references(self, prompt: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Neighbors:
        """A person's own pictures as the neighbors of `prompt`; none for the prompt alone. Raises: BowerbirdError for a
        system that cannot read them, or needs others."""
        can = self.capabilities
        if not (can.needs_images and can.without_neighbors):
            raise BowerbirdError(
                f"{with_article(type(self).__name__)} generates from embeddings: give `image` or `text_mode=text`"
                " with `kb`; `reference` and `k=0` are for models like reimagen-drawings"
            )
        if len(captions) != len(pictures):
            raise BowerbirdError(
                f"generate: {len(pictures)} of `reference` and {len(captions)} of `caption`; give one `caption` for"
                ' each, saying what it shows ("" leaves that open)'
            )
        return Neighbors.from_images([prompt], pictures, captions)

    def reference_picture(self, picture: Image.Image) -> Image.Image:
        """A neighbor's picture as the networks read it, which is what a record keeps."""
        return images.square(picture, max(self.capabilities.sizes))

    def batch_size(self, height: int | None = None, width: int | None = None) -> int | None:
        """How many pictures of this size go through the network at once; None for the usual number."""
        return None

    @property
    def token_sampling(self) -> TokenSampling:
        """How tokens are drawn unless asked otherwise, from the config: `temperature`, `top_k`, `top_p`, `min_p`. Only
        systems that `samples_tokens` have one. Raises: BowerbirdError for another."""
        if not self.capabilities.samples_tokens:
            raise BowerbirdError(f"{type(self).__name__} does not sample tokens one by one")
        config = self.config
        return TokenSampling(config.temperature, config.top_k, config.top_p, config.min_p)

    def patch_decoding(self, kb: KnowledgeBase, settings: PatchSettings, *, where: str | None = None) -> PatchDecoding:
        """Tokens drawn with the nearest windows of the items of `kb` that satisfy `where`, see `systems/patches.py`.
        Only systems that `reads_patches` have one. Raises: BowerbirdError where there are no items."""
        raise BowerbirdError(
            f"{with_article(type(self).__name__)} does not support patch decoding: `patch_weight` is for models like"
            " tiny-rarm"
        )

    def record_facts(self, settings: ReferenceSettings | None, kb: KnowledgeBase | None) -> dict[str, Any]:
        """What else a picture's record says of this pipeline."""
        return {}

    def weigh(self, hits: Neighbors, weights: Sequence[float]) -> Neighbors:
        """`hits` with one weight a neighbor: 2 counts twice, 0 leaves it out."""
        return hits.weighted(weights)

    def balance(self, guidance: Guidance | Sequence[Guidance] | None, guidance_scale: float) -> list[Guidance]:
        """How text and neighbors are balanced, a `Guidance` for each stage. Only systems that read a text have one.
        Raises: BowerbirdError for another."""
        raise BowerbirdError(f"{type(self).__name__} reads no text; it takes guidance_scale")

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of what a step leaves, `latents` as `callback_on_step_end` has them: a look, with the noise that is
        still in it; none where there is nothing to see."""
        with torch.no_grad():
            pixels = self.decode_latents(latents)
        return tensors.to_pil(pixels) if pixels.ndim == 4 and pixels.shape[1] == 3 else []

    def decode_latents(self, latents: Tensor) -> Tensor:
        """What sampling ends with -> pictures `(n, 3, H, W)` in [-1, 1]: itself where a system samples pixels. What
        is no picture yet, as a row of tokens, may come back as it is."""
        return latents

    def bits_per_token(self, pictures: Tensor, hits: Neighbors, *, null: bool = False) -> Tensor:
        """-log2 p of float pictures `(n, 3, S, S)` in [-1, 1] given their rows of `hits`, a token `(n,)`; with `null`
        without neighbors. Only systems with a `likelihood` have one. Raises: BowerbirdError for another."""
        raise BowerbirdError(f"{type(self).__name__} has no likelihood; use a model like tiny-rarm")

    def retrieve_like(self, image: Image.Image, knowledge_base: KnowledgeBase | None, k: int | None) -> Neighbors:
        """The neighbors for a picture that is filled in without a text. Only systems that `fills` have them. Raises:
        BowerbirdError for another."""
        raise BowerbirdError(
            f"{with_article(type(self).__name__)} does not fill in pictures; use a model like tiny-racm3"
        )

    def caption(
        self,
        image: Image.Image,
        *,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        best_of: int = 1,
        seed: int = 0,
    ) -> Caption:
        """What `image` shows, in words. Only systems with `captions` say it. Raises: BowerbirdError for another."""
        raise BowerbirdError(f"{with_article(type(self).__name__)} writes no captions; use a model like tiny-racm3")

    def fingerprint(self) -> str:
        """A hash of the weights that make the picture, 16 hex digits, the same wherever the model lies."""
        networks = [getattr(self, name, None) for name in self.generating]
        return common.fingerprint([network for network in networks if network is not None])

    @property
    def sampler_names(self) -> tuple[str, ...]:
        """What `set_sampler` takes by name: `capabilities.samplers`, and where ours are among them, those that
        installed packages add."""
        own = self.capabilities.samplers
        added = plugins.entry_point_names(schedulers.ENTRY_POINTS) if set(schedulers.SAMPLERS) <= set(own) else ()
        return (*own, *added)

    def set_sampler(self, name: str) -> None:
        """Sample with `name`, one of `capabilities.samplers` or `module:Class`, from now on; the schedule stays.

        Raises: BowerbirdError for a name that is not known, or where there is no scheduler to change.
        """
        own = self.capabilities.samplers
        if "scheduler" not in self.sampler_state:
            if name not in own:
                raise BowerbirdError(
                    f"sampler {name!r} is of models that add noise; {type(self).__name__} has {', '.join(own)}"
                )
            return
        self.scheduler = schedulers.scheduler(name, config=self.scheduler.config)

    @contextmanager
    def sampling_with(self, name: str) -> Iterator[None]:
        """A block that samples with `name`, without a progress bar; afterwards the pipeline is as it was."""
        before = {key: self.__dict__.get(key) for key in (*self.sampler_state, "_progress_bar_config")}
        self.set_sampler(name)
        self.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            bar = before.pop("_progress_bar_config")
            for key, value in before.items():  # set, not put back: diffusers keeps a scheduler's class in its config
                setattr(self, key, value)
            self.__dict__.pop("_progress_bar_config", None)
            if bar is not None:
                self._progress_bar_config = bar

    @classmethod
    def hub_patterns(cls, index: dict[str, Any]) -> tuple[str, ...]:
        """Which files of a model on the hub are fetched, by its `model_index.json`."""
        return hub.PATTERNS

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """A bundled name, a directory in diffusers layout, or a hub id.

        Weights are float32 unless `dtype` (or the older `torch_dtype`) says otherwise; the rest is diffusers'. Anybody
        may have made the directory: it is looked at first, runs no code, and nothing else is fetched.

        Raises: BowerbirdError when it cannot be had or opened.
        """
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", torch.float32)
        name = str(pretrained_model_name_or_path)
        place = bundled(name) or Path(name)
        if not place.is_dir():
            place = hub.fetch(name, kwargs)
        with opening(f"model {name!r}", "fetch or export it again; bowerbird models lists those that come along"):
            ours = network_files.is_bundled(place)
            if ours:
                model_index.check_bundled(cls, place, name)
            kinds = {} if ours else model_index.check(cls, place)
            kwargs = {**cls.shared_components(place, dtype, set(kwargs)), **kwargs}
            if ours:
                kwargs |= model_index.load_quantized(cls, place, set(kwargs), dtype)
            if not ours and "device_map" not in kwargs:
                options = {"variant": kwargs["variant"]} if kwargs.get("variant") else {}
                kwargs |= model_index.load_networks(kinds, place, set(kwargs), dtype, options)
            pipe: Self = super().from_pretrained(
                str(place), dtype=dtype, **{"local_files_only": True, "use_safetensors": True, **kwargs}
            )
            pipe.after_loading(place)
            pipe.training_pictures = training_pictures.read(place)
            for part, component in pipe.components.items():
                if isinstance(component, torch.nn.Module):
                    network_files.without_place(component, part)
            network_files.without_place(pipe, last_part(name))
            pipe.strange = not ours
            if pipe.strange:
                model_index.check_model(pipe, place)
        return pipe

    @classmethod
    def shared_components(cls, place: Path, dtype: torch.dtype, given: set[str]) -> dict[str, Any]:
        """Components that the folder `place` does not hold itself, as bundled models share them; not those `given`."""
        return model_index.load_shared(cls, place, given, dtype)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """diffusers' layout, and what the model carries of its training pictures."""
        super().save_pretrained(save_directory, **kwargs)
        if self.training_pictures is not None:
            training_pictures.write(self.training_pictures, Path(save_directory))

    def after_loading(self, place: Path) -> None:
        """Read what lies beside diffusers' files in the folder `place`."""


class Denoising:
    """The steps from noise to a sample: iterate for (step from 0, timestep), then `advance` with the prediction.

    `sample` is where it stands. The caller computes the prediction itself, so that its own function is the last frame
    before the network.
    """

    def __init__(
        self,
        pipe: System,
        sample: Tensor,
        timesteps: Any,
        transition: Callable[[Tensor, Tensor, Any], Tensor],
        callback: Callback | None = None,
        bar: Any = None,
    ) -> None:
        """`transition`: (prediction, sample, timestep) -> the next sample; `bar`: a progress bar that goes on."""
        self.pipe, self.sample, self.timesteps, self.transition = pipe, sample, timesteps, transition
        self.callback, self.bar = callback, bar
        self._at: tuple[int, Any] = (0, None)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        steps = self.timesteps if self.bar is not None else self.pipe.progress_bar(self.timesteps)
        for i, t in enumerate(steps):
            self._at = (i, t)
            yield i, t
            if self.bar is not None:
                self.bar.update()

    def advance(self, predicted: Tensor) -> None:
        """Take the step, and let the caller's callback see and change the result."""
        i, t = self._at
        self.sample = self.transition(predicted, self.sample, t)
        if self.callback is not None:
            time = int(t[0] if isinstance(t, tuple) else t)
            self.sample = self.callback(self.pipe, i, time, {"latents": self.sample}).get("latents", self.sample)
