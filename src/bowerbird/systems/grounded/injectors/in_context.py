"""Editors that read a list of pictures beside the prompt: FLUX.2, Qwen-Image-Edit-Plus, FLUX.1 Kontext, OmniGen,
Z-Image-Omni.

No weights are added. What each picture is for is said in the prompt, by its number: a template a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, InjectorCapabilities, Task, restoring
from bowerbird.systems.grounded.references import Reference

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 1024 * 1024
LEAST_EDGE, MULTIPLE = 64, 16
MOST_RATIO, USUAL_RATIO = 8, 7
"""How much longer than wide a picture is that FLUX.2 takes, and what another becomes, whose edges are then rounded."""


@dataclass(frozen=True)
class Family:
    """How a family of editors takes pictures: the `argument` of its call, `most` of them, what it calls them (`noun`,
    then a number), whether each prompt of a batch has its own list, whether it generates from a text alone, and whether
    it gives its autoencoder pictures in bfloat16, whatever that computes in."""

    argument: str
    most: int
    noun: str
    template: Callable[[str, str, Sequence[Reference]], str]
    lists: bool = False
    without: bool = True
    rounds: bool = False


def _numbered(noun: str, prompt: str, references: Sequence[Reference]) -> str:
    """ "Image 1 shows a red fox. …", then the prompt; nothing of a picture that nothing is known of."""
    said = [(at, each.phrase or each.caption) for at, each in enumerate(references, 1)]
    return " ".join([*(f"{noun} {at} shows {what.rstrip('.')}." for at, what in said if what), prompt]).strip()


def _alone(noun: str, prompt: str, references: Sequence[Reference]) -> str:
    what = references[0].phrase or references[0].caption
    return f"The image shows {what.rstrip('.')}. {prompt}".strip() if what else prompt


def _omnigen(noun: str, prompt: str, references: Sequence[Reference]) -> str:
    """ImageRAG's wording (arXiv 2502.09411), with OmniGen's place for each picture."""
    said = ", ".join(
        f"{each.phrase or each.caption or 'this'}: <img><|image_{at}|></img>" for at, each in enumerate(references, 1)
    )
    return f"According to these images of {said}, generate {prompt}".strip()


FAMILIES = {
    "Flux2KleinPipeline": Family("image", 4, "Image", _numbered),
    "Flux2Pipeline": Family("image", 6, "Image", _numbered),
    "QwenImageEditPlusPipeline": Family("image", 3, "Picture", _numbered, without=False),
    "FluxKontextPipeline": Family("image", 1, "image", _alone),
    "OmniGenPipeline": Family("input_images", 3, "image", _omnigen, lists=True),
    "ZImageOmniPipeline": Family("image", 4, "Image", _numbered, rounds=True),
}
"""By the pipeline's class. Most references: what the makers say (FLUX.2 klein 4, dev 6), or were trained on."""


class InContext(Injector):
    """The base's own list of pictures, in the order of the references."""

    kind: ClassVar[str] = "in-context"

    def __init__(self, base: Any, facts: Any = None) -> None:
        super().__init__(base, facts)
        name = next((kind.__name__ for kind in type(base).__mro__ if kind.__name__ in FAMILIES), None)
        if name is None:
            raise BowerbirdError(f"{with_article(type(base).__name__)} reads no pictures beside its prompt")
        self.family = FAMILIES[name]

    @property
    def capabilities(self) -> InjectorCapabilities:
        """A few pictures, all alike; no scale, layers or steps."""
        return InjectorCapabilities(
            takes="pictures",
            max_references=self.family.most,
            weights=False,
            scale=False,
            needs_reference=not self.family.without,
        )

    @contextmanager
    def inject(self, task: Task) -> Iterator[Injection]:
        """A block with the pictures and the prompt that speaks of them."""
        if len(task.prompts) != 1:
            raise BowerbirdError(f"{with_article(type(self.base).__name__)} generates one picture at a time")
        own = task.references[0]
        pictures = [each.picture for each in own]
        prompt = self.family.template(self.family.noun, task.prompts[0], own)
        given: Any = pictures[0] if self.family.most == 1 else [pictures] if self.family.lists else pictures
        device = self.base._execution_device
        with restoring() as changes, torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # OmniGen draws its pictures' latents from torch's own generator, whatever it is given
            if self.family.rounds:
                vae, encode = self.base.vae, self.base.vae.encode
                changes.set(vae, "encode", lambda pixels, *more, **named: encode(pixels.to(vae.dtype), *more, **named))
            yield Injection({"prompt": [prompt] if self.family.lists else prompt, self.family.argument: given})

    def prepare_picture(self, picture: Image.Image, fit: str) -> Image.Image:
        """The picture at its own shape, at most a megapixel, its edges multiples of 16 and no shorter than FLUX.2
        takes, a strip on white: what the pipelines would else do themselves, by cutting edges off."""
        from PIL import Image as Pictures
        from PIL import ImageOps

        from bowerbird.core.images import on_background

        plain = on_background(picture)
        if (longest := max(plain.size)) > MOST_RATIO * min(plain.size):
            width, height = (max(edge, -(-longest // USUAL_RATIO)) for edge in plain.size)
            plain = ImageOps.pad(plain, (width, height), color="white")
        scale = min(max(1.0, LEAST_EDGE / min(plain.size)), (MOST_PIXELS / (plain.width * plain.height)) ** 0.5)
        size = tuple(max(MULTIPLE, int(edge * scale) // MULTIPLE * MULTIPLE) for edge in plain.size)
        return plain if plain.size == size else plain.resize((size[0], size[1]), Pictures.Resampling.BICUBIC)

    def describe(self) -> dict[str, Any]:
        """The words of its template, for one picture and one for two."""
        example = [Reference(item=-2, caption="A"), Reference(item=-3, caption="B")][: self.family.most]
        return {"template": self.family.template(self.family.noun, "PROMPT", example)}
