"""RARM as a diffusers pipeline: from a request and a knowledge base to tokens, one after the other, and to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core.errors import BowerbirdError, MismatchError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion import discrete, guidance
from bowerbird.diffusion.conditions import Conditioning, Tokens
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import rarm_transformer as _loadable  # noqa: F401 (diffusers opens what is imported)
from bowerbird.models.vq import codebook_of, has_codebook, to_pictures, to_tokens
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Defaults, Denoising, SystemOutput
from bowerbird.systems.embedding_system import EmbeddingSystem, layout_of
from bowerbird.systems.patches import TRACE, PatchDecoding, PatchSettings, decoding, traces
from bowerbird.systems.queries import make_request
from bowerbird.systems.rarm.decoding import Decoder

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

SAMPLER = "raster"


class RARMPipeline(EmbeddingSystem):
    """Generates the tokens of a picture in raster order from the embeddings of retrieved pictures.

    Raises: MismatchError when the tokenizer `vae` has other symbols than the transformer.

    `trained_null` is False for released weights, which guide against k zero vectors that no training showed them (a
    note for readers, nothing depends on it). `codebook`: see `vq.sample_codebook`. `guidance_scale`, `temperature`,
    `top_k`, `top_p` and `min_p` (see `TokenSampling`) are how it generates unless asked otherwise.
    """

    model_cpu_offload_seq = "transformer->vae"
    generating = ("transformer", "vae")
    sampler_state = ()

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        k: int = 4,
        normalize_embeddings: bool = True,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
        embedding_length: float | None = None,
        trained_null: bool = True,
        guidance_scale: float = 1.5,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.0,
        text_mode: str = "neighbors",
        token_layout: dict[str, Any] | None = None,
        codebook: list[float] | None = None,
    ) -> None:
        super().__init__()
        there, wanted = vae.config.num_vq_embeddings, transformer.config.symbols
        if there != wanted:
            raise MismatchError(
                f"the transformer predicts {wanted} symbols and the tokenizer has {there}; give the tokenizer it was"
                " trained with"
            )
        if not has_codebook(vae, codebook or []):
            raise MismatchError(
                f"the tokenizer has {there} symbols as the transformer, and they mean something else; give the one it"
                " was trained with"
            )
        self.register_modules(transformer=transformer, vae=vae)
        self.register_to_config(
            k=k,
            normalize_embeddings=normalize_embeddings,
            encoder_name=encoder_name,
            encoder_fingerprint=encoder_fingerprint,
            embedding_length=embedding_length,
            trained_null=trained_null,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            text_mode=text_mode,
            token_layout=token_layout,
            codebook=codebook,
        )
        self.layout = layout_of(token_layout)
        self._patches: PatchDecoding | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Any number of neighbors, as embeddings; one size; a token a step."""
        side = round(self.transformer.config.positions**0.5)
        edge = side * common.vae_scale_factor(self.vae)
        return Capabilities((edge,), samplers=(SAMPLER,), likelihood=True, samples_tokens=True, reads_patches=True)

    @property
    def defaults(self) -> Defaults:
        """A step a token."""
        return replace(super().defaults, num_inference_steps=int(self.transformer.config.positions))

    def batch_size(self, height: int | None = None, width: int | None = None) -> int | None:
        """Four on a CPU: a step reads all weights for every code, whatever the number of pictures."""
        return 4 if self.device.type == "cpu" else None

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The transformer."""
        return [self.transformer]

    @property
    def condition_dim(self) -> int:
        """Of the tokens that the transformer attends to."""
        return int(self.transformer.config.embed_dim)

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
        token_sampling: TokenSampling | None = None,
        patches: PatchSettings | PatchDecoding | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt (or for the one image set, class, or nothing).

        `neighbors=`, the ways of asking and `weights` are as in `RDMPipeline`. `guidance_scale`: of the logits, before
        `token_sampling`; 1 = off, 0 = without neighbors. Both are the model's usual ones (in its config) when None.
        `patches`: tokens are drawn with the nearest windows of `knowledge_base` too (of its items that satisfy
        `where`), or of what `patch_decoding` gave; a PIL picture's `info` holds what was found (`patches.TRACE`).
        `num_inference_steps` can only be the number of tokens. `output_type` latent gives the tokens `(B, N)`; the
        callback's `latents` are those so far.
        Raises: BowerbirdError (MismatchError where database and model do not belong together), before anything is
        generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        common.check_token_form(
            self.transformer.config.positions,
            self.capabilities.sizes[0],
            steps=num_inference_steps,
            eta=eta,
            height=height,
            width=width,
        )
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        how = self.token_sampling if token_sampling is None else token_sampling
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
        windows = self._windows(patches, knowledge_base, where)
        near: list[tuple[np.ndarray, np.ndarray]] = []
        guided = guidance.classifier_free(Decoder(self.transformer), self.condition(hits), scale)
        generators = common.generators_for(generator, seed, len(hits))

        def transition(logits: Tensor, tokens: Tensor, _: int) -> Tensor:
            if windows is None:
                chances = how.distribution(logits)
            else:
                near.append(windows.source.near(tokens.cpu().numpy(), windows.settings))
                chances = windows.distribution(logits, near[-1], how)
            return torch.cat([tokens, discrete.sample(chances[:, None], generators)], 1)

        start = torch.empty(len(hits), 0, dtype=torch.long, device=self._execution_device)
        run = Denoising(self, start, range(self.transformer.config.positions), transition, callback_on_step_end)
        for i, t in run:
            run.advance(guided(run.sample, t, i))
        images = run.sample
        if output_type != "latent":
            images = common.as_output(to_pictures(self.vae, run.sample), output_type)
        if output_type == "pil" and near:
            for picture, trace in zip(images, traces(near, len(hits)), strict=True):
                picture.info[TRACE] = trace
        self.maybe_free_model_hooks()
        return SystemOutput(images=images, neighbors=hits)

    def patch_decoding(self, kb: KnowledgeBase, settings: PatchSettings, *, where: str | None = None) -> PatchDecoding:
        """Tokens drawn with the nearest windows of the items of `kb` that satisfy `where`; their codes are kept in the
        cache, and the windows of the last ones here."""
        edge = max(self.capabilities.sizes)
        made = decoding(self.vae, edge, kb, settings, common.fingerprint([self.vae]), where=where)
        if self._patches is not None and self._patches.key == made.key:
            made = replace(made, source=self._patches.source)
        self._patches = made
        return made

    def _windows(
        self, asked: PatchSettings | PatchDecoding | None, kb: KnowledgeBase | None, where: str | None
    ) -> PatchDecoding | None:
        """What tokens are drawn with beside the model; None for the model alone. Raises: BowerbirdError for windows of
        nothing, or of another tokenizer."""
        if isinstance(asked, PatchSettings):
            if not asked.weight:
                return None
            if kb is None:
                raise BowerbirdError(
                    "`patches` are of a knowledge base; give knowledge_base=, or what patch_decoding gave"
                )
            asked = self.patch_decoding(kb, asked, where=where)
        if asked is None or not asked.settings.weight:
            return None
        asked.source.check(self.transformer.config.positions, codebook_of(self.vae).numpy())
        return asked

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """Tokens `(B, N)` -> the logits of each, given those before it and the condition, `(B, N, symbols)`, float32:
        what the likelihood of a picture is made of. The timestep says nothing."""
        assert isinstance(condition.neighbors, Tokens)
        logits: Tensor = self.transformer(self.transformer.shifted(sample), condition.neighbors)
        return logits.float()

    @torch.no_grad()
    def bits_per_token(self, pictures: Tensor, hits: Neighbors, *, null: bool = False) -> Tensor:
        """-log2 p of each picture's tokens given its row of `hits`, their mean over the places `(n,)`, float32 on the
        CPU; with `null` given no neighbors. Exact: tokens are predicted one by one."""
        tokens = to_tokens(self.vae, pictures)
        condition = self.condition(hits)
        said = self.predict(tokens, torch.tensor(0), condition.without("neighbors") if null else condition)
        return F.cross_entropy(said.transpose(1, 2), tokens, reduction="none").mean(1).cpu() / math.log(2)
