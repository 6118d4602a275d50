"""KNN-Diffusion as a diffusers pipeline: a text or a picture, what it finds in a knowledge base, and pictures generated
or edited from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.diffusion import guidance, schedulers
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import quantized, weights
from bowerbird.models.unet import OWN, load_over, save_over
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Denoising, SystemOutput
from bowerbird.systems.knn import edit_source, network, retrieval
from bowerbird.systems.knn.edit_source import CHANGE_THRESHOLD, PRESERVATION
from bowerbird.systems.queries import make_request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase


class KNNDiffusionPipeline(retrieval.KNNSystem):
    """Generates from a query's embedding and those of the pictures it retrieves; edits a picture where the network was
    trained to.

    `shared_dim`: how many of an embedding's numbers texts and pictures share.
    """

    model_cpu_offload_seq = "unet->vae"

    def __init__(
        self,
        unet: Any,
        vae: Any,
        scheduler: Any,
        k: int = 4,
        shared_dim: int = 0,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)
        self.register_to_config(
            k=k, shared_dim=shared_dim, encoder_name=encoder_name, encoder_fingerprint=encoder_fingerprint
        )
        self._loaded_encoder: Encoder | None = None

    @property
    def capabilities(self) -> Capabilities:
        """A query's embedding beside its neighbors'; edits where the network was trained to."""
        return Capabilities(
            (common.trained_size(self.unet, self.vae),),
            reads_query=True,
            without_neighbors=True,
            edits=self.edits,
            starts_from_image=True,
            any_size=True,
            multiple_of=common.edge_step(self.unet, self.vae),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Image.Image | Sequence[Image.Image] | None = None,
        source: Image.Image | Sequence[Image.Image] | None = None,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        weights: Sequence[float] | None = None,
        search_mode: str | None = None,
        where: str | None = None,
        allow_no_neighbors: bool = False,
        rerank: Rerank = "auto",
        cover: bool = False,
        min_relevance: float | None = None,
        retrieval_interval: int = 0,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        preservation: float = PRESERVATION,
        strength: float = 1.0,
        show_source: bool = True,
        change_threshold: float = CHANGE_THRESHOLD,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt, or for the one image set.

        `image`: what to generate, asked for by pictures. `source`: a picture to edit, for all or one a picture
        (diffusers calls that one `image`); what the prompt says is changed in it, the rest kept; one that is no square
        keeps its shape (as PIL; `pt` and `np` are squares with its margins). `strength`: 1
        starts from noise alone, less keeps more of the source (the share of the steps that are taken).
        `preservation`: how far, from 0 to 1, what is not asked for is drawn to the source. `show_source` False:
        plain image-to-image, the source is only where sampling starts, which any network can, at a strength below
        1. `change_threshold`: where the latents differ by less, the source's own pixels stay (`edit_source.py`);
        0 takes all of the edit. `weights`: one a neighbor, or one more with the query's first. The other options
        are as in `RDMPipeline`. For research: `min_relevance`, a quantile of the database's own similarities
        below which neighbors are left out; `retrieval_interval` n steps, search again with the picture as it is
        predicted (one decoding and embedding each time).
        Raises: BowerbirdError (MismatchError where database and model do not belong together), before anything is
        generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        if neighbors is not None:
            hits = neighbors.repeat(num_images_per_prompt)
        else:
            request = make_request(
                prompt,
                image,
                k=k,
                search_mode=search_mode,
                where=where,
                allow_no_neighbors=allow_no_neighbors,
                rerank=rerank,
                cover=cover,
            )
            hits = self.retrieve(request, knowledge_base, num_images_per_prompt, seed=seed, min_relevance=min_relevance)
        hits = hits if weights is None else self.weigh(hits, weights)
        if source is not None and show_source and not self.edits:
            raise BowerbirdError(
                "this model was trained without editing; use tiny-knn, train one with system.edits, or pass"
                " show_source=False"
            )
        if source is not None and not show_source and strength >= 1:
            raise BowerbirdError(
                "image-to-image keeps nothing of the source at strength 1; give less, for example strength=0.6"
            )
        if not 0 <= preservation <= 1:
            raise BowerbirdError(f"preservation is from 0 to 1; got {preservation}")
        started = None
        if source is not None:
            edge = common.one_edge(height, width) or common.trained_size(self.unet, self.vae)
            started = edit_source.encode_source(self.vae, source, len(hits), edge, self._execution_device)
        shown = started.latents if started is not None and show_source else None
        own = (
            None
            if started is None or shown is None
            else self.condition(edit_source.own_query(self._encoder(), started.pictures, hits.k), shown)
        )

        def guided(found: Neighbors) -> guidance.Guided:
            condition = self.condition(found, shown)
            if own is None or shown is None:
                return guidance.classifier_free(self.predict, condition, guidance_scale)
            return guidance.edit_guidance(
                self.predict,
                condition,
                own,
                guidance_scale,
                preservation,
                lambda x, t: schedulers.from_clean(self.scheduler, shown, x, t),
            )

        predict = guided(hits)
        generators = common.generators_for(generator, seed, len(hits))
        timesteps, options = common.schedule(
            self.scheduler, num_inference_steps, eta, generators, self._execution_device
        )
        shape = (self.vae.config.latent_channels, *common.latent_shape(self.unet, self.vae, height, width))
        latents = common.initial_noise(self.scheduler, shape, generators, self._execution_device)
        if started is not None:
            timesteps, latents = common.partway(self.scheduler, timesteps, latents, started.latents, strength)
        transition = common.step_scheduler(self.scheduler, options)
        run = Denoising(self, latents, timesteps, transition, callback_on_step_end)
        for i, t in run:
            predicted = predict(self.scheduler.scale_model_input(run.sample, t), t, i)
            if retrieval.is_due(retrieval_interval, i, len(timesteps)):
                clean = schedulers.to_clean(self.scheduler, predicted, run.sample, t)
                pictures = tensors.to_pil(self.decode_latents(clean))
                hits = retrieval.search_again(
                    self.config, knowledge_base, hits, pictures, where=where, min_relevance=min_relevance
                )
                predict = guided(hits)
            run.advance(predicted)
        images = run.sample
        if output_type != "latent":
            images = self.decode_latents(run.sample)
            if started is not None:
                images = edit_source.paste_unchanged(images, started, run.sample, change_threshold)
            images = common.as_output(images, output_type)
            if started is not None:
                images = edit_source.without_frame(images, started)
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    @property
    def edits(self) -> bool:
        """Whether the network reads a picture to edit."""
        return int(self.unet.config.in_channels) > int(self.vae.config.latent_channels)

    def condition(self, hits: Neighbors, image: Tensor | None = None, *args: Any, **kwargs: Any) -> Conditioning:
        """Queries and neighbors -> tokens on the network's device, with the latents of a picture to edit."""
        width = int(self.unet.config.encoder_hid_dim)
        tokens = retrieval.condition(self.config, width, hits, self._execution_device, self.unet.dtype)
        return tokens if image is None else replace(tokens, image=image)

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network: latents `(n, C, h, w)` -> the prediction, the same shape. The latents stay float32
        whatever it computes in: sampling adds up many small steps."""
        return network.apply(self.unet, self.scheduler, sample.to(self.unet.dtype), timestep, condition).float()

    def _encoder(self) -> Encoder:
        """The encoder that the model was trained with. Raises: MismatchError when the one of that name is another."""
        if self._loaded_encoder is None:
            from bowerbird import encoders

            found = encoders.load_recorded(self.config.encoder_name, self.config.encoder_fingerprint)
            if self.config.encoder_fingerprint and found.fingerprint != self.config.encoder_fingerprint:
                raise MismatchError(
                    f"encoder {self.config.encoder_name!r} ({found.fingerprint}) is not the one of training"
                    f" ({self.config.encoder_fingerprint})"
                )
            self._loaded_encoder = found
        return self._loaded_encoder

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents `(n, C, h, w)` -> pictures `(n, 3, H, W)` in [-1, 1]."""
        return common.decode_latents(self.vae, latents)

    def save_over(self, directory: Path) -> None:
        """Write the pipeline for bundling: the autoencoder is the bundled one, and of the network only what `tiny-rdm`
        has not is kept. Raises: MismatchError for a model with another autoencoder."""
        base, shared = _bundled_base()
        known = common.fingerprint([base, shared])
        if common.fingerprint([shared]) != common.fingerprint([self.vae]):
            raise MismatchError(
                "this model was trained with another autoencoder than the bundled one, which it would be opened with"
            )
        self.save_config(directory)
        self.scheduler.save_pretrained(directory / "scheduler")
        save_over(self.unet, base, directory / "unet", known)

    @classmethod
    def shared_components(cls, place: Path, dtype: torch.dtype, given: set[str]) -> dict[str, Any]:
        """The bundled autoencoder and the base network, where only what differs from it is kept (`save_over`)."""
        if not (place / "unet" / OWN).is_file():
            return {}
        base, shared = _bundled_base()
        unet = load_over(place / "unet", base, dtype, common.fingerprint([base, shared]))
        return {"unet": unet, "vae": shared if dtype == torch.float32 else shared.to(dtype)}


def _bundled_base() -> tuple[Any, Any]:
    """The network that `tiny-knn` was trained from, rounded to half precision as what is kept over it, and the
    autoencoder both generate through."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = quantized.load(UNet2DConditionModel, weights.FOLDER / "tiny-rdm" / "unet", torch.float16).float()
    return unet, AutoencoderKL.from_pretrained(weights.FOLDER / "tiny-autoencoder", dtype=torch.float32)
