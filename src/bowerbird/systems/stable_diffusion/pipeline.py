"""Stable Diffusion as one of our systems: it generates from the text alone. Its directory is diffusers' own, and opens
there too, as the class of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.guidance import Guidance
from bowerbird.models.clip_text import token_ids
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Defaults, Denoising, System, SystemOutput
from bowerbird.systems.queries import Request

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase


class StableDiffusionPipeline(System):
    """Generates from a prompt. It looks nothing up and reads no neighbors: it is what others are compared with."""

    model_cpu_offload_seq = "text_encoder->unet->vae"
    generating = ("unet", "vae", "text_encoder")
    _optional_components: ClassVar[list[str]] = ["safety_checker", "feature_extractor", "image_encoder"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)

    @property
    def capabilities(self) -> Capabilities:
        """A text and no neighbors."""
        return Capabilities(
            (common.trained_size(self.unet, self.vae),),
            reads_text=True,
            needs_images=True,
            without_neighbors=True,
            any_size=True,
            max_references=0,
        )

    @property
    def defaults(self) -> Defaults:
        """Diffusers' layout says none of this."""
        return Defaults(k=0, num_inference_steps=20, guidance_scale=3.0, sampler=schedulers.SAMPLERS[0])

    def balance(self, guidance: Guidance | Sequence[Guidance] | None, guidance_scale: float) -> list[Guidance]:
        """There is only a text: `guidance_scale` is its weight, unless a balance of one's own says another."""
        given = guidance if guidance is None or isinstance(guidance, Guidance) else guidance[0]
        own = given is not None and given != Guidance.from_scale(guidance_scale)
        scale = given.text_scale if given is not None and own else guidance_scale
        return [Guidance("joint", scale, scale, 1.0)]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        neighbors: Neighbors | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        guidance: Guidance | Sequence[Guidance] | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt; the options are as in `RDMPipeline`.

        `neighbors`: rows of none, whose queries are the prompts. Raises: BowerbirdError for neighbors, and for
        settings that the model does not have.
        """
        common.check_output_type(output_type)
        if neighbors is None and prompt is None:
            raise BowerbirdError("say what to generate: prompt=")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        hits = (Neighbors.empty(prompts) if neighbors is None else neighbors).repeat(num_images_per_prompt)
        condition = self.condition(hits)
        predict = self._guided(condition, self.balance(guidance, guidance_scale)[0].text_scale)
        generators = common.generators_for(generator, seed, len(hits))
        timesteps, options = common.schedule(
            self.scheduler, num_inference_steps, eta, generators, self._execution_device
        )
        shape = (self.unet.config.in_channels, *common.latent_shape(self.unet, self.vae, height, width))
        latents = seeds.noise(shape, generators).to(self._execution_device) * self.scheduler.init_noise_sigma
        transition = common.step_scheduler(self.scheduler, options)
        run = Denoising(self, latents, timesteps, transition, callback_on_step_end)
        for i, t in run:
            run.advance(predict(self.scheduler.scale_model_input(run.sample, t), t, i))
        images = run.sample
        if output_type != "latent":
            images = common.as_output(common.decode_latents(self.vae, run.sample), output_type)
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    def retrieve(
        self,
        request: Request,
        kb: KnowledgeBase | None,
        count: int = 1,
        *,
        seed: int = 0,
        proposal: dict[int, int] | None = None,
    ) -> Neighbors:
        """A row without neighbors for each prompt. Raises: BowerbirdError for a knowledge base, and for a request that
        is no text."""
        if kb is not None:
            raise BowerbirdError("a StableDiffusionPipeline looks nothing up; leave `kb` out, and give `k=0`")
        if request.prompts is None:
            raise BowerbirdError("a StableDiffusionPipeline generates from a text alone; give a prompt")
        return Neighbors.empty([prompt for prompt in request.prompts for _ in range(count)])

    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> Conditioning:
        """The prompts' tokens, and those of no words as their null. Raises: BowerbirdError for neighbors."""
        if hits.k:
            raise BowerbirdError("a StableDiffusionPipeline reads no neighbors; leave `reference` out, and give `k=0`")
        text = self._tokens(list(hits.queries))
        return Conditioning(
            Tokens(text.keys[:, :0], text.weights[:, :0]),
            text=text,
            text_null=self._tokens([""] * len(hits)),
        )

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network. The latents stay float32 whatever it computes in."""
        assert condition.text is not None
        keys = condition.text.keys
        return self.unet(sample.to(self.unet.dtype), timestep, encoder_hidden_states=keys).sample.float()

    def _guided(self, condition: Conditioning, scale: float) -> guidance.Guided:
        return guidance.classifier_free(self.predict, condition, scale, "text")

    def _tokens(self, texts: list[str]) -> Tokens:
        ids = token_ids(self.tokenizer, texts).to(self._execution_device)
        keys = self.text_encoder(ids).last_hidden_state
        return Tokens(keys.to(self.unet.dtype), torch.ones(keys.shape[:2], device=keys.device))
