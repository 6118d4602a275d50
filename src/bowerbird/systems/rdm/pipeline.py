"""RDM as a diffusers pipeline: from a request and a knowledge base to pictures and the neighbors they came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bowerbird.core.types import Neighbors
from bowerbird.diffusion import conditioning, guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import low_rank, quantized, weights
from bowerbird.models.weights import bundled
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Denoising, SystemOutput
from bowerbird.systems.embedding_system import EmbeddingSystem, layout_of
from bowerbird.systems.queries import make_request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

AS_SAVED = "as-saved"
"""The sampler that is the scheduler saved with the model."""


class RDMPipeline(EmbeddingSystem):
    """Generates from the embeddings of retrieved pictures.

    `normalize_embeddings` and `embedding_length` (None: sqrt(d)) say how the network wants embeddings, see
    `conditioning.neighbor_tokens`; `token_layout` (the fields of a `TokenLayout`, None: one token a neighbor) how they
    are taken apart instead; `trained_null` is False for released weights, which guide against k zero vectors
    that no training showed them (a note for readers, nothing depends on it). `num_inference_steps`, `guidance_scale`,
    `sampler` and `text_mode` are how it generates unless asked otherwise. `proposal_counts` maps an item's id to how
    often it was a neighbor in training: p_D, kept in `proposal.safetensors`.
    """

    model_cpu_offload_seq = "unet->vae"
    sampler_state = ("scheduler", "_as_made", "_chosen")

    def __init__(
        self,
        unet: Any,
        vae: Any,
        scheduler: Any,
        k: int = 4,
        normalize_embeddings: bool = True,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
        embedding_length: float | None = None,
        trained_null: bool = True,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        sampler: str = "dpmsolver++",
        text_mode: str = "neighbors",
        token_layout: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)
        self.register_to_config(
            k=k,
            normalize_embeddings=normalize_embeddings,
            encoder_name=encoder_name,
            encoder_fingerprint=encoder_fingerprint,
            embedding_length=embedding_length,
            trained_null=trained_null,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            text_mode=text_mode,
            token_layout=token_layout,
        )
        self.layout = layout_of(token_layout)
        self._as_made = self._chosen = scheduler

    @property
    def capabilities(self) -> Capabilities:
        """Any number of neighbors, as embeddings; guidance can be kept to a part of the steps."""
        return Capabilities(
            (common.trained_size(self.unet, self.vae),),
            guidance_interval=True,
            any_size=True,
            multiple_of=common.edge_step(self.unet, self.vae),
            samplers=(*schedulers.SAMPLERS, AS_SAVED),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Image.Image | Sequence[Image.Image] | None = None,
        class_name: str | None = None,
        unconditional: bool = False,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        weights: Sequence[float] | None = None,
        text_mode: str | None = None,
        image_mode: str = "image+neighbors",
        search_mode: str | None = None,
        where: str | None = None,
        class_key: str | None = None,
        top_m: float = 1.0,
        allow_no_neighbors: bool = False,
        rerank: Rerank = "auto",
        cover: bool = False,
        proposal: dict[int, int] | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt (or for the one image set, class, or nothing).

        `neighbors=` wins over every way of retrieving; where it finds none, nothing is generated unless
        `allow_no_neighbors`. `weights` (one a neighbor) scale the references.
        `guidance_scale`: 1 = off, 0 = without neighbors. It and `num_inference_steps` are the model's usual ones (in
        its config) when None. `guidance_interval`: from and to which share of the noise (0 the clean end, 1 the start)
        guidance acts; None is everywhere, and outside a step is one pass instead of two. `generator`: one, or one a
        picture; without any, picture i is drawn from `seed + i`. `height`, `width`: in pixels when not the trained ones
        (quality falls away from them). `eta`: DDIM's share of fresh noise; other samplers refuse it. `output_type`:
        pil, pt `(n, 3, H, W)` or np `(n, H, W, 3)` in [0, 1], latent.
        Raises: BowerbirdError (MismatchError where database and model do not belong together), before anything is
        generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        if neighbors is not None:
            hits = neighbors.repeat(num_images_per_prompt)
        else:
            request = make_request(
                prompt,
                image,
                class_name=class_name,
                unconditional=unconditional,
                k=k,
                text_mode=text_mode,
                image_mode=image_mode,
                search_mode=search_mode,
                where=where,
                class_key=class_key,
                top_m=top_m,
                allow_no_neighbors=allow_no_neighbors,
                rerank=rerank,
                cover=cover,
            )
            hits = self.retrieve(request, knowledge_base, num_images_per_prompt, seed=seed, proposal=proposal)
        hits = hits if weights is None else hits.weighted(weights)
        condition = self.condition(hits)
        interval = common.timestep_interval(
            self.scheduler, guidance_interval if scale else None
        )  # weight 0 never guides
        guided = guidance.classifier_free(self.predict, condition, scale)
        predict = guidance.within_interval(guided, self.predict, condition, interval)
        generators = common.generators_for(generator, seed, len(hits))
        timesteps, options = common.schedule(self.scheduler, steps, eta, generators, self._execution_device)
        shape = (self.unet.config.in_channels, *common.latent_shape(self.unet, self.vae, height, width))
        latents = common.initial_noise(self.scheduler, shape, generators, self._execution_device)
        transition = common.step_scheduler(self.scheduler, options)
        run = Denoising(self, latents, timesteps, transition, callback_on_step_end)
        for i, t in run:
            run.advance(predict(self.scheduler.scale_model_input(run.sample, t), t, i))
        images = run.sample
        if output_type != "latent":
            images = common.as_output(self.decode_latents(run.sample), output_type)
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    @property
    def condition_dim(self) -> int:
        """Of the tokens that the U-Net attends to."""
        return int(self.unet.config.encoder_hid_dim or self.unet.config.cross_attention_dim)

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network: latents `(n, C, h, w)` -> the prediction, the same shape. The latents stay float32
        whatever it computes in: sampling adds up many small steps."""
        tokens = condition.neighbors
        assert isinstance(tokens, Tokens)
        mask = conditioning.attention_mask(tokens)
        return self.unet(
            sample.to(self.unet.dtype), timestep, encoder_hidden_states=tokens.keys, encoder_attention_mask=mask
        ).sample.float()

    def set_sampler(self, name: str) -> None:
        """Sample with `dpmsolver++`, `ddim`, `ddim-compvis`, `unipc`, or `as-saved` (the model's own scheduler) from
        now on; the training schedule stays."""
        if self.scheduler is not self._chosen:  # somebody put one in its place
            self._as_made = self.scheduler
        if name == "ddim" and self.config.sampler == "ddim-compvis":  # DDIM as its authors run it
            name = "ddim-compvis"
        own = name == AS_SAVED or (name == "ddim" and type(self._as_made).__name__ == "DDIMScheduler")
        self.scheduler = self._chosen = (
            self._as_made if own else schedulers.scheduler(name, config=self._as_made.config)
        )

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents `(n, C, h, w)` -> pictures `(n, 3, H, W)` in [-1, 1]."""
        return common.decode_latents(self.vae, latents)

    @classmethod
    def shared_components(cls, place: Path, dtype: torch.dtype, given: set[str]) -> dict[str, Any]:
        """Of a bundled model also the base network, where only what was changed is kept."""
        shared = super().shared_components(place, dtype, given)
        if place.parent == weights.FOLDER and (place / low_rank.FOLDER).is_dir() and "unet" not in given:
            from diffusers import UNet2DConditionModel

            base = quantized.load(UNet2DConditionModel, weights.FOLDER / "tiny-rdm" / "unet", torch.float32)
            factors = place / low_rank.FOLDER
            shared["unet"] = low_rank.merge(base, factors, common.fingerprint([base])).to(dtype)
        return shared

    def counts_place(self, place: Path) -> Path:
        """A bundled model that is a change of another has that one's."""
        changed = place.parent == weights.FOLDER and (place / low_rank.FOLDER).is_dir()
        return (bundled("tiny-rdm") if changed else None) or place
