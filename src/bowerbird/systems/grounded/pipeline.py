"""`ReferencePipeline`: a diffusers pipeline of somebody else's, given references from a knowledge base."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from bowerbird.core import cache
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.opening import opening
from bowerbird.core.types import Neighbors
from bowerbird.core.weight_files import file_fingerprint
from bowerbird.diffusion import schedulers
from bowerbird.models import network_files
from bowerbird.models.weights import bundled
from bowerbird.systems import common, hub, model_index, queries
from bowerbird.systems.base import Callback, Capabilities, Defaults, System, SystemOutput
from bowerbird.systems.grounded import bases, picture_encoder
from bowerbird.systems.grounded.bases import BaseFacts
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, Task
from bowerbird.systems.grounded.injectors.registry import injector_for, inspect_adapter
from bowerbird.systems.grounded.picture_encoder import PictureEncoder, find_encoder
from bowerbird.systems.grounded.references import Reference, references_of
from bowerbird.systems.grounded.settings import FITS, SCALE, ReferenceSettings
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.grounded.adapter_file import AdapterFacts

OWN_SAMPLER = "base"
"""The sampler of the base itself, as it was opened."""
REMEMBERED = 64
"""Embeddings of pictures that are kept, so that many pictures of one prompt encode its references once."""
PIXELS = {"cpu": 2**18, "cuda": 2**20}
"""Pixels in one pass of a base: one picture of 512 on a CPU, one of 1024 on an accelerator, more of smaller ones."""
MOST_AT_ONCE = {"cpu": 4, "cuda": 32}
NOT_GENERATING = ("safety_checker", "image_encoder", "feature_extractor")


class ReferencePipeline(System):
    """Generates with `base`, any pipeline of `bases.BASES`, from a prompt and references.

    An `adapter` (the file of an IP-Adapter or of FLUX Redux) takes references into a base that reads text alone;
    in-context editors read pictures themselves. `image_encoder`: the folder of the adapter's encoder; None looks beside
    the adapter's file. Where a knowledge base was built with that encoder, its stored embeddings are read and no
    picture is. `fit`: how pictures that are no squares are encoded, `pad`, `squash` or `crop`; None is `pad`, or as the
    stored embeddings were made. The base is changed during a call alone.

    Raises: BowerbirdError when adapter, encoder and base do not fit, before anything is loaded.
    """

    generating: ClassVar[tuple[str, ...]] = ()
    loads_in_dtype: ClassVar[bool] = True

    def __init__(
        self,
        base: Any,
        *,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        fit: str | None = None,
    ) -> None:
        super().__init__()
        self.register_to_config()
        if fit is not None and fit not in FITS:
            raise BowerbirdError(f"`fit` {fit!r} is not known; choose one of {', '.join(FITS)}")
        self.base, self.fit = base, fit
        self.facts, self.encoder, kind = _fitting(bases.facts_of(base), adapter, image_encoder)
        self.injector: Injector | None = None
        if kind is not None:
            what = f"adapter {str(adapter)!r}" if self.facts is not None else type(base).__name__
            with opening(what, "fetch it again"):
                self.injector = kind(base, self.facts)
        self.folder: Path | None = None
        self._embedded: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
        self._known: dict[str, str] = {}
        self._stored: dict[str, bool] = {}

    # -- the base, as if it were the pipeline itself -------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        found: torch.device = self.base._execution_device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What the base computes in."""
        found: torch.dtype = self.networks[0].dtype
        return found

    @property
    def components(self) -> dict[str, Any]:
        """The base's."""
        found: dict[str, Any] = self.base.components
        return found

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The base's U-Net or transformer."""
        unet = getattr(self.base, "unet", None)
        return [self.base.transformer if unet is None else unet]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the base, and its number format."""
        self.base.to(*args, **kwargs)
        self._embedded.clear()
        return self

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the base; the adapter is a file of its own."""
        self.base.save_pretrained(save_directory, **kwargs)

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """That of the base."""
        self.base.set_progress_bar_config(**kwargs)

    def offload(self, how: str) -> None:
        """Keep weights in main memory and move them to the accelerator when they are needed: `model` a network at a
        time, `sequential` a layer at a time, `none`. Raises: BowerbirdError without an accelerator."""
        if how not in ("none", "model", "sequential"):
            raise BowerbirdError(f"`offload` {how!r} is not known; choose none, model or sequential")
        if how == "none":
            return
        if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            raise BowerbirdError(f"`offload={how}` needs an accelerator, and torch finds none here; leave it out")
        self.fingerprint()  # of the weights while they are all at hand
        (self.base.enable_model_cpu_offload if how == "model" else self.base.enable_sequential_cpu_offload)()

    # -- the contract --------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """A prompt, and references as the injector takes them."""
        can = None if self.injector is None else self.injector.capabilities
        ours = getattr(self.base, "unet", None) is not None
        return Capabilities(
            (bases.trained_edge(self.base),),
            needs_images=can is not None and can.takes != "embeds",
            without_neighbors=can is None or not can.needs_reference,
            takes_references=True,
            any_size=True,
            samplers=(OWN_SAMPLER, *schedulers.SAMPLERS) if ours else (OWN_SAMPLER,),
            max_references=0 if can is None else can.max_references,
        )

    @property
    def defaults(self) -> Defaults:
        """The base's own steps and guidance; one reference."""
        usual = bases.usual_call(self.base)
        return Defaults(int(self.injector is not None), usual.steps, usual.guidance_scale, OWN_SAMPLER)

    @property
    def scheduler(self) -> Any:
        """The base's."""
        return self.base.scheduler

    def batch_size(self, height: int | None = None, width: int | None = None) -> int:
        """As many pictures as fit `PIXELS`; one where the base mixes pictures of different references up."""
        if self.injector is not None and not self.injector.capabilities.mixed_batches:
            return 1
        edge, kind = self.capabilities.sizes[-1], "cpu" if self.device.type == "cpu" else "cuda"
        return max(1, min(MOST_AT_ONCE[kind], PIXELS[kind] // ((height or edge) * (width or edge))))

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """The neighbors for `request`, with what the adapter reads of each; none with k = 0."""
        request = self.resolve(request, kb)
        if request.k == 0 and request.prompts is not None:
            return Neighbors.empty(request.prompts).repeat(count)
        if self.injector is None:
            raise BowerbirdError(
                f"a {type(self.base).__name__} reads no pictures by itself: give an adapter for it (`adapter`), or k=0"
                " for the prompt alone"
            )
        if kb is None:
            raise BowerbirdError("give knowledge_base=, or neighbors=, or k=0 for the prompt alone")
        if request.unconditional or request.text_mode not in (None, "neighbors"):
            raise BowerbirdError(
                "a base reads a prompt, and pictures as references: give a prompt, an image or a class; text_mode is"
                " neighbors"
            )
        if request.image_mode not in (None, "neighbors"):
            raise BowerbirdError("image_mode is neighbors here; a picture of your own goes in as `reference`")
        most = self.injector.capabilities.max_references
        if most is not None and (request.k or 0) > most:
            raise BowerbirdError(
                f"a {type(self.base).__name__} takes at most {most} reference{'s' * (most > 1)}; got `k={request.k}`"
            )
        request = replace(request, text_mode="neighbors", image_mode="neighbors")
        return self._with_embeddings(queries.retrieve(kb, request, count, seed=seed, counts={}), kb)

    def own_references(self, prompt: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Neighbors:
        """A person's own pictures as references. Raises: BowerbirdError for a base that takes none, or fewer."""
        if pictures and self.injector is None:
            raise BowerbirdError(
                f"a {type(self.base).__name__} reads no pictures by itself: give an adapter for it (`adapter`), or leave"
                " `reference` out"
            )
        hits = Neighbors.from_images([prompt], pictures, captions or [""] * len(pictures))
        return self._with_embeddings(hits, None) if pictures else hits

    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> Any:
        """Raises: BowerbirdError: a base makes its conditions itself, inside its call."""
        raise BowerbirdError(f"a {type(self.base).__name__} makes its conditions itself; call the pipeline")

    def predict(self, sample: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """Raises: BowerbirdError: a base guides itself, inside its call."""
        raise BowerbirdError(f"a {type(self.base).__name__} guides itself; call the pipeline")

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` itself: its pictures are encoded where its embeddings do not serve. Raises: MismatchError where they
        cannot be."""
        if self.injector is not None and self.injector.capabilities.takes == "embeds" and not self.reads_stored(kb):
            self._the_encoder(f"{kb.path}: its embeddings are of encoder {kb.encoder_name!r}")
        return kb

    def reads_stored(self, kb: KnowledgeBase) -> bool:
        """Whether the embeddings that `kb` stores are what the adapter reads, so that no picture is decoded."""
        can, need = (None, None) if self.injector is None else (self.injector.capabilities, self.injector.encoder)
        if can is None or need is None or can.takes != "embeds" or self.fit not in (None, "crop"):
            return False
        if kb.encoder_fingerprint not in self._stored:
            self._stored[kb.encoder_fingerprint] = picture_encoder.holds_same_embeddings(kb, need, self.encoder)
        return self._stored[kb.encoder_fingerprint]

    # -- generating ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        weights: Sequence[float] | None = None,
        search_mode: str | None = None,
        where: str | None = None,
        allow_no_neighbors: bool = False,
        scale: float = SCALE,
        layers: str = "all",
        steps_from: float = 0.0,
        steps_to: float = 1.0,
        pool: int = 1,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        **call: Any,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt.

        `neighbors=` wins over retrieval; k = 0 is the base alone, as is `scale=0`. `weights`: how the scale is shared
        among the references; 0 leaves one out. `scale`, `layers`, `steps_from`, `steps_to`, `pool`: see
        `ReferenceSettings`. Steps, guidance and size are the base's own where nothing is said; `call` goes to the
        base's own call as it is. Raises: BowerbirdError before anything is generated.
        """
        common.check_output_type(output_type)
        settings = ReferenceSettings(
            scale=scale,
            layers=layers,
            steps_from=steps_from,
            steps_to=steps_to,
            pool=pool,
            negative_prompt=negative_prompt,
        )
        if num_images_per_prompt < 1:
            raise BowerbirdError(f"num_images_per_prompt is 1 or more; got {num_images_per_prompt}")
        how = {"k": k, "search_mode": search_mode, "where": where, "allow_no_neighbors": allow_no_neighbors}
        hits = self._neighbors(prompt, neighbors, knowledge_base, how).repeat(num_images_per_prompt)
        hits = hits if weights is None else hits.weighted(weights)
        steps = self.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise BowerbirdError(f"num_inference_steps is 1 or more; got {steps}")
        rows = self._references(hits)
        for row in rows:
            if self.injector is not None:
                self.injector.check(row, settings)
        options = self._options(settings, steps, guidance_scale, eta, height, width, output_type) | call
        generators = common.generators_for(generator, seed, len(hits))
        prompts = list(hits.queries) or [""] * len(hits)
        made: list[Any] = [None] * len(hits)
        for group in self._groups(rows):
            # as many rows in every pass, so that no picture depends on what else is asked for
            padded = group if not self._mixes(rows) else group + group[-1:] * (len(hits) - len(group))
            images = self._pass(
                [prompts[i] for i in padded],
                [rows[i] for i in padded],
                [generators[i] for i in group] + [_copy(generators[group[-1]]) for _ in padded[len(group) :]],
                settings,
                {**options, "num_inference_steps": steps},
                callback_on_step_end,
            )
            for at, i in enumerate(group):
                made[i] = images[at]
        self.base.maybe_free_model_hooks()
        if output_type == "np":
            return SystemOutput(images=np.stack(made), neighbors=hits)
        return SystemOutput(images=made if output_type == "pil" else torch.stack(made), neighbors=hits)

    def _pass(
        self,
        prompts: list[str],
        rows: list[list[Reference]],
        generators: list[torch.Generator],
        settings: ReferenceSettings,
        options: dict[str, Any],
        callback: Callback | None,
    ) -> Any:
        """One call of the base; its pictures."""
        steps = options["num_inference_steps"]
        if settings.negative_prompt:
            options = {**options, "negative_prompt": [settings.negative_prompt] * len(prompts)}
        injected: Any = nullcontext(Injection({}))
        if self.injector is not None and rows[0] and settings.scale > 0:
            edge = self.capabilities.sizes[-1]
            size = (options.get("height") or edge, options.get("width") or edge)
            injected = self.injector.inject(Task(prompts, rows, settings, *size, blank=self._blank()))
        with injected as injection:

            def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                if injection.switch is not None:
                    injection.switch(settings.is_active(step + 1, steps))
                return tensors if callback is None else callback(pipe, step, timestep, tensors)

            if injection.switch is not None:
                injection.switch(settings.is_active(0, steps))
            one = generators if len(generators) > 1 else generators[0]
            arguments = {"prompt": prompts, **options, **injection.call, "generator": one}
            return self.base(callback_on_step_end=on_step, **arguments).images

    def _options(
        self,
        settings: ReferenceSettings,
        steps: int,
        guidance_scale: float | None,
        eta: float,
        height: int | None,
        width: int | None,
        output_type: str,
    ) -> dict[str, Any]:
        """The arguments of the base's call. Raises: BowerbirdError for one that it does not have."""
        usual, known = bases.usual_call(self.base), inspect.signature(self.base.__call__).parameters
        scale = usual.guidance_scale if guidance_scale is None else guidance_scale
        options: dict[str, Any] = {"output_type": output_type, "height": height, "width": width}
        options[usual.guidance_name] = scale
        if eta:
            options["eta"] = eta
        asked = [*options, *(["negative_prompt"] if settings.negative_prompt else [])]
        missing = [name for name in asked if name not in known]
        if missing:
            raise BowerbirdError(f"a {type(self.base).__name__} takes no {missing[0]}; leave it out")
        return options

    def _mixes(self, rows: Sequence[Sequence[Reference]]) -> bool:
        return self.injector is None or self.injector.capabilities.mixed_batches

    def _groups(self, rows: Sequence[Sequence[Reference]]) -> list[list[int]]:
        """Which rows go through the base together: those with as many references of equal weights and regions, where
        the injector tells the references of a batch's pictures apart; else each alone."""
        if not self._mixes(rows):
            return [[i] for i in range(len(rows))]
        groups: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(tuple((each.weight, each.region) for each in row), []).append(i)
        return list(groups.values())

    # -- references ----------------------------------------------------------------------------------------------------

    def _neighbors(
        self,
        prompt: str | Sequence[str] | None,
        given: Neighbors | None,
        kb: KnowledgeBase | None,
        how: dict[str, Any],
    ) -> Neighbors:
        prompts = None if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt)
        if prompts == () or (given is not None and not len(given)):
            raise BowerbirdError("there is no prompt in the list; give one or several")
        if given is None:
            if prompts is None:
                raise BowerbirdError("give a prompt with knowledge_base=, or neighbors=")
            if kb is None and how["k"] is None and self.capabilities.without_neighbors:
                how = {**how, "k": 0}
            return self.retrieve(Request(prompts=prompts, **how), kb)
        if prompts is not None:
            if len(prompts) not in (1, len(given)):
                raise BowerbirdError(
                    f"{len(prompts)} prompts for {len(given)} sets of neighbors; give one, or one a set"
                )
            given = replace(given, queries=prompts if len(prompts) == len(given) else prompts * len(given))
        return given

    def _references(self, hits: Neighbors) -> list[list[Reference]]:
        """The references of each row, with what the injector reads of each."""
        if self.injector is None:
            if hits.mask.any():
                raise BowerbirdError(
                    f"a {type(self.base).__name__} reads no pictures by itself: give an adapter for it (`adapter`)"
                )
            return [[] for _ in range(len(hits))]
        takes, need = self.injector.capabilities.takes, self.injector.encoder
        if takes == "embeds":
            assert need is not None
            own = hits.encoder in ("", self._encoder_id())
            if hits.k and hits.mask.any() and not (own and hits.embeddings.shape[-1] == need.dim):
                hits = self._with_embeddings(hits, None)
            return [references_of(hits, row, None) for row in range(len(hits))]
        pictures: list[list[Image.Image | None]] = hits.images() if hits.k else [[] for _ in range(len(hits))]
        rows = [references_of(hits, row, pictures[row]) for row in range(len(hits))]
        if takes == "pictures":
            return [
                [
                    replace(each, picture=self.reference_picture(each.picture))
                    for each in row
                    if each.picture is not None
                ]
                for row in rows
            ]
        return [
            [replace(each, embedding=self._embed(each.picture)) for each in row if each.picture is not None]
            for row in rows
        ]

    def _with_embeddings(self, hits: Neighbors, kb: KnowledgeBase | None) -> Neighbors:
        """`hits` with what the adapter reads of each: as `kb` stores it, or of the pictures. Raises: MismatchError where
        there is neither."""
        assert self.injector is not None
        if self.injector.capabilities.takes != "embeds":
            return hits
        mask = hits.mask
        if kb is not None and self.reads_stored(kb):
            picture_encoder.check_raw(hits.embeddings[mask], str(kb.path))
            return replace(hits, encoder=self._encoder_id())
        where = f"these neighbors' embeddings are of another encoder ({hits.embeddings.shape[-1]} dimensions)"
        if kb is not None:
            where = f"{kb.path}: its embeddings are of encoder {kb.encoder_name!r} ({kb.dim} dimensions)"
        encoder = self._the_encoder(where)
        pictures = hits.images()
        made = np.zeros((*hits.ids.shape, encoder.need.dim), np.float32)
        for row, column in zip(*np.nonzero(mask), strict=True):
            picture = pictures[row][column]
            if picture is None:
                raise BowerbirdError(
                    f"neighbor {int(hits.ids[row, column])} has no picture to encode; build the knowledge base from"
                    " pictures, or with the adapter's encoder"
                )
            made[row, column] = self._embed(picture)
        return replace(hits, embeddings=made, encoder=self._encoder_id())

    def _the_encoder(self, where: str) -> PictureEncoder:
        if self.encoder is not None:
            return self.encoder
        need = None if self.injector is None else self.injector.encoder
        raise MismatchError(
            f"{where}, and the adapter reads {'another' if need is None else need.title}; give its folder"
            " (`image_encoder=DIR`), or build the knowledge base with it: bowerbird kb build NEW SOURCE --encoder DIR"
        )

    def _encoder_id(self) -> str:
        """What `Neighbors.encoder` says of embeddings that the adapter reads."""
        if self.encoder is None:
            need = None if self.injector is None else self.injector.encoder
            return "" if need is None else f"{need.output}-{need.dim}"
        return self._memo("encoder", lambda: self.encoder.fingerprint if self.encoder is not None else "")

    def _embed(self, picture: Image.Image) -> np.ndarray:
        encoder = self._the_encoder("the references are pictures")
        plain = encoder.prepare(picture, self.fit or "pad")
        key = (plain.tobytes(), str(self.device), str(self.dtype))
        if key not in self._embedded:
            self._embedded[key] = encoder.embed([plain], self.fit or "pad", self.device, self.dtype)[0]
            while len(self._embedded) > REMEMBERED:
                self._embedded.popitem(last=False)
        self._embedded.move_to_end(key)
        return self._embedded[key]

    def _blank(self) -> Tensor | None:
        """What the adapter reads in the passes without references, where that is not zeros."""
        if self.encoder is None or self.injector is None or not self.injector.reads_blank:
            return None
        key = ("blank", str(self.device), str(self.dtype))
        if key not in self._embedded:
            self._embedded[key] = self.encoder.blank(self.device, self.dtype)
        return torch.from_numpy(self._embedded[key])

    def reference_picture(self, picture: Image.Image) -> Image.Image:
        """A neighbor's picture as the base reads it, which is what a record keeps."""
        if self.injector is not None and self.injector.encoder is not None and self.encoder is not None:
            return self.encoder.prepare(picture, self.fit or "pad")
        return picture if self.injector is None else self.injector.prepare_picture(picture, self.fit or "pad")

    # -- what a record says --------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """A hash of the base's weights and of the adapter's and encoder's files."""
        base = self.base_fingerprint()
        if self.facts is None:
            return base
        return cache.key(base, self._adapter_hash(), self._encoder_id())[:16]

    def base_fingerprint(self) -> str:
        """A hash of the base's weights. Of a folder it is kept, as reading gigabytes takes a minute."""
        return self._memo("base", self._hash_base)

    def record_facts(self, settings: ReferenceSettings | None, kb: KnowledgeBase | None) -> dict[str, Any]:
        """What a record says of the base, the adapter, and how references went in."""
        said = ReferenceSettings() if settings is None else settings
        found: dict[str, Any] = {
            "base": {"pipeline": type(self.base).__name__, "fingerprint": self.base_fingerprint()},
            "injector": None if self.injector is None else self.injector.kind,
            "scale": said.scale,
            "layers": said.layers,
            "steps_from": said.steps_from,
            "steps_to": said.steps_to,
            "pool": said.pool,
            "negative_prompt": said.negative_prompt,
        }
        if self.facts is not None:
            found["adapter"] = {"name": self.facts.path.name, "hash": self._adapter_hash(), "kind": self.facts.kind}
            name = self.facts.encoder.title if self.encoder is None else self.encoder.name
            found["encoder"] = {"name": name, "fingerprint": self._encoder_id()}
            stored = kb is not None and self.reads_stored(kb)
            found["fit"] = "crop" if stored else self.fit or "pad"
        return {"references": found | ({} if self.injector is None else self.injector.describe())}

    def _adapter_hash(self) -> str:
        facts = self.facts
        return self._memo("adapter", lambda: "" if facts is None else file_fingerprint(facts.path))

    def _memo(self, name: str, make: Any) -> str:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    def _hash_base(self) -> str:
        parts = [
            part
            for name, part in sorted(self.base.components.items())
            if isinstance(part, torch.nn.Module) and name not in NOT_GENERATING
        ]
        if self.folder is None:
            return common.fingerprint(parts)
        stats = [(str(p), p.stat()) for p in sorted(self.folder.resolve().glob("*/*.safetensors"))]
        facts = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
        key = cache.key("base weights", str(self.dtype), *facts)
        place = cache.directory("fingerprints") / f"{key[:32]}.safetensors"
        made = cache.memoize(
            place, key, lambda: {"digest": torch.tensor(list(common.fingerprint(parts).encode()), dtype=torch.uint8)}
        )
        return bytes(made["digest"].tolist()).decode()

    # -- samplers and files --------------------------------------------------------------------------------------------

    def set_sampler(self, name: str) -> None:
        """Sample with `name` from now on; `base` is the base's own sampler, begun afresh."""
        config, kind = self.base.scheduler.config, type(self.base.scheduler)
        if name != OWN_SAMPLER and len(self.capabilities.samplers) == 1:
            raise BowerbirdError(f"a {type(self.base).__name__} samples with its own sampler; leave `sampler` out")
        made = kind.from_config(config) if name == OWN_SAMPLER else schedulers.scheduler(name, config=config)
        self.base.scheduler = made

    @contextmanager
    def sampling_with(self, name: str) -> Iterator[None]:
        """A block that samples with `name`, without a progress bar; afterwards the base is as it was."""
        before, bar = self.base.scheduler, self.base.__dict__.get("_progress_bar_config")
        self.set_sampler(name)
        self.base.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            self.base.scheduler = before
            self.base.__dict__.pop("_progress_bar_config", None)
            if bar is not None:
                self.base._progress_bar_config = bar

    @classmethod
    def hub_patterns(cls, index: dict[str, Any]) -> tuple[str, ...]:
        """The files of the pipeline's components; a base's repository holds the same weights in other forms too."""
        parts = [name for name, value in index.items() if isinstance(value, list) and any(value)]
        endings = ("json", "safetensors", "txt", "model", "jinja")
        return ("model_index.json", *(f"{part}/*.{ending}" for part in parts for ending in endings))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        fit: str | None = None,
        offload: str = "none",
        **kwargs: Any,
    ) -> Self:
        """A base from a directory in diffusers layout or a hub id, with an adapter's file.

        Weights are float32 unless `dtype` says otherwise. Anybody may have made the directory: it is looked at first,
        runs no code, and nothing else is fetched. Raises: BowerbirdError when it cannot be opened, or adapter, encoder
        and base do not fit; then no weight was read.
        """
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", torch.float32)
        name = str(pretrained_model_name_or_path)
        place = bundled(name) or Path(name)
        if not place.is_dir():
            place = hub.fetch(name, kwargs, patterns=cls.hub_patterns(hub.fetch_index(name, kwargs)))
        with opening(f"base {name!r}", "fetch it again in diffusers layout; docs/your-model.md says which"):
            kind_name = model_index.read_index(place)["_class_name"]
            _fitting(bases.facts_of_folder(kind_name, place), adapter, image_encoder)
            base = _open_base(kind_name, place, dtype, kwargs)
        pipe = cls(base, adapter=adapter, image_encoder=image_encoder, fit=fit)
        pipe.folder, pipe.strange = place, not network_files.is_bundled(place)
        if pipe.strange:
            model_index.check_model(pipe, place)
        pipe.offload(offload)
        return pipe


def _copy(generator: torch.Generator) -> torch.Generator:
    """A generator that goes on as `generator` does, without moving it."""
    return torch.Generator(generator.device).set_state(generator.get_state())


def _fitting(
    base: BaseFacts, adapter: str | Path | None, image_encoder: str | Path | None
) -> tuple[AdapterFacts | None, PictureEncoder | None, type[Injector] | None]:
    """What an adapter's file is, its encoder and its injector; nothing is loaded. Raises: BowerbirdError when they do
    not fit the base or each other."""
    facts = None if adapter is None else inspect_adapter(adapter)
    kind = injector_for(base, facts)
    if facts is None:
        if image_encoder is not None:
            raise BowerbirdError("`image_encoder` is an adapter's; give the adapter too (`adapter`)")
        return None, None, kind
    return facts, find_encoder(facts.encoder, image_encoder, facts.path), kind


def _open_base(kind_name: str, place: Path, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    """The diffusers pipeline in the folder `place`, its networks checked. Raises: BowerbirdError."""
    import diffusers

    kind: type[DiffusionPipeline] = getattr(diffusers, kind_name)
    networks: dict[str, Any] = {}
    if not network_files.is_bundled(place) and "device_map" not in options:
        variant = {"variant": options["variant"]} if options.get("variant") else {}
        networks = model_index.load_networks(model_index.check(kind, place), place, set(options), dtype, variant)
    return kind.from_pretrained(
        str(place), dtype=dtype, **{"local_files_only": True, "use_safetensors": True, **options, **networks}
    )
