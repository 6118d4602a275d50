"""What answers hold, as OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field


class ErrorFacts(BaseModel):
    """OpenAI's error, with the id of the request."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    request_id: str | None = None


class Error(BaseModel):
    """What every refusal looks like."""

    error: ErrorFacts


class Image(BaseModel):
    """A picture made here."""

    id: str
    job: str
    index: int
    variant: int | None
    kind: str
    created: float
    width: int
    height: int
    prompt: str
    model: str
    knowledge_base: str | None
    seed: int
    starred: bool
    near_copy: bool
    url: str
    thumbnail: str


class Job(BaseModel):
    """A piece of work, waiting, at work or over."""

    id: str
    kind: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    position: int | None
    progress: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None
    request: dict[str, Any]
    images: list[Image]
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    notes: list[str]
    sheet: str | None


class Jobs(BaseModel):
    """The newest jobs."""

    jobs: list[Job]


class Item(BaseModel):
    """A picture of a knowledge base."""

    id: str
    caption: str
    name: str
    metadata: dict[str, Any]
    credit: dict[str, Any]
    picture: str
    thumbnail: str


class Items(BaseModel):
    """Some items of all."""

    version: int
    total: int
    offset: int
    items: list[Item]


class KnowledgeBaseFacts(BaseModel):
    """A knowledge base as a list shows it."""

    id: str
    items: int
    version: int
    encoder: dict[str, Any]
    bytes: int
    credit: list[str]
    columns: dict[str, str]
    writable: bool
    default: bool
    error: str | None = None


class KnowledgeBases(BaseModel):
    """All that are served."""

    knowledge_bases: list[KnowledgeBaseFacts]


class Versions(BaseModel):
    """The versions that can be gone back to."""

    version: int
    versions: list[int]


class Columns(BaseModel):
    """What items can be filtered by."""

    version: int
    columns: list[dict[str, Any]]


class Updated(BaseModel):
    """Items changed; `undo` is the version before."""

    updated: int
    version: int
    items: int
    undo: int | None


class Removed(BaseModel):
    """How many are gone, and the version that brings them back."""

    removed: int
    version: int
    items: int
    undo: int | None


class Restored(BaseModel):
    """The version that holds it again."""

    version: int
    items: int


class Hit(BaseModel):
    """One result."""

    item: Item
    score: float
    similarity: float | None
    bm25: float | None
    caption_similarity: float | None


class Hits(BaseModel):
    """Results, best first."""

    version: int
    mode: str
    ms: float
    corrected: dict[str, list[str]]
    results: list[Hit]


class Suggested(BaseModel):
    """One neighbor to be."""

    item: Item
    score: float | None
    weight: float
    pinned: bool
    phrase: str | None = None


class SuggestedNeighbors(BaseModel):
    """The neighbors to be."""

    version: int
    k: int
    neighbors: list[Suggested]


class Upload(BaseModel):
    """A picture that was sent."""

    id: str
    width: int
    height: int
    url: str


class RecordFacts(BaseModel):
    """What a picture says of itself, and the request that makes such a one again."""

    kind: str
    record: dict[str, Any]
    request: dict[str, Any]
    model_here: bool
    knowledge_base_here: bool
    missing_neighbors: list[str]


class ImageNeighbors(BaseModel):
    """The neighbors a picture came from, and the nearest of them."""

    neighbors: list[dict[str, Any]]
    copy_check: Annotated[dict[str, Any] | None, Field(alias="copy", serialization_alias="copy")] = None


class History(BaseModel):
    """Some pictures, and where to go on."""

    images: list[Image]
    next: str | None


class Model(BaseModel):
    """A model and its card. `edits`, and by instruction (`instructs`), are known before it is open."""

    id: str
    description: str
    default: bool
    bytes: int
    adapter: str | None
    loras: list[str]
    loaded: bool
    edits: bool
    instructs: bool
    capabilities: dict[str, Any] | None
    defaults: dict[str, Any] | None
    sizes: list[str]
    card: dict[str, Any]


class Models(BaseModel):
    """The models that are served."""

    models: list[Model]


class Claims(BaseModel):
    """The papers' claims, as they were measured."""

    claims: list[dict[str, Any]]


class Session(BaseModel):
    """Whether a token is wanted, and was given."""

    token_required: bool
    signed_in: bool


class Health(BaseModel):
    """A word."""

    status: str


class Status(BaseModel):
    """What the page shows of the server."""

    version: str
    models: list[str]
    default_model: str
    edit_model: str | None
    knowledge_bases: list[str]
    queue: dict[str, int]
    workers: list[dict[str, Any]]
    rerankers: list[str]
    limits: dict[str, int]
