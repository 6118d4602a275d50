"""RA-CM3 as a diffusers pipeline: a prompt with retrieved documents of picture and caption before it, and the codes or
the words that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bowerbird.core import cache, images, seeds, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Neighbors
from bowerbird.diffusion.conditions import Conditioning
from bowerbird.diffusion.guidance import Guidance, build_guidance
from bowerbird.diffusion.token_sampling import TokenSampling
from bowerbird.knowledge.rerank.registry import Rerank
from bowerbird.models import document_transformer as _loadable  # noqa: F401 (diffusers opens what is imported)
from bowerbird.models.vq import has_codebook, to_pictures, to_tokens
from bowerbird.systems import common
from bowerbird.systems.base import Callback, Capabilities, Caption, Defaults, Denoising, System, SystemOutput
from bowerbird.systems.filling import framed, one_hole, parts_of, with_hole
from bowerbird.systems.queries import Request, make_request, with_prompts
from bowerbird.systems.racm3 import layout as lay
from bowerbird.systems.racm3 import retrieval
from bowerbird.systems.racm3.decoding import Decoder, Prompt, PromptConditioning, condition
from bowerbird.systems.racm3.layout import Layout
from bowerbird.systems.racm3.likelihood import bits_per_code
from bowerbird.systems.racm3.reading import Reader
from bowerbird.systems.racm3.sampling import choose, write

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.knowledge.base import KnowledgeBase

SAMPLER = "raster"


def vocabulary_hash(tokenizer: Any) -> str:
    """16 hex digits of a tokenizer's tokens in their order."""
    return cache.key(*sorted(f"{number} {token}" for token, number in tokenizer.get_vocab().items()))[:16]


class RACM3Pipeline(System):
    """Generates a picture code by code, and captions word by word, after documents that show and name things.

    `encoder_name` and `encoder_fingerprint`: of the encoder whose mixed vectors found the documents in training.
    `codebook`: see `vq.sample_codebook`. `vocabulary`: see `vocabulary_hash`. `max_similarity`: of the pictures of two
    documents. `guidance_scale`, `temperature`, `top_k` (0: all), `top_p` and `min_p` (see `TokenSampling`) are how it
    generates unless asked otherwise.
    """

    model_cpu_offload_seq = "decoder->vae"
    generating = ("decoder", "vae")
    sampler_state = ()

    def __init__(
        self,
        decoder: Any,
        vae: Any,
        tokenizer: Any,
        k: int = 2,
        encoder_name: str = "small",
        encoder_fingerprint: str = "",
        search_mode: str = "mixed",
        max_similarity: float | None = 0.9,
        guidance_scale: float = 1.5,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.1,
        codebook: list[float] | None = None,
        vocabulary: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(decoder=decoder, vae=vae, tokenizer=tokenizer)
        self.register_to_config(
            k=k,
            encoder_name=encoder_name,
            encoder_fingerprint=encoder_fingerprint,
            search_mode=search_mode,
            max_similarity=max_similarity,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            codebook=codebook,
            vocabulary=vocabulary,
        )
        self.layout = Layout.of(decoder.config)
        if not has_codebook(vae, codebook or []):
            raise BowerbirdError(
                "the codes of the tokenizer of pictures mean something else than the decoder was trained on: it is of"
                " another model; fetch the whole model again"
            )
        if vocabulary and vocabulary != vocabulary_hash(tokenizer):
            raise BowerbirdError(
                "the words of the tokenizer of captions mean something else than the decoder was trained on: it is of"
                " another model; fetch the whole model again"
            )
        if len(tokenizer) != self.layout.text_tokens or vae.config.num_vq_embeddings != self.layout.image_tokens:
            raise BowerbirdError(
                f"the decoder reads {self.layout.text_tokens} words and {self.layout.image_tokens} codes, the"
                f" tokenizers beside it have {len(tokenizer)} and {vae.config.num_vq_embeddings}: they are of another"
                " model; fetch the whole model again"
            )

    @property
    def capabilities(self) -> Capabilities:
        """A text beside the documents' pictures and captions; from the text alone too. A code a step."""
        edge = self.layout.side * common.vae_scale_factor(self.vae)
        most = int(self.decoder.config.documents)
        return Capabilities(
            (edge,),
            reads_text=True,
            needs_images=True,
            without_neighbors=True,
            samplers=(SAMPLER,),
            max_references=most,
            likelihood=True,
            captions=True,
            samples_tokens=True,
            fills=True,
        )

    @property
    def defaults(self) -> Defaults:
        """A step a code."""
        return replace(super().defaults, num_inference_steps=self.layout.cells)

    def batch_size(self, height: int | None = None, width: int | None = None) -> int | None:
        """Four on a CPU: a step reads all weights for every code, whatever the number of pictures."""
        return 4 if self.device.type == "cpu" else None

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The decoder."""
        return [self.decoder]

    # -- pictures ------------------------------------------------------------------------------------------------------

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
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        guidance_scale: float | None = None,
        token_sampling: TokenSampling | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int = 0,
        output_type: str = "pil",
        source: Sequence[Image.Image] | None = None,
        callback_on_step_end: Callback | None = None,
    ) -> SystemOutput:
        """Generate `num_images_per_prompt` pictures for each prompt, or for the one image set.

        `neighbors=` wins over retrieval (`Neighbors.from_images` makes them of a person's own pictures); it may carry
        the prompts itself. A document with weight 0 is left out; others count alike. k = 0 generates from the text
        alone. `guidance`: how text and documents are balanced; None is `Guidance.from_scale(guidance_scale)`. It acts
        on the logits, before `token_sampling`. `output_type` latent gives the codes `(B, N)`; the callback's `latents`
        are those so far. `source`: a picture with a hole for each row (`filling.with_hole`), in whole cells of the
        grid; what is not in the hole is kept to the pixel.
        Raises: BowerbirdError before anything is generated.
        """
        common.check_call(output_type, num_images_per_prompt, neighbors=neighbors, knowledge_base=knowledge_base)
        common.check_token_form(
            self.layout.cells,
            self.capabilities.sizes[0],
            steps=num_inference_steps,
            eta=eta,
            height=height,
            width=width,
        )
        if neighbors is not None:
            hits = with_prompts(neighbors, prompt).repeat(num_images_per_prompt)
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
            hits = self.retrieve(request, knowledge_base, num_images_per_prompt, seed=seed)
        hits = hits if weights is None else hits.weighted(weights)
        generators = common.generators_for(generator, seed, len(hits))
        numbers = common.picture_seeds(generator, generators)
        balance = self.balance(guidance, self.config.guidance_scale if guidance_scale is None else guidance_scale)[0]
        prompts, filled = self.reader.prompts(hits), None
        if source is not None:
            filled = self._with_holes(source, len(hits))
            prompts = [
                replace(each, codes=codes, hole=filled[1].ravel())
                for each, codes in zip(prompts, filled[2], strict=True)
            ]
        codes = self._generate(prompts, generators, numbers, balance, token_sampling, callback_on_step_end)
        if filled is None:
            made = codes if output_type == "latent" else common.as_output(to_pictures(self.vae, codes), output_type)
        else:
            made = self._filled(codes, *filled, output_type)
            if output_type == "pil":
                boxes = [images.frame_of(each.size, max(self.capabilities.sizes)) for each in source or ()]
                made = [picture.crop(box) for picture, box in zip(made, boxes, strict=True)]
        self.maybe_free_model_hooks()
        return SystemOutput(images=made, neighbors=hits)

    @torch.no_grad()
    def infill(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str = "",
        *,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        num_images: int = 1,
        guidance: Guidance | None = None,
        guidance_scale: float | None = None,
        token_sampling: TokenSampling | None = None,
        seed: int = 0,
    ) -> SystemOutput:
        """Pictures like `image` with other content where `mask` is white, in whole cells of the grid; the rest is kept
        to the pixel. The hole may have any form.

        Documents are those of the prompt, without one those of the picture. Raises: BowerbirdError for a mask without
        white or of another form, or a request that cannot be served.
        """
        if num_images < 1:
            raise BowerbirdError(f"num_images is 1 or more; got {num_images}")
        source = with_hole(image, mask, max(self.capabilities.sizes))
        if neighbors is not None:
            hits = with_prompts(neighbors, prompt or None).repeat(num_images)
        elif prompt.strip():
            hits = self.retrieve(make_request(prompt, k=k), knowledge_base, num_images, seed=seed)
        else:
            hits = self.retrieve_like(source, knowledge_base, k).repeat(num_images)
        return self(
            neighbors=hits,
            source=[source] * len(hits),
            guidance=guidance,
            guidance_scale=guidance_scale,
            token_sampling=token_sampling,
            seed=seed,
        )

    def retrieve_like(self, image: Image.Image, knowledge_base: KnowledgeBase | None, k: int | None) -> Neighbors:
        """The documents for a picture that is filled in or described, without a text; none with k = 0."""
        edge = max(self.capabilities.sizes)
        return self._of_picture(images.square(images.on_background(image), edge), knowledge_base, k)

    def _with_holes(
        self, sources: Sequence[Image.Image], rows: int
    ) -> tuple[Sequence[Image.Image], np.ndarray, list[np.ndarray]]:
        """Pictures to fill in, their hole `(side, side)`, and the codes of each. Raises: BowerbirdError for as many
        pictures as there are not rows, or several holes."""
        if len(sources) != rows:
            raise BowerbirdError(f"{len(sources)} pictures to fill in for {rows} rows; give one each")
        parts = [parts_of(framed(source, max(self.capabilities.sizes)), self.layout.side) for source in sources]
        pictures = [picture for picture, _ in parts]
        return pictures, one_hole([hole for _, hole in parts]), [self.reader.codes(picture) for picture in pictures]

    def _filled(
        self,
        found: Tensor,
        pictures: Sequence[Image.Image],
        holes: np.ndarray,
        codes: Sequence[np.ndarray],
        output_type: str,
    ) -> Any:
        """The pictures with `found` `(n, places)` in their holes, in the form asked for."""
        whole = torch.from_numpy(np.stack(codes)).to(found.device)
        whole[:, torch.from_numpy(holes.ravel()).to(found.device)] = found
        if output_type == "latent":
            return whole
        inside = F.interpolate(
            torch.from_numpy(holes).float()[None, None], scale_factor=float(pictures[0].width // self.layout.side)
        )
        own = tensors.to_float(tensors.stack(list(pictures)))
        return common.as_output(torch.where(inside > 0, to_pictures(self.vae, whole).cpu(), own), output_type)

    def _generate(
        self,
        prompts: Sequence[Prompt],
        generators: list[torch.Generator],
        numbers: Sequence[int],
        balance: Guidance,
        how: TokenSampling | None,
        callback: Callback | None,
    ) -> Tensor:
        """The codes after each prompt, `(n, places)`."""
        sampling = self.token_sampling if how is None else how
        decoder = Decoder(self.decoder, self.layout, prompts)
        given, present = condition(prompts, self._execution_device), [bool(prompt.documents) for prompt in prompts]
        steps = len(decoder.places)
        guided = build_guidance(decoder, given, balance, numbers, present, steps)

        def transition(logits: Tensor, codes: Tensor, _: int) -> Tensor:
            return torch.cat([codes, choose(logits, generators, sampling)[:, None]], 1)

        start = torch.empty(len(prompts), 0, dtype=torch.long, device=self._execution_device)
        run = Denoising(self, start, range(steps), transition, callback)
        for i, t in run:
            run.advance(guided(run.sample, t, i))
        return run.sample

    # -- captions ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def caption(
        self,
        image: Image.Image,
        *,
        neighbors: Neighbors | None = None,
        knowledge_base: KnowledgeBase | None = None,
        k: int | None = None,
        best_of: int = 1,
        seed: int = 0,
        token_sampling: TokenSampling | None = None,
    ) -> Caption:
        """What `image` shows, in words, after documents that the picture retrieves (k = 0 for none).

        The likeliest word each time; with `best_of` above 1, so many texts are drawn and the likeliest a token is kept.
        Raises: BowerbirdError for a request that cannot be served.
        """
        if best_of < 1:
            raise BowerbirdError(f"best_of is the number of captions that are drawn, 1 or more; got {best_of}")
        kept = images.square(images.on_background(image), max(self.capabilities.sizes))
        hits = neighbors if neighbors is not None else self._of_picture(kept, knowledge_base, k)
        [documents] = self.reader.documents(hits.rows([0]))
        codes = self.reader.codes(kept)
        prompt = lay.join([*documents, lay.before_caption(self.layout, codes)])
        usual = TokenSampling(temperature=0.0 if best_of == 1 else 1.0)
        generators = seeds.picture_generators(seed, best_of)
        found, likelihoods = write(self.decoder, self.layout, prompt, generators, token_sampling or usual)
        best = int(np.argmax(likelihoods))
        text = self.tokenizer.decode(found[best], skip_special_tokens=True).strip()
        return Caption(text, likelihoods[best], hits.rows([0]))

    def _of_picture(self, image: Image.Image, kb: KnowledgeBase | None, k: int | None) -> Neighbors:
        """The documents that a picture retrieves."""
        self._check_count(k, kb)
        wanted = self.defaults.k if k is None else k
        if wanted == 0:
            return replace(Neighbors.empty(["a picture alone"]), queries=("",))
        if kb is None:
            raise BowerbirdError("the model retrieves from a knowledge base; give `kb`, or `k=0` for the picture alone")
        found = retrieval.by_picture(kb, image, min(wanted, len(kb)), self.config.max_similarity)
        return replace(found, queries=("",))

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
        """The documents for `request`: pictures with captions of any knowledge base, whatever encoder it was made with;
        none for prompts with k = 0."""
        request = self.resolve(request, kb)
        self._check_count(request.k, kb)
        return retrieval.retrieve(
            kb, request, count, seed=seed, counts=proposal or {}, max_similarity=self.config.max_similarity
        )

    def _check_count(self, k: int | None, kb: KnowledgeBase | None) -> None:
        """Raises: BowerbirdError for more documents than the decoder tells apart, or `kb` holds."""
        most, held = int(self.decoder.config.documents), None if kb is None else len(kb)
        if k is not None and not 0 <= k <= most:
            raise BowerbirdError(
                f"k is from 0 to {most} for this model, the documents its decoder tells apart; got {k}"
            )
        if k and kb is not None and held and k > held:
            raise BowerbirdError(
                f"k = {k} documents are asked for and {kb.path} holds {held} items; choose k from 1 to"
                f" {min(held, most)}"
            )

    def check_knowledge_base(self, kb: KnowledgeBase) -> KnowledgeBase:
        """`kb` itself: any will do, as its pictures and captions are what counts."""
        return kb

    def balance(self, guidance: Guidance | Sequence[Guidance] | None, guidance_scale: float) -> list[Guidance]:
        """The one balance of text and documents. Raises: BowerbirdError for several."""
        if guidance is None or isinstance(guidance, Guidance):
            return [guidance or Guidance.from_scale(guidance_scale)]
        if len(guidance) != 1:
            raise BowerbirdError(f"this model generates in one stage: it takes one guidance, not {len(guidance)}")
        return list(guidance)

    @property
    def reader(self) -> Reader:
        """What turns pictures and texts into symbols."""
        most, edge = int(self.decoder.config.documents), max(self.capabilities.sizes)
        return Reader(self.layout, self.vae, self.tokenizer, edge, most)

    def condition(self, hits: Neighbors, *args: Any, **kwargs: Any) -> PromptConditioning:
        """The prompts of `hits`, and which have documents and a text."""
        return condition(self.reader.prompts(hits), self._execution_device)

    def predict(self, sample: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
        """The codes so far `(n, t)` -> the logits of the next, `(n, codes)`, float32. All is read again; to go on from
        what was read, keep a `decoding.Decoder`."""
        assert isinstance(condition, PromptConditioning)
        return Decoder(self.decoder, self.layout, condition.prompts)(sample, timestep, condition)

    @torch.no_grad()
    def bits_per_token(self, pictures: Tensor, hits: Neighbors, *, null: bool = False) -> Tensor:
        """-log2 p of each of the float pictures' `(n, 3, S, S)` codes given its text and its row of `hits`, their mean
        over the cells `(n,)`; with `null` without documents. Exact: codes are predicted one by one. A text longer than
        a document is cut."""
        codes = to_tokens(self.vae, pictures).cpu().numpy()
        every = np.arange(self.layout.cells)
        sequences = [
            lay.join([prompt.passage(self.layout, (not null, True)), lay.cells(self.layout, own, every)])
            for prompt, own in zip(self.reader.prompts(hits, cut=True), codes, strict=True)
        ]
        return bits_per_code(self.decoder, self.layout, sequences)
