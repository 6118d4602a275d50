"""The settings of an adapter's training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bowerbird.systems.objective import ObjectiveConfig
from bowerbird.systems.settings import Amount, Count, Share, column, network


class IPAdapterConfig(ObjectiveConfig):
    """Everything that shapes an adapter and what it is shown; stored in `recipe.json`.

    A sample is a drawing as it is, or under one of `varied_views` random variations of each, or one of the `scenes`
    composed of the `scene_names` most drawn things; the three amounts say how often. In the share `nameless` the
    caption does not name what is drawn (`varied_nameless` where it is under a variation). `other`: the share of the
    drawings with a name whose references show something else, that is near or of the same style. `itself`: the share of
    a drawing's references that are the drawing, in another form. `exact`: the share of references that are the target
    as it is, as published adapters are trained. `start`: the RDM whose projection of embeddings the adapter's begins
    with, where the base itself started from that RDM; `start_length`: how long embeddings were where the base learned
    such tokens (None: as the RDM reads them; 1 for the `tiny-sd` of this version). `references`: how many there are at
    most, `forms`: how many forms each drawing has.
    """

    kind: Literal["ip-adapter"] = "ip-adapter"
    base: str = network("tiny-sd")
    encoder: str = network("small")
    start: str | None = network(None)
    start_length: Annotated[float, Field(gt=0, le=1000)] | None = None
    style_key: str | None = column("style")
    drawings: Amount = 0.5
    varied: Amount = 0.22
    composed: Amount = 0.28
    varied_views: Annotated[int, Field(ge=0, le=64)] = 3
    forms: Annotated[int, Field(ge=1, le=16)] = 2
    scenes: Annotated[int, Field(ge=0, le=1_000_000)] = 12_000
    scene_names: Count = 1_500
    nameless: Share = 0.35
    varied_nameless: Share = 0.7
    other: Share = 0.25
    itself: Share = 0.25
    exact: Share = 0.0
    references: Annotated[int, Field(ge=1, le=8)] = 3
    caption_null: Share = 0.05
    reference_null: Share = 0.05
    both_null: Share = 0.05
    captions: Count = 3
    stored: Annotated[int, Field(ge=8, le=256)] = 12
    max_similarity: float | None = 0.98
