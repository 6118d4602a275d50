"""Re-Imagen as a diffusers pipeline: a prompt and neighbors, as pictures with captions, through a cascade of
stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import images, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import schedulers
from bowerbird.diffusion.conditions import Conditioning, FeatureMaps, Tokens
from bowerbird.diffusion.guidance import Guidance, build_guidance, sample_text_steps, within_interval
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import neighbor_unet as _loadable  # noqa: F401 (diffusers opens only what is imported)
from bowerbird.models.text_tower import text_tokens
from bowerbird.systems import common, queries
from bowerbird.systems.base import Callback, Capabilities, Defaults, Denoising, System, SystemOutput
from bowerbird.systems.enlargement import Enlargement
from bowerbird.systems.queries import Request, make_prompt_request, with_prompts
from bowerbird.systems.reimagen.batches import back_projected, enlarge, smoothed
from bowerbird.systems.reimagen.batches import low_resolution as low_resolution_of

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

T = TypeVar("T")
STAGES = ("unet", "super_resolution", "super_resolution_2")


@dataclass
class ReImagenOutput(SystemOutput):
    """`images` and `neighbors` as in every system; `text_steps`: for each stage that ran, by its number, which sampling
    steps of each picture were text-enhanced (interleaved guidance only)."""

    text_steps: dict[int, list[list[bool]]]


class ReImagenPipeline(System):
    """Generates a prompt, grounded in the pictures and captions of its neighbors.

    The stages are `unet`, `super_resolution` and `super_resolution_2`, of growing size; the later ones may be absent.
    `num_inference_steps` (one number, or one a stage), `guidance_scale`, `guidance_interval` (two shares of the noise)
    and `text_ratio` are how it generates unless asked otherwise; `level`, `back_projection` and `smoothing` how it
    enlarges (`level` None: as `Enlargement` does by itself).
    """

    model_cpu_offload_seq = "text_encoder->unet->super_resolution->super_resolution_2"
    _optional_components = ["tokenizer", "super_resolution", "super_resolution_2"]  # noqa: RUF012 (diffusers' own form)
    generating = ("text_encoder", *STAGES)

    def __init__(
        self,
        text_encoder: Any,
        unet: Any,
        scheduler: Any,
        tokenizer: Any = None,
        super_resolution: Any = None,
        super_resolution_2: Any = None,
        k: int = 2,
        search_mode: str = "bm25",
        num_inference_steps: int | list[int] = 20,
        guidance_scale: float = 3.0,
        guidance_interval: list[float] | None = None,
        text_ratio: float | None = None,
        level: int | None = None,
        back_projection: bool = False,
        smoothing: int = 0,
    ) -> None:
        super().__init__()
        self.register_modules(
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            super_resolution=super_resolution,
            super_resolution_2=super_resolution_2,
            scheduler=scheduler,
        )
        self.register_to_config(
            k=k,
            search_mode=search_mode,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            text_ratio=text_ratio,
            level=level,
            back_projection=back_projection,
            smoothing=smoothing,
        )

    @property
    def stages(self) -> list[Any]:
        """The networks there are, the first stage first."""
        return [network for name in STAGES if (network := getattr(self, name)) is not None]

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The stages' networks."""
        return self.stages

    @property
    def sizes(self) -> list[int]:
        """Edge in pixels that each stage generates."""
        return [int(network.config.sample_size) for network in self.stages]

    @property
    def defaults(self) -> Defaults:
        """As in every system, and how it balances and enlarges where its config says."""
        config, level, ratio = self.config, self.config.level, self.config.text_ratio
        own = None if level is None else Enlargement(int(level), bool(config.back_projection), int(config.smoothing))
        return replaced(super().defaults, enlargement=own, text_ratio=None if ratio is None else float(ratio))

    @property
    def capabilities(self) -> Capabilities:
        """A text beside the neighbors' pictures and captions, in a cascade of sizes; from the text alone too."""
        return Capabilities(
            tuple(self.sizes), reads_text=True, needs_images=True, without_neighbors=True, guidance_interval=True
        )

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
        low_resolution: Sequence[Image.Image] | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        level: int | None = None,
        back_projection: bool | None = None,
        smoothing: int | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> ReImagenOutput:
        """Generate `num_images_per_prompt` pictures for each prompt.

        `neighbors=` wins over retrieval (`Neighbors.from_images` makes them of a person's own pictures); it may
        carry the prompts itself. k = 0 generates from the text alone, as does `allow_no_neighbors` where nothing is
        found. `num_inference_steps`: one for all stages, or one a stage. `guidance`: one for the first stage (those
        above it are then not guided), or one a stage; None is `Guidance.from_scale(guidance_scale)`: interleaved,
        mostly neighbors. `guidance_interval`: guide from and to these shares of the noise (0 the clean end, 1 the
        start). `level`, `back_projection`, `smoothing`: see `Enlargement`. All of these are the model's own, in its
        config, when None. `height`, `width`: the edge at which to stop, one of `sizes` (None: the last).
        `low_resolution`: one picture for each picture asked for, to begin from instead of the first stage; the stages
        above its size run. `eta`: DDIM's share of fresh noise. `output_type`: pil, pt (float in [0, 1]), np (float in
        [0, 1]).
        Raises: BowerbirdError before anything is generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        if neighbors is not None:
            hits = with_prompts(neighbors, prompt).repeat(num_images_per_prompt)
        else:
            request = make_prompt_request(
                prompt,
                k=k,
                search_mode=search_mode,
                where=where,
                allow_no_neighbors=allow_no_neighbors,
                rerank=rerank,
                cover=cover,
            )
            hits = self.retrieve(request, knowledge_base, num_images_per_prompt)
        hits = hits if weights is None else hits.weighted(weights)
        run = self._stages_to_run(common.one_edge(height, width), low_resolution, len(hits))
        own = self.defaults
        balances = self.balance(guidance, own.guidance_scale if guidance_scale is None else guidance_scale)
        settings = [balances[stage - 1] for stage in run]
        interval = common.timestep_interval(
            self.scheduler, own.guidance_interval if guidance_interval is None else guidance_interval
        )
        steps_asked = own.num_inference_steps if num_inference_steps is None else num_inference_steps
        counts = self._each(steps_asked, run, "num_inference_steps")
        if min(counts) < 1:
            raise BowerbirdError(f"num_inference_steps is 1 or more; got {min(counts)}")
        usual = own.enlargement or Enlargement()
        level = usual.level if level is None else level
        back_projection = usual.back_projection if back_projection is None else back_projection
        smoothing = usual.smoothing if smoothing is None else smoothing
        if not 0 <= smoothing <= 255:
            raise BowerbirdError(f"smoothing is a difference of colors from 0 to 255; got {smoothing}")
        if not 0 <= level < self.scheduler.config.num_train_timesteps:
            raise BowerbirdError(
                f"level is a timestep from 0 to {self.scheduler.config.num_train_timesteps - 1}; got {level}"
            )
        generators = common.generators_for(generator, seed, len(hits))
        numbers = common.picture_seeds(generator, generators)
        prompts = list(hits.queries) if hits.queries else [""] * len(hits)
        text = self._tokens(prompts)
        below = None if low_resolution is None else self._pixels(low_resolution)
        present: list[bool] = np.any(
            hits.mask if hits.weights is None else hits.mask & (hits.weights > 0), axis=1
        ).tolist()
        drawn: dict[int, list[list[bool]]] = {}
        with self.progress_bar(total=sum(counts)) as bar:
            for stage, balance, steps in zip(run, settings, counts, strict=True):
                timesteps, options = common.schedule(self.scheduler, steps, eta, generators, self._execution_device)
                condition = self.condition(hits, stage, text, below, level, generators)
                network = partial(self.predict, stage=stage)
                guided = build_guidance(network, condition, balance, numbers, present, len(timesteps), stage)
                # a weight below 1 takes a condition away, which holds in every step
                weakens = min(balance.text_scale, balance.neighbor_scale) < 1
                predict = within_interval(guided, network, condition, None if weakens else interval)
                if balance.kind == "interleaved":
                    drawn[stage] = sample_text_steps(
                        numbers, present, len(timesteps), balance.text_ratio, stage
                    ).tolist()
                edge = self.sizes[stage - 1]
                latents = common.initial_noise(self.scheduler, (3, edge, edge), generators, self._execution_device)
                transition = common.step_scheduler(self.scheduler, options)
                denoising = Denoising(self, latents, timesteps, transition, callback_on_step_end, bar)
                for i, t in denoising:
                    denoising.advance(predict(self.scheduler.scale_model_input(denoising.sample, t), t, i))
                made = denoising.sample.clamp(-1, 1)
                if back_projection and below is not None and self._predicts_clean(stage - 1):
                    made = back_projected(made, below)
                below = made
        self.maybe_free_model_hooks()
        assert below is not None
        if smoothing and run[-1] > 1:
            below = smoothed(below.float(), smoothing)
        return ReImagenOutput(images=common.as_output(below, output_type), neighbors=hits, text_steps=drawn)

    # -- conditions ----------------------------------------------------------------------------------------------------

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """The neighbors for `request`: pictures with captions of any knowledge base, whatever encoder it was made with;
        none for prompts with k = 0. Raises: BowerbirdError without a knowledge base, or for another mode."""
        request = self.resolve(request, kb)
        if request.k == 0 and request.prompts is not None:
            return Neighbors.empty(request.prompts).repeat(count)
        if kb is None:
            raise BowerbirdError(
                "the model generates from a knowledge base; pass knowledge_base=, or neighbors=, or `k=0` for the text"
                " alone"
            )
        if request.text_mode not in (None, "neighbors") or request.image_mode not in (None, "neighbors"):
            raise BowerbirdError(
                "this model reads the neighbors' pictures: text_mode and image_mode are neighbors; give"
                " pictures of your own with Neighbors.from_images"
            )
        request = replaced(request, text_mode="neighbors", image_mode="neighbors")
        return queries.retrieve(kb, request, count, seed=seed, counts=proposal or {})

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` itself: any will do, as its pictures are what counts."""
        return kb

    def condition(
        self,
        hits: Neighbors,
        stage: int = 1,
        text: Tokens | None = None,
        below: Tensor | None = None,
        level: int = Enlargement.level,
        generators: Sequence[torch.Generator] = (),
        **kwargs: Any,
    ) -> Conditioning:
        """What stage number `stage` attends to: text tokens (None: those of the queries), the neighbors' features, made
        here once, and the picture of the stage below, noised to `level`. Raises: BowerbirdError for a stage that
        enlarges, without `below`."""
        text = self._tokens(list(hits.queries) or [""] * len(hits)) if text is None else text
        network, edge = self.stages[stage - 1], self.sizes[stage - 1]
        place = (self._execution_device, network.dtype)
        weights = torch.from_numpy(hits.effective_weights).to(place[0])
        image = levels = None
        if network.config.low_size:
            if below is None:
                raise BowerbirdError(
                    f"stage {stage} enlarges a picture of the stage below, and there is none; begin at stage 1, or give"
                    " low_resolution="
                )
            low = enlarge(below.float(), edge)
            levels = torch.full((len(hits),), level, device=place[0])
            eps = seeds.noise(low.shape[1:], generators).to(place[0])
            noise_scheduler = schedulers.scheduler("ddim", config=self.scheduler.config)
            image = noise_scheduler.add_noise(low, eps, levels).to(place[1])
        features = FeatureMaps((), weights)
        if hits.k:
            pixels = self._reference_pixels(hits, edge).to(*place)
            captions = self._tokens([caption for row in hits.captions for caption in row]).to(*place)
            near = None
            if image is not None:
                near = low_resolution_of(pixels, network.config.low_size)
            features = network.encode_neighbors(pixels, captions, weights, near)
        words = text.to(*place)
        return Conditioning(features, text=words, image=image, level=levels)

    def _reference_pixels(self, hits: Neighbors, edge: int) -> Tensor:
        """The neighbors' pictures `(Q, K, 3, edge, edge)` in [-1, 1], white where there is none.

        By way of the largest stage's size, so that a picture kept at that size (`records.py`) gives the same
        pixels again.
        """
        from PIL import Image

        white, largest = Image.new("RGB", (edge, edge), "white"), max(self.sizes)
        found = hits.images()
        lost = [
            int(hits.ids[q, c])
            for q, row in enumerate(found)
            for c, picture in enumerate(row)
            if picture is None and hits.mask[q, c]
        ]
        if lost:
            raise common.no_picture(lost[0])
        rows = [
            [white if picture is None else images.square(images.square(picture, largest), edge) for picture in row]
            for row in found
        ]
        return torch.stack([tensors.to_float(tensors.stack(row)) for row in rows])

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        return text_tokens(self.text_encoder, self.tokenizer, texts)

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        return tensors.to_float(tensors.stack([p.convert("RGB") for p in pictures])).to(self._execution_device)

    # -- stages --------------------------------------------------------------------------------------------------------

    def _stages_to_run(self, size: int | None, low_resolution: Sequence[Image.Image] | None, count: int) -> list[int]:
        """Numbers, from 1, of the stages between where generating begins and the edge asked for."""
        sizes = self.sizes
        if size is not None and size not in sizes:
            raise BowerbirdError(
                f"{size} px: this model generates at {', '.join(map(str, sizes))} px, one stage after another; give one"
                " of these sizes, or none for the last"
            )
        last = len(sizes) if size is None else sizes.index(size) + 1
        if low_resolution is None:
            return list(range(1, last + 1))
        edges = {p.size for p in low_resolution}
        if len(low_resolution) != count or len(edges) != 1 or len(set(*edges)) != 1:
            raise BowerbirdError(
                f"low_resolution: expected {count} square pictures of one size, got {len(low_resolution)} of"
                f" {sorted(edges)}"
            )
        edge = low_resolution[0].width
        enlarging = [int(network.config.low_size) for network in self.stages]
        if edge not in enlarging:
            known = ", ".join(f"{low} px" for low in enlarging if low) or "nothing"
            raise BowerbirdError(f"no stage enlarges pictures of {edge} px; this model enlarges {known}")
        first = enlarging.index(edge) + 1
        if first > last:
            raise BowerbirdError(f"pictures of {edge} px are to become {size} px: no stage lies between")
        return list(range(first, last + 1))

    def balance(self, guidance: Guidance | Sequence[Guidance] | None, guidance_scale: float) -> list[Guidance]:
        """The balance in each stage there is. Raises: BowerbirdError when so many were not given."""
        if guidance is None:
            guidance, ratio = Guidance.from_scale(guidance_scale), self.defaults.text_ratio
            guidance = guidance if ratio is None else replaced(guidance, text_ratio=ratio)
        if isinstance(guidance, Guidance):
            return [guidance, *[replaced(guidance, text_scale=1.0, neighbor_scale=1.0)] * (len(self.stages) - 1)]
        return self._each(guidance, range(1, len(self.stages) + 1), "guidance")

    def _each(self, given: T | Sequence[T], run: Sequence[int], what: str) -> list[T]:
        """A setting for each stage that runs: the one for all, or the stage's own."""
        if not isinstance(given, Sequence):
            return [given] * len(run)
        if len(given) != len(self.stages):
            raise BowerbirdError(f"{what}: {len(given)} values for {len(self.stages)} stages; give one, or one a stage")
        return [given[stage - 1] for stage in run]

    def _predicts_clean(self, stage: int) -> bool:
        """Whether stage number `stage` predicts the clean picture; one that predicts velocities leaves grain, which
        nothing above it should be shifted to."""
        return stage > 0 and self.stages[stage - 1].config.prediction_type == "sample"

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning, *, stage: int = 1) -> Tensor:
        """One pass of stage number `stage`, float32; a clean picture predicted is turned into a velocity."""
        network = self.stages[stage - 1]
        assert isinstance(condition.neighbors, FeatureMaps)
        sample = sample.to(network.dtype)
        predicted: Tensor = network(
            sample, timestep, condition.text, condition.neighbors, condition.image, condition.level
        ).float()
        if network.config.prediction_type == "sample":
            return schedulers.from_clean(self.scheduler, predicted, sample.float(), timestep)
        return predicted
