"""What requests may say: strict, and bounded before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.rerank.registry import check_rerank
from bowerbird.serve.limits import LIMITS

MOST_SEED = 2**63 - 1
Id = Annotated[str, Field(pattern=r"^[a-z]{3}_[0-9a-f]{24}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Prompt = Annotated[str, Field(min_length=1, max_length=LIMITS.prompt)]
Where = Annotated[str, Field(min_length=1, max_length=2000)]
Count = Annotated[int, Field(ge=1, le=LIMITS.images)]
Steps = Annotated[int, Field(ge=1, le=LIMITS.steps)]
Edge = Annotated[int, Field(ge=LIMITS.least_edge, le=LIMITS.edge)]
Neighbors = Annotated[int, Field(ge=0, le=LIMITS.k)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Scale = Annotated[float, Field(ge=-100, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Sampler = Annotated[str, Field(pattern=r"^[a-z0-9+_-]{1,40}$")]
ReferenceScale = Annotated[float, Field(ge=0, le=10, description="How strongly a base attends to its references")]
Parser = Literal["rules", "brackets", "spacy", "textblob", "stanza"]
SearchMode = Literal["dense", "bm25", "hybrid", "captions"]


def _reranker(value: str | bool) -> str:
    """The name of a reranker."""
    try:
        return check_rerank(value)
    except BowerbirdError as error:
        raise ValueError(str(error)) from error


Rerank = Annotated[Annotated[str, Field(max_length=100)] | bool, AfterValidator(_reranker)]
"""The name of a reranker; true is auto, and false none."""
OnCopy = Literal["warn", "drop", "resample", "off"]


def _item(value: Any) -> Any:
    """Item ids are texts for those who have no whole numbers of 63 bits, and numbers for the others."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an item's id is a number, or a text of digits")
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 2**63):
        raise ValueError("an item's id is a number of up to 63 bits, or a text of its digits")
    return text


class Strict(BaseModel):
    """A request: nothing unknown, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


ItemId = Annotated[str | int, BeforeValidator(_item), Field(description="An item's id: digits as text, or a number")]


class Chosen(Strict):
    """One neighbor that a person chose: an `item`, or an `upload` with what it shows."""

    item: ItemId | None = None
    upload: Id | None = None
    caption: Annotated[str, Field(max_length=2000)] = ""
    weight: Weight = 1.0


class ItemWeight(Strict):
    """A neighbor as the OpenAI form names it."""

    id: ItemId
    weight: Weight = 1.0


class Pinned(Strict):
    """An item that is to be among the neighbors."""

    item: ItemId
    weight: Weight = 1.0


Previews = bool | Annotated[int, Field(ge=1, le=16)]
"""True: as there is time for them; a number: so many of each picture, evenly over its steps."""


class GenerateRequest(Strict):
    """What to generate. Null is the model's own; `seed` null draws one."""

    prompt: Prompt | None = None
    uploads: Annotated[list[Id], Field(max_length=8)] = []
    class_name: Name | None = None
    unconditional: bool = False
    model: Name | None = None
    knowledge_base: Name | None = None
    n: Count = 1
    seed: Seed | None = None
    k: Neighbors | None = None
    steps: Steps | None = None
    guidance_scale: Scale | None = None
    neighbors: Annotated[list[Chosen], Field(max_length=LIMITS.k)] | None = None
    retrieval: bool = True
    search_mode: SearchMode | None = None
    text_mode: Literal["neighbors", "text", "text+neighbors"] | None = None
    image_mode: Literal["image+neighbors", "image", "neighbors"] | None = None
    where: Where | None = None
    class_key: Annotated[str, Field(pattern=r"^\w{1,100}$")] | None = None
    top_m: Annotated[float, Field(gt=0, le=1)] = 1.0
    allow_no_neighbors: bool = False
    rerank: Rerank = "auto"
    cover: bool = False
    sampler: Sampler | None = None
    eta: Share = 0.0
    height: Edge | None = None
    width: Edge | None = None
    guidance: Literal["interleaved", "weighted", "joint"] | None = None
    text_ratio: Share | None = None
    min_score: Annotated[float, Field(ge=-1, le=1000)] | None = None
    scale: ReferenceScale | None = None
    layers: Literal["all", "style", "content"] | None = None
    steps_from: Share | None = None
    steps_to: Share | None = None
    pool: Annotated[int, Field(ge=1, le=64)] | None = None
    negative_prompt: Prompt | None = None
    phrases: Parser | None = None
    structure: Literal["mean", "conjunction"] | None = None
    critic: Literal["encoder"] | None = None
    max_passes: Annotated[int, Field(ge=1, le=8)] | None = None
    on_copy: OnCopy = "warn"
    previews: Previews = True


class EditRequest(Strict):
    """What to change in a picture, an upload or one made here."""

    image: Id
    prompt: Prompt | None = None
    reference: Id | None = None
    model: Name | None = None
    knowledge_base: Name | None = None
    n: Count = 1
    seed: Seed | None = None
    k: Neighbors | None = None
    steps: Steps | None = None
    guidance_scale: Scale | None = None
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    preservation: Share | None = None
    change_threshold: Annotated[float, Field(ge=0, le=100)] | None = None
    image_guidance: Scale | None = None
    img2img: bool = False
    search_mode: SearchMode | None = None
    where: Where | None = None
    allow_no_neighbors: bool = False
    on_copy: OnCopy = "warn"
    previews: Previews = True


class Variant(Strict):
    """A few keys of a generate body that this variant has otherwise."""

    label: Annotated[str, Field(max_length=100)] = ""
    model: Name | None = None
    knowledge_base: Name | None = None
    k: Neighbors | None = None
    steps: Steps | None = None
    guidance_scale: Scale | None = None
    text_ratio: Share | None = None
    retrieval: bool | None = None
    scale: ReferenceScale | None = None
    phrases: Parser | None = None
    where: Where | None = None
    search_mode: SearchMode | None = None
    rerank: Rerank | None = None
    sampler: Sampler | None = None
    prompt: Prompt | None = None
    neighbors: Annotated[list[Chosen], Field(max_length=LIMITS.k)] | None = None


class CompareRequest(Strict):
    """One request in several variants, each with the same seeds."""

    request: GenerateRequest
    variants: Annotated[list[Variant], Field(min_length=1, max_length=25)]


class CheckRequest(Strict):
    """Pictures made here, against the items of a knowledge base."""

    images: Annotated[list[Id], Field(min_length=1, max_length=200)]
    knowledge_base: Name | None = None


class MixPart(Strict):
    """A text, an upload or an item with its weight; below 0 keeps away from it."""

    text: Prompt | None = None
    upload: Id | None = None
    item: ItemId | None = None
    weight: Annotated[float, Field(ge=-100, le=100)] = 1.0


class SearchRequest(Strict):
    """What to look for: one of text, upload, item, mix."""

    text: Prompt | None = None
    upload: Id | None = None
    item: ItemId | None = None
    mix: Annotated[list[MixPart], Field(min_length=1, max_length=16)] | None = None
    mode: SearchMode = "hybrid"
    k: Annotated[int, Field(ge=1, le=2000)] = 24
    where: Where | None = None
    diversity: Share = 0.0
    alpha: Share | None = None
    min_score: Annotated[float, Field(ge=-1, le=1000)] | None = None
    typos: bool = True
    rerank: Rerank = "none"


class NeighborsRequest(Strict):
    """What `generate` would be given."""

    prompt: Prompt | None = None
    uploads: Annotated[list[Id], Field(max_length=8)] = []
    model: Name | None = None
    k: Annotated[int, Field(ge=1, le=LIMITS.k)] | None = None
    search_mode: SearchMode | None = None
    where: Where | None = None
    rerank: Rerank = "auto"
    phrases: Parser | None = None
    pinned: Annotated[list[Pinned], Field(max_length=LIMITS.k)] = []
    removed: Annotated[list[ItemId], Field(max_length=LIMITS.k)] = []


class RemoveRequest(Strict):
    """Items by id, or by condition."""

    ids: Annotated[list[ItemId], Field(min_length=1, max_length=10_000)] | None = None
    where: Where | None = None
    expected_version: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None


class RestoreRequest(Strict):
    """A version to go back to, unless there are others since `expected_version`."""

    version: Annotated[int, Field(ge=0, le=MOST_SEED)]
    expected_version: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None


class SessionRequest(Strict):
    """The token, once."""

    token: Annotated[str, Field(max_length=1000)]


class StarRequest(Strict):
    """Whether a picture is marked."""

    starred: bool


class ZipRequest(Strict):
    """Pictures to take along."""

    images: Annotated[list[Id], Field(min_length=1, max_length=1000)]
