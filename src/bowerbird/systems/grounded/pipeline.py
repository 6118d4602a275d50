"""`ReferencePipeline`: a diffusers pipeline of somebody else's, given references from a knowledge base."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bowerbird.core import cache
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.text import with_article
from bowerbird.core.types import Neighbors
from bowerbird.core.weight_files import file_fingerprint
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import network_files
from bowerbird.models.weights import bundled
from bowerbird.systems import common, hub, model_index, queries
from bowerbird.systems.base import Callback, Capabilities, Defaults, SystemOutput
from bowerbird.systems.grounded import bases
from bowerbird.systems.grounded.bases import BaseFacts
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, Task
from bowerbird.systems.grounded.injectors.registry import injector_for, inspect_adapter
from bowerbird.systems.grounded.lora import AppliedLora, apply_loras, inspect_all, lora_facts
from bowerbird.systems.grounded.picture_encoder import PictureEncoder, find_encoder
from bowerbird.systems.grounded.prompting import neighbors_of
from bowerbird.systems.grounded.reader import PAD, ReferenceReader
from bowerbird.systems.grounded.recorded_base import check_recorded_base
from bowerbird.systems.grounded.references import Reference
from bowerbird.systems.grounded.structure import structured, why_not
from bowerbird.systems.grounded.wrapped import OWN_SAMPLER, WrappedPipeline, open_base
from bowerbird.systems.phrases.phrase import read_spans
from bowerbird.systems.queries import Request
from bowerbird.systems.reference_settings import FITS, SCALE, LoraFile, ReferenceSettings

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.choice import ChosenReference
    from bowerbird.systems.grounded.adapter_file import AdapterFacts
    from bowerbird.systems.grounded.prompting import Plan

PIXELS = {"cpu": 2**18, "cuda": 2**20}
"""Pixels in one pass of a base: one picture of 512 on a CPU, one of 1024 on an accelerator, more of smaller ones."""
RETRAIN_ADAPTER = "bowerbird train tiny-ip-adapter --base …"
MOST_AT_ONCE = {"cpu": 4, "cuda": 32}


class ReferencePipeline(WrappedPipeline):
    """Generates with `base`, any pipeline of `bases.BASES`, from a prompt and references.

    An `adapter` (the file of an IP-Adapter or of FLUX Redux) takes references into a base that reads text alone;
    in-context editors read pictures themselves. `image_encoder`: the folder of the adapter's encoder; None looks beside
    the adapter's file. Where a knowledge base was built with that encoder, its stored embeddings are read and no
    picture is. `fit`: how pictures that are no squares are encoded, `pad`, `squash` or `crop`; None is `pad`, or as the
    stored embeddings were made. The base is changed during a call alone; `loras`: the reports of those that
    `from_pretrained` opened it with.

    Raises: BowerbirdError when adapter, encoder and base do not fit, before anything is loaded.
    """

    def __init__(
        self,
        base: Any,
        *,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        fit: str | None = None,
    ) -> None:
        super().__init__(base)
        if fit is not None and fit not in FITS:
            raise BowerbirdError(f"`fit` {fit!r} is not known; choose one of {', '.join(FITS)}")
        self.facts, encoder, kind = _fitting(bases.facts_of(base), adapter, image_encoder)
        self.loras: tuple[AppliedLora, ...] = ()
        self._before_loras = ""
        self.injector: Injector | None = None
        self.reader: ReferenceReader | None = None
        self._adapter_hash = ""
        if kind is None:
            return
        if adapter is not None:
            check_recorded_base(Path(adapter), base, None, RETRAIN_ADAPTER)
        with opening(type(base).__name__ if adapter is None else f"adapter {str(adapter)!r}", "fetch it again"):
            self.injector = kind(base, self.facts)
            self._adapter_hash = "" if self.facts is None else file_fingerprint(self.facts.path)
        self.reader = ReferenceReader(self.injector, encoder, fit, lambda: (self.device, self.dtype))

    # -- the contract --------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """A prompt, and references as the injector takes them."""
        can = None if self.injector is None else self.injector.capabilities
        return Capabilities(
            (bases.trained_edge(self.base),),
            needs_images=can is not None and can.takes != "embeds",
            without_neighbors=can is None or not can.needs_reference,
            takes_references=True,
            any_size=True,
            samplers=self.samplers,
            max_references=0 if can is None else can.max_references,
        )

    @property
    def defaults(self) -> Defaults:
        """The base's own steps and guidance; one reference."""
        usual = bases.usual_call(self.base)
        return Defaults(int(self.injector is not None), usual.steps, usual.guidance_scale, OWN_SAMPLER)

    def batch_size(self, height: int | None = None, width: int | None = None) -> int:
        """As many pictures as fit `PIXELS`; one where the base mixes pictures of different references up."""
        if self.injector is not None and not self.injector.capabilities.mixed_batches:
            return 1
        edge, kind = self.capabilities.sizes[-1], "cpu" if self.device.type == "cpu" else "cuda"
        return max(1, min(MOST_AT_ONCE[kind], PIXELS[kind] // ((height or edge) * (width or edge))))

    def resolve(self, request: Request, kb: KnowledgeBase | None = None) -> Request:
        """`request` with this base's number of references. Raises: BowerbirdError for a knowledge base that it could
        not read."""
        if kb is not None and request.k is None:
            self._reader()
        return super().resolve(request, kb)

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
        reader = self._reader()
        if kb is None:
            raise BowerbirdError("give knowledge_base=, or neighbors=, or `k=0` for the prompt alone")
        if request.unconditional or request.text_mode not in (None, "neighbors"):
            raise BowerbirdError(
                "a base reads a prompt, and pictures as references: give a prompt, an image or a class; text_mode is"
                " neighbors"
            )
        if request.image_mode not in (None, "neighbors"):
            raise BowerbirdError("image_mode is neighbors here; a picture of your own goes in as `reference`")
        most = reader.injector.capabilities.max_references
        if most is not None and (request.k or 0) > most:
            raise BowerbirdError(
                f"{with_article(type(self.base).__name__)} takes at most {most} reference{'s' * (most > 1)}; got"
                f" `k={request.k}`"
            )
        reader.check(kb)
        return reader.read(self._look_up(request, kb, count, seed), kb)

    def _look_up(self, request: Request, kb: KnowledgeBase, count: int, seed: int) -> Neighbors:
        request = replace(request, text_mode="neighbors", image_mode="neighbors")
        return queries.retrieve(kb, request, count, seed=seed, counts={})

    def find(self, request: Request, kb: KnowledgeBase, *, seed: int = 0) -> Neighbors:
        """The references for `request`, to be shown: no picture is encoded."""
        self._reader().check(kb)
        return self._look_up(self.resolve(request, kb), kb, 1, seed)

    def read_neighbors(self, hits: Neighbors, kb: KnowledgeBase) -> Neighbors:
        """Items of `kb` with what the adapter reads of each. Raises: MismatchError where it can read none of them."""
        reader = self._reader()
        reader.check(kb)
        return reader.read(hits, kb)

    def ground(self, kb: KnowledgeBase, plan: Plan, references: Sequence[ChosenReference]) -> Neighbors:
        """References that were chosen for the phrases of a prompt, one row, with what the adapter reads of each, and
        its region where the adapter knows regions. Raises: BowerbirdError where the base takes none."""
        if not references:
            return Neighbors.empty([plan.prompt.text])
        reader = self._reader()
        reader.check(kb)
        return reader.read(neighbors_of(kb, plan, references, with_regions=reader.injector.capabilities.regions), kb)

    def own_references(self, prompt: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Neighbors:
        """A person's own pictures as references. Raises: BowerbirdError for a base that takes none, or fewer."""
        hits = Neighbors.from_images([prompt], pictures, captions or [""] * len(pictures))
        return self._reader().read(hits) if pictures else hits

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
        rerank: Rerank = "auto",
        cover: bool = False,
        scale: float = SCALE,
        layers: str = "all",
        steps_from: float = 0.0,
        steps_to: float = 1.0,
        pool: int = 1,
        negative_prompt: str = "",
        structure: str | None = None,
        spans: Sequence[tuple[int, int]] = (),
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
        among the references; 0 leaves one out. `scale`, `layers`, `steps_from`, `steps_to`, `pool`, `structure`,
        `spans`: see `ReferenceSettings`. Steps, guidance and size are the base's own where nothing is said; `call` goes
        to the base's own call as it is. Raises: BowerbirdError before anything is generated.
        """
        common.check_output_type(output_type)
        settings = ReferenceSettings(
            scale=scale,
            layers=layers,
            steps_from=steps_from,
            steps_to=steps_to,
            pool=pool,
            negative_prompt=negative_prompt,
            structure=structure,
            spans=tuple((start, end) for start, end in spans),
        )
        if num_images_per_prompt < 1:
            raise BowerbirdError(f"num_images_per_prompt is 1 or more; got {num_images_per_prompt}")
        how = {
            "k": k,
            "search_mode": search_mode,
            "where": where,
            "allow_no_neighbors": allow_no_neighbors,
            "rerank": rerank,
            "cover": cover,
        }
        hits = self._neighbors(prompt, neighbors, knowledge_base, how).repeat(num_images_per_prompt)
        hits = hits if weights is None else hits.weighted(weights)
        steps = self.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise BowerbirdError(f"num_inference_steps is 1 or more; got {steps}")
        if structure is not None and (reason := why_not(self.base)) is not None:
            raise BowerbirdError(reason)
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
            injected = self.injector.inject(Task(prompts, rows, settings, *size, blank=self._reader().blank()))
        with injected as injection, self._structured(prompts, settings):

            def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                if injection.switch is not None:
                    injection.switch(settings.is_active(step + 1, steps))
                return tensors if callback is None else callback(pipe, step, timestep, tensors)

            if injection.switch is not None:
                injection.switch(settings.is_active(0, steps))
            one = generators if len(generators) > 1 else generators[0]
            arguments = {"prompt": prompts, **options, **injection.call, "generator": one}
            return self.base(callback_on_step_end=on_step, **arguments).images

    def _structured(self, prompts: Sequence[str], settings: ReferenceSettings) -> AbstractContextManager[None]:
        """A block in which the base reads the prompts by their phrases, where that is asked for."""
        if settings.structure is None:
            return nullcontext()
        read = [read_spans(prompt, settings.spans) for prompt in dict.fromkeys(prompts)]
        return structured(self.base, read, form=settings.structure)

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
        step, most = bases.edge_limits(self.base, common.MOST_EDGE)
        for name, edge in (("height", height), ("width", width)):
            if edge is not None and (not step <= edge <= most or edge % step):
                raise BowerbirdError(
                    f"{name} is a multiple of {step} pixels for this base (made for {self.capabilities.sizes[-1]}), up"
                    f" to {most}; got {edge}"
                )
        usual, known = bases.usual_call(self.base), inspect.signature(self.base.__call__).parameters
        scale = usual.guidance_scale if guidance_scale is None else guidance_scale
        if self.injector is not None and self.injector.capabilities.takes == "pictures":
            edge = self.capabilities.sizes[-1]  # else the size is that of a reference
            height, width = height or edge, width or edge
        options: dict[str, Any] = {"output_type": output_type, "height": height, "width": width}
        options[usual.guidance_name] = scale
        if eta:
            options["eta"] = eta
        asked = [*options, *(["negative_prompt"] if settings.negative_prompt else [])]
        missing = [name for name in asked if name not in known]
        if missing:
            raise BowerbirdError(f"{with_article(type(self.base).__name__)} takes no {missing[0]}; leave it out")
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
        if not hits.mask.any():
            return [[] for _ in range(len(hits))]
        return self._reader().references(hits)

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` itself. Raises: MismatchError where neither its embeddings serve nor its pictures can be encoded."""
        if self.reader is not None:
            self.reader.check(kb)
        return kb

    def reference_picture(self, picture: Image.Image) -> Image.Image:
        """A neighbor's picture as the base reads it, which is what a record keeps."""
        return self._reader().picture(picture)

    def _reader(self) -> ReferenceReader:
        if self.reader is None:
            raise BowerbirdError(
                f"{with_article(type(self.base).__name__)} reads no pictures by itself: give an adapter for it"
                " (`adapter`), or `k=0` for the prompt alone"
            )
        return self.reader

    # -- what a record says --------------------------------------------------------------------------------------------

    def base_fingerprint(self) -> str:
        """A hash of the base's weights before any LoRA, and of the LoRAs' files and scales."""
        if not self.loras:
            return super().base_fingerprint()
        own = [f"{each.hash} {each.scale!r}" for each in self.loras]
        return cache.key("base with LoRAs", self._before_loras, str(self.dtype), *own)[:16]

    def fingerprint(self) -> str:
        """A hash of the base's weights and of the adapter's and encoder's files."""
        base = self.base_fingerprint()
        if self.facts is None or self.reader is None:
            return base
        return cache.key(base, self._adapter_hash, self.reader.encoder_id)[:16]

    def record_facts(self, settings: ReferenceSettings | None, kb: KnowledgeBase | None) -> dict[str, Any]:
        """What a record says of the base, the adapter, and how references went in."""
        asked = ReferenceSettings() if settings is None else settings
        found: dict[str, Any] = {
            "base": {"pipeline": type(self.base).__name__, "fingerprint": self.base_fingerprint()},
            "injector": None if self.injector is None else self.injector.kind,
            **asdict(asked),
            "spans": [list(span) for span in asked.spans],
        }
        if self.facts is not None and self.reader is not None:
            reader, need = self.reader, self.facts.encoder
            found["adapter"] = {"name": self.facts.path.name, "hash": self._adapter_hash, "kind": self.facts.kind}
            name = need.title if reader.encoder is None else reader.encoder.name
            found["encoder"] = {"name": name, "fingerprint": reader.encoder_id}
            found["fit"] = "crop" if kb is not None and reader.reads_stored(kb) else reader.fit or PAD
        found |= lora_facts(self.loras)
        return {"references": found | ({} if self.injector is None else self.injector.describe())}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        fit: str | None = None,
        offload: str = "none",
        loras: Sequence[LoraFile] = (),
        **kwargs: Any,
    ) -> Self:
        """A base from a directory in diffusers layout or a hub id, with an adapter's file, changed by the files of
        `loras` in that order; what those changed is in `pipe.loras`.

        Weights are float32 unless `dtype` says otherwise. Anybody may have made the directory: it is looked at first,
        runs no code, and nothing else is fetched. Raises: BowerbirdError when it cannot be opened, or adapter, encoder
        and base do not fit; then no weight was read.
        """
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", torch.float32)
        changes = inspect_all(loras)
        name = str(pretrained_model_name_or_path)
        place = bundled(name) or Path(name)
        if not place.is_dir():
            place = hub.fetch(name, kwargs, patterns=cls.hub_patterns(hub.fetch_index(name, kwargs)))
        with opening(f"base {name!r}", "fetch it again in diffusers layout; docs/your-model.md says which"):
            kind = model_index.read_index(place)["_class_name"]
            _fitting(bases.facts_of_folder(kind, place), adapter, image_encoder)
            base = open_base(place, dtype, kwargs)
        if adapter is not None and dtype != torch.float32:  # else the constructor says it
            check_recorded_base(Path(adapter), base, place, RETRAIN_ADAPTER)
        for lora in loras:
            check_recorded_base(Path(lora.path), base, place, f"bowerbird train dreambooth --base {name} …")
        pipe = cls(base, adapter=adapter, image_encoder=image_encoder, fit=fit)
        pipe.folder, pipe.strange = place, not network_files.is_bundled(place)
        if pipe.strange:
            model_index.check_model(pipe, place)
        if loras:
            pipe._before_loras = pipe.base_fingerprint()
            pipe.loras = apply_loras(pipe.base, loras, changes)
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
