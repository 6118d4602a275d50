"""Calls that whoever holds models and encoders answers beside its work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder, TokenEncoder, embeds_text
from bowerbird.serve import frames
from bowerbird.serve.pipelines import Workbench
from bowerbird.serve.work import job_of

if TYPE_CHECKING:
    from PIL import Image


class Calls:
    """Answers with what `bench` holds."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        # threads that stay: torch gives each thread that computes a team of its own, which takes longer than a text
        self._texts, self._pictures = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def answer(self, message: dict[str, Any], blobs: list[bytes]) -> frames.Frame:
        """What a call asks for. Raises: BowerbirdError."""
        what = message["call"]
        if what == "suggest":
            return self._suggest(message), []
        if what == "model":
            return self.model(str(message["model"])), []
        if what == "named":
            found = self.bench.encoder(str(message["name"]), "")
            return {"name": found.name, "fingerprint": found.fingerprint, "dim": found.dim}, []
        if what in ("embed_query", "embed_captions"):
            text = self.bench.text_encoder(str(message["encoder"]), str(message["fingerprint"]))
            embed = text.embed_text if what == "embed_query" else text.embed_captions
            return {}, [self._texts.submit(embed, message["texts"]).result().astype("<f4").tobytes()]
        encoder = self.bench.encoder(str(message["encoder"]), str(message["fingerprint"]))
        if what == "encoder":
            size, texts = getattr(encoder, "picture_size", None), embeds_text(encoder)
            tokens = getattr(encoder, "token_dim", 0)
            return {
                "shared_dim": encoder.shared_dim,
                "picture_size": size,
                "embeds_text": texts,
                "token_dim": tokens,
            }, []
        if what in ("text_tokens", "pixel_tokens"):
            return {}, self._tokens(encoder, message, blobs)
        if what == "embed_text":
            vectors = self._texts.submit(encoder.embed_text, message["texts"]).result()
        elif what == "embed_pixels":
            vectors = self._pictures.submit(encoder.embed_images, _pictures_of(message, blobs)).result()
        else:
            from bowerbird.core import images

            pictures = [images.decode(data, "the picture") for data in blobs]
            vectors = self._pictures.submit(encoder.embed_images, pictures).result()
        return {}, [vectors.astype("<f4").tobytes()]

    def _tokens(self, encoder: Encoder, message: dict[str, Any], blobs: list[bytes]) -> list[bytes]:
        """The tokens of texts; of pictures their embeddings, and then their tokens."""
        if not isinstance(encoder, TokenEncoder):
            raise BowerbirdError(f"encoder {encoder.name!r} gives one vector of a picture and no tokens")
        if message["call"] == "text_tokens":
            made = self._texts.submit(encoder.embed_text_tokens, message["texts"]).result()
        else:
            vectors, tokens = self._pictures.submit(
                encoder.embed_images_with_tokens, _pictures_of(message, blobs)
            ).result()
            made = [vectors, *tokens]
        return [each.astype("<f4").tobytes() for each in made]

    def _suggest(self, message: dict[str, Any]) -> dict[str, Any]:
        from bowerbird.systems.suggestions import suggest

        pipe, kb = self.bench.models.get(message["model"]), self.bench.knowledge_base(message["kb"])
        found = suggest(pipe, kb, job_of(message["job"]), pinned=message["pinned"], removed=message["removed"])
        scores = [None if score != score else round(score, 6) for score in found.scores]
        facts = {"ids": [str(i) for i in found.ids], "scores": scores, "phrases": found.phrases}
        return {**facts, "pinned": found.pinned, "version": kb.version}

    def model(self, name: str) -> dict[str, Any]:
        """Capabilities and defaults of a model."""
        from dataclasses import asdict

        from bowerbird.systems import generation

        pipe = self.bench.models.get(name)
        can, own = asdict(pipe.capabilities) | {"samplers": pipe.sampler_names}, pipe.defaults
        defaults = {"k": own.k, "steps": own.num_inference_steps, "guidance_scale": own.guidance_scale}
        return {
            "capabilities": can,
            "defaults": {**defaults, "sampler": own.sampler, "search_mode": own.search_mode, "scale": own.scale},
            "stages": pipe.capabilities.stages,
            "batch": generation.batch_size(pipe, generation.default_settings(pipe)),
        }


def _pictures_of(message: dict[str, Any], blobs: list[bytes]) -> list[Image.Image]:
    """The RGB pictures of a message."""
    from PIL import Image

    pairs = zip(message["sizes"], blobs, strict=True)
    return [Image.frombytes("RGB", tuple(size), data) for size, data in pairs]
