"""`ReferencePipeline`: a diffusers pipeline of somebody else's, given references from a knowledge base."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from bowerbird.models.weights import ADAPTERS, bundled
from bowerbird.systems import common, hub, model_index, queries
from bowerbird.systems.base import Callback, Capabilities, Defaults, SystemOutput
from bowerbird.systems.grounded import bases, passes
from bowerbird.systems.grounded.injectors.protocol import Injector
from bowerbird.systems.grounded.lora import AppliedLora, apply_loras, inspect_all, lora_facts
from bowerbird.systems.grounded.parts import find_parts
from bowerbird.systems.grounded.prompting import choice_for, make_plan, neighbors_of, stack_rows
from bowerbird.systems.grounded.reader import PAD, ReferenceReader
from bowerbird.systems.grounded.recorded_base import check_recorded_base, other_base
from bowerbird.systems.grounded.references import Reference
from bowerbird.systems.grounded.structure import why_not
from bowerbird.systems.grounded.wrapped import OWN_SAMPLER, WrappedPipeline, open_base
from bowerbird.systems.phrases.parse import RULES, load_parser, parse_prompt
from bowerbird.systems.phrases.phrase import ParsedPrompt
from bowerbird.systems.queries import Request, make_prompt_request, with_prompts
from bowerbird.systems.reference_settings import FITS, SCALE, LoraFile, ReferenceSettings

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.choice import ChoiceSettings, ChosenReference
    from bowerbird.systems.grounded.prompting import Plan

PIXELS = {"cpu": 2**18, "cuda": 2**20}
"""Pixels in one pass of a base: one picture of 512 on a CPU, one of 1024 on an accelerator, more of smaller ones."""
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
        self.facts, encoder, kind = find_parts(bases.facts_of(base), adapter, image_encoder)
        self.loras: tuple[AppliedLora, ...] = ()
        self._before_loras = ""
        self.injector: Injector | None = None
        self.reader: ReferenceReader | None = None
        self._adapter_hash = ""
        if kind is None:
            return
        if self.facts is not None:
            _warn_of_other_base(self.facts.path, base, None)
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
            multiple_of=bases.edge_limits(self.base, common.MOST_EDGE)[0],
            samplers=self.samplers,
            max_references=0 if can is None else can.max_references,
        )

    @property
    def defaults(self) -> Defaults:
        """The base's own steps and guidance; one reference, at its adapter's usual scale."""
        usual, k = self._usual_call(), int(self.injector is not None)
        return Defaults(k, usual.steps, usual.guidance_scale, OWN_SAMPLER, scale=self._usual_scale)

    @property
    def _usual_scale(self) -> float:
        return SCALE if self.facts is None else self.facts.usual_scale

    def _usual_call(self) -> bases.UsualCall:
        usual = bases.usual_call(self.base)
        return usual if self.folder is None else bases.written_call(self.folder, usual)

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
        scale: float | None = None,
        layers: str = "all",
        steps_from: float = 0.0,
        steps_to: float = 1.0,
        pool: int = 1,
        negative_prompt: str = "",
        phrases: str | None = None,
        structure: str | None = None,
        spans: Sequence[tuple[int, int]] | None = None,
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
        among the references; 0 leaves one out. `phrases`: a parser of `phrases.parse.NAMES`, by which each phrase of a
        prompt has references of its own, at most k in all; for a critic see `refinement.refine_job`. `scale`, `layers`,
        `steps_from`, `steps_to`, `pool`, `structure`, `spans`: see `ReferenceSettings`; without `spans` or `phrases`,
        `structure` reads the phrases that rules find. Scale, steps, guidance and size are the adapter's and the base's
        own where nothing is said; `call` goes to the base's own call as it is.

        Raises: BowerbirdError before anything is generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        settings = ReferenceSettings(
            scale=self._usual_scale if scale is None else scale,
            layers=layers,
            steps_from=steps_from,
            steps_to=steps_to,
            pool=pool,
            negative_prompt=negative_prompt,
            structure=structure,
            spans=tuple((start, end) for start, end in spans or ()),
        )
        parsed: dict[str, ParsedPrompt] = {}
        if phrases is not None:
            if k == 0 or rerank != "auto" or cover:
                raise BowerbirdError("`phrases` finds references in its own way; leave `k=0`, `rerank` and `cover` out")
            most = self.capabilities.max_references
            choice = choice_for(k, most, where=where, search_mode=search_mode)
            hits, parsed = self._by_phrase(prompt, neighbors, knowledge_base, phrases, choice)
        elif neighbors is not None:
            hits = with_prompts(neighbors, prompt)
        else:
            alone = knowledge_base is None and k is None and self.capabilities.without_neighbors
            request = make_prompt_request(
                prompt,
                k=0 if alone else k,
                search_mode=search_mode,
                where=where,
                allow_no_neighbors=allow_no_neighbors,
                rerank=rerank,
                cover=cover,
            )
            hits = self.retrieve(request, knowledge_base)
        if structure is not None and spans is None and phrases is None:
            parsed = {text: parse_prompt(text, parser=load_parser(RULES)) for text in hits.queries}
        hits = hits.repeat(num_images_per_prompt)
        hits = hits if weights is None else hits.weighted(weights)
        usual = self._usual_call()
        steps = usual.steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise BowerbirdError(f"num_inference_steps is 1 or more; got {steps}")
        if structure is not None and (reason := why_not(self.base)) is not None:
            raise BowerbirdError(reason)
        rows = self._references(hits)
        for row in rows:
            if self.injector is not None:
                self.injector.check(row, settings)
        options = passes.call_options(
            self.base,
            self.injector,
            settings,
            guidance_scale=usual.guidance_scale if guidance_scale is None else guidance_scale,
            eta=eta,
            height=height,
            width=width,
            output_type=output_type,
            given=call,
        )
        calls = passes.Calls(
            base=self.base,
            injector=self.injector,
            settings=settings,
            options={**options, "num_inference_steps": steps},
            blank=lambda: self._reader().blank(),
            callback=callback_on_step_end,
            parsed=parsed,
        )
        generators = common.generators_for(generator, seed, len(hits))
        made = passes.generate_rows(calls, list(hits.queries) or [""] * len(hits), rows, generators)
        self.base.maybe_free_model_hooks()
        if output_type == "np":
            return SystemOutput(images=np.stack(made), neighbors=hits)
        return SystemOutput(images=made if output_type == "pil" else torch.stack(made), neighbors=hits)

    # -- references ----------------------------------------------------------------------------------------------------

    def _by_phrase(
        self,
        prompt: str | Sequence[str] | None,
        neighbors: Neighbors | None,
        kb: KnowledgeBase | None,
        parser: str,
        choice: ChoiceSettings,
    ) -> tuple[Neighbors, dict[str, ParsedPrompt]]:
        """The references that are found for each prompt's phrases, a row a prompt, and its phrases."""
        if prompt is None or kb is None or neighbors is not None:
            raise BowerbirdError(
                "`phrases` finds references for a prompt's phrases: give a prompt and knowledge_base=, no neighbors="
            )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        plans = [make_plan(text, kb, parser=parser, choice=choice) for text in prompts]
        rows = [self.ground(kb, plan, plan.choice.references) for plan in plans]
        return replace(stack_rows(rows), load_images=kb.pictures), {plan.prompt.text: plan.prompt for plan in plans}

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
            own = None if self.strange or self.folder is None else ADAPTERS.get(self.folder.name)
            which = "`adapter`" if own is None else f"`adapter={own}`"
            raise BowerbirdError(
                f"{with_article(type(self.base).__name__)} reads no pictures by itself: give an adapter for it"
                f" ({which}), or `k=0` for the prompt alone"
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
        asked = ReferenceSettings(scale=self._usual_scale) if settings is None else settings
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
            facts, *_ = find_parts(bases.facts_of_folder(kind, place), adapter, image_encoder)
            base = open_base(place, dtype, kwargs)
        if facts is not None and dtype != torch.float32:  # else the constructor says it
            _warn_of_other_base(facts.path, base, place)
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

    def offload(self, how: str) -> None:
        """See `WrappedPipeline.offload`; the adapter's encoder is moved too."""
        super().offload(how)
        if how != "none" and self.reader is not None and self.reader.encoder is not None:
            self.reader.encoder.stays_loaded = False


def _warn_of_other_base(adapter: Path, base: Any, folder: Path | None) -> None:
    """An adapter serves the fine-tunes of its base too, and other bases of its shapes badly."""
    if (said := other_base(adapter, base, folder)) is not None:
        logging.getLogger("bowerbird").warning("%s; where that is no fine-tune of it, references come out badly", said)
