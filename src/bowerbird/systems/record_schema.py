"""What a picture's record may say, as far as generating it again depends on it: every size, count and number in it is
bounded here, as anybody may have written it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bowerbird.core.credit import MOST_COLUMNS
from bowerbird.diffusion.token_sampling import MOST_SYMBOLS, MOST_TEMPERATURE
from bowerbird.systems.common import MOST_EDGE
from bowerbird.systems.patches import MOST_NEIGHBORS as MOST_WINDOWS
from bowerbird.systems.patches import MOST_TEMPERATURE as MOST_FALL
from bowerbird.systems.reference_settings import MOST_SCALE

MOST_STEPS = 1000
"""As many as the networks are trained on timesteps; more change nothing but the time."""
MOST_NEIGHBORS, MOST_PICTURES = 1000, 32
"""More than any picture is generated from, by embeddings and by pictures."""

Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(max_length=1000)]
Coded = Annotated[str, Field(max_length=2**24)]
Scale = Annotated[float, Field(ge=-1000, le=1000)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Edge = Annotated[int, Field(ge=1, le=MOST_EDGE)]
Place = Annotated[int, Field(ge=0, le=100_000)]
Span = Annotated[list[Place], Field(min_length=2, max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Single = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]  # what float32 holds


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class _Request(_Part):
    prompt: Text | None = None
    class_name: Annotated[Text | None, Field(alias="class")] = None
    reference: Name | None = None
    images: Annotated[list[Name], Field(max_length=1000)] = []


class _Enlargement(_Part):
    level: Annotated[int, Field(ge=0, le=999)]
    back_projection: bool
    smoothing: Annotated[int, Field(ge=0, le=255)] = 0


class _Model(_Part):
    name: Name
    fingerprint: Name


class _Neighbor(_Part):
    id: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    score: Single
    caption: Text
    weight: Annotated[float, Field(ge=0, le=1e6)]
    name: Name = ""
    credit: Annotated[dict[Name, Name | int | float | bool], Field(max_length=MOST_COLUMNS)] = {}
    phrase: Text = ""
    region: Annotated[list[Share], Field(min_length=4, max_length=4)] | None = None


class _Guidance(_Part):
    kind: Name
    text_scale: Scale
    neighbor_scale: Scale
    eta: Share


class _Edit(_Part):
    """What is filled in says `fills`, an edit by instruction has `image_guidance`, any other what starts from a
    picture."""

    name: Name = ""
    source: Coded
    fills: bool = False
    least_change: Annotated[float, Field(ge=0, le=1e6)] | None = None
    image_guidance: Scale | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    fidelity: Share | None = None
    show_source: bool | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        started = None not in (self.strength, self.fidelity, self.show_source) or self.image_guidance is not None
        if not self.fills and (not started or self.least_change is None):
            raise PydanticCustomError(
                "edit",
                "is of no kind: fills, or least_change with image_guidance, or strength, fidelity and show_source",
            )
        return self


class _Adapter(_Part):
    name: Name
    hash: Name


class _Lora(_Part):
    name: Name
    hash: Name
    scale: Annotated[float, Field(ge=-MOST_SCALE, le=MOST_SCALE)]


class References(_Part):
    injector: Name | None = None
    adapter: _Adapter | None = None
    scale: Annotated[float, Field(ge=0, le=MOST_SCALE)]
    layers: Literal["all", "style", "content"]
    steps_from: Share
    steps_to: Share
    pool: Annotated[int, Field(ge=1, le=64)]
    negative_prompt: Text
    structure: Literal["mean", "conjunction"] | None = None
    spans: Annotated[list[Span], Field(max_length=256)] = []
    loras: Annotated[list[_Lora], Field(max_length=64)] = []


class _Tokens(_Part):
    temperature: Annotated[float, Field(ge=0, le=MOST_TEMPERATURE)]
    top_k: Annotated[int, Field(ge=0, le=MOST_SYMBOLS)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    min_p: Share


class Patches(_Part):
    weight: Share
    neighbors: Annotated[int, Field(ge=1, le=MOST_WINDOWS)]
    temperature: Annotated[float, Field(gt=0, le=MOST_FALL)]
    where: Text | None = None
    width: Annotated[int, Field(ge=1, le=MOST_WINDOWS)]
    codes: Coded
    chances: Coded


BATCH_BEFORE = 4
"""Pictures that went through a CPU's network at once before records said how many, and the most that one may ask for:
a GPU's number would be slow here, and its last bits are others anyway."""


class Record(_Part):
    """What of a picture's record generating it again depends on; other entries are passed over."""

    request: _Request
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    steps: Steps | Annotated[list[Steps], Field(min_length=1, max_length=8)]
    sampler: Name
    guidance_scale: Scale
    eta: Share
    guidance_interval: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    enlargement: _Enlargement | None = None
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    size: Annotated[list[Edge], Field(min_length=2, max_length=2)]
    batch: Annotated[int, Field(ge=1, le=1024)] = BATCH_BEFORE
    model: _Model
    neighbors: Annotated[list[_Neighbor], Field(max_length=MOST_NEIGHBORS)]
    embeddings: Coded | None = None
    pictures: Annotated[list[Coded], Field(max_length=MOST_PICTURES)] | None = None
    query: Text = ""
    k: Annotated[int, Field(ge=0, le=MOST_PICTURES)] = 0
    guidance: Annotated[list[_Guidance], Field(min_length=1, max_length=8)] | None = None
    edit: _Edit | None = None
    references: References | None = None
    loras: Annotated[list[_Lora], Field(max_length=64)] = []
    tokens: _Tokens | None = None
    patches: Patches | None = None
