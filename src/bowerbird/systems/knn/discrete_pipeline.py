"""The discrete KNN-Diffusion as a diffusers pipeline: from masks alone to tokens, in as many steps as asked for, and
to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bowerbird.core import tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import discrete, guidance
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.discrete import MaskAndReplace
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import token_transformer as _loadable  # noqa: F401 (diffusers opens what is imported)
from bowerbird.models.vq import to_pictures
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Denoising, SystemOutput
from bowerbird.systems.knn import retrieval
from bowerbird.systems.queries import make_request

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

SAMPLER = "posterior"


class KNNDiscretePipeline(retrieval.KNNSystem):
    """Generates in tokens from a query's embedding and those of the pictures it retrieves."""

    model_cpu_offload_seq = "transformer->vae"
    generating = ("transformer", "vae")
    sampler_state = ()

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        k: int = 4,
        shared_dim: int = 0,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae)
        self.register_to_config(
            k=k, shared_dim=shared_dim, encoder_name=encoder_name, encoder_fingerprint=encoder_fingerprint
        )

    @property
    def capabilities(self) -> Capabilities:
        """A query's embedding beside its neighbors'; tokens are drawn from their exact posterior."""
        edge = self.transformer.config.sample_size * common.vae_scale_factor(self.vae)
        return Capabilities((int(edge),), reads_query=True, without_neighbors=True, samplers=(SAMPLER,))

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The transformer."""
        return [self.transformer]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Image.Image | Sequence[Image.Image] | None = None,
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
        truncation: float = 0.9,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt, or for the one image set.

        At most as many steps as the model has times. `truncation`: at each step only the likeliest symbols that
        together have so much probability. `output_type` latent gives the tokens `(B, N)`, and so does the callback's
        `latents`. The other options are as in `KNNDiffusionPipeline`.
        Raises: BowerbirdError (MismatchError where database and model do not belong together), before anything is
        generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        config = self.transformer.config
        trained, size = self.capabilities.sizes[0], common.one_edge(height, width)
        if size not in (None, trained) or eta or num_inference_steps < 1 or not 0 < truncation <= 1:
            raise BowerbirdError(
                f"this model generates tokens: size {trained} (got {size}), no eta (got {eta}), num_inference_steps of"
                f" 1 or more (got {num_inference_steps}), truncation above 0 and at most 1 (got {truncation})"
            )
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
        predict = guidance.classifier_free(self.predict, self.condition(hits), guidance_scale)
        generators = common.generators_for(generator, seed, len(hits))
        tokens = torch.full((len(hits), config.sample_size**2), config.symbols, device=self._execution_device)
        steps = discrete.times(self._schedule, num_inference_steps)

        def transition(said: Tensor, at: Tensor, times: tuple[int, int]) -> Tensor:
            start, end = (torch.full((len(hits),), time, device=self._execution_device) for time in times)
            return discrete.sample(discrete.posterior(self._schedule, said, at, end, start), generators)

        run = Denoising(self, tokens, steps, transition, callback_on_step_end)
        for i, (t, _) in run:
            said = discrete.truncated(discrete.normalized(predict(run.sample, torch.tensor(t), i)), truncation)
            if retrieval.is_due(retrieval_interval, i, len(steps)):
                seen = tensors.to_pil(to_pictures(self.vae, said.argmax(-1)))
                hits = retrieval.search_again(
                    self.config, knowledge_base, hits, seen, where=where, min_relevance=min_relevance
                )
                predict = guidance.classifier_free(self.predict, self.condition(hits), guidance_scale)
            run.advance(said)
        images = run.sample
        if output_type != "latent":
            images = common.as_output(to_pictures(self.vae, run.sample), output_type)
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Tokens -> pictures `(n, 3, H, W)` in [-1, 1]; one that is not drawn yet is taken for the first symbol."""
        return to_pictures(self.vae, latents.where(latents < self.transformer.config.symbols, 0))

    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> Conditioning:
        """Queries and neighbors -> tokens on the network's device."""
        return retrieval.condition(
            self.config, self.transformer.config.embed_dim, hits, self._execution_device, self.transformer.dtype
        )

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """One pass of the network: tokens `(B, N)` -> log-probabilities of what each is, `(B, N, symbols)`, float32."""
        assert isinstance(condition.neighbors, Tokens)
        logits = self.transformer(sample, timestep.to(sample.device), condition.neighbors)
        return discrete.informed(self._schedule, logits, sample, timestep.to(sample.device).expand(len(sample)))

    @property
    def _schedule(self) -> MaskAndReplace:
        config = self.transformer.config
        return MaskAndReplace(config.symbols, config.times, config.replaced)
