"""What shapes a stage of Re-Imagen: its network, its text tower, its training samples. All of it is stored in
`recipe.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from bowerbird.systems.objective import ObjectiveConfig
from bowerbird.systems.settings import Amount, Count, Share, column, network, shares


class UNetSizes(BaseModel):
    """Sizes of one stage's network; see `NeighborUNet`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    sample_size: int = 32
    low_size: int = 0
    patch_size: int = 2
    block_out_channels: tuple[int, ...] = (64, 96, 128)
    layers_per_block: tuple[int, ...] = (1, 1, 1)
    attention: tuple[bool, ...] = (True, True, True)
    itself: tuple[bool, ...] = (False, True, True)
    head_channels: int = 64
    text_dim: int = 96
    time_dim: int = 256
    up_attention: bool = True
    prediction_type: Literal["v_prediction", "epsilon", "sample"] = "v_prediction"

    @model_validator(mode="after")
    def _fits(self) -> UNetSizes:
        levels = len(self.block_out_channels)
        if {len(self.layers_per_block), len(self.attention), len(self.itself)} != {levels}:
            raise ValueError(f"layers_per_block, attention and itself need one entry for each of the {levels} levels")
        step = self.patch_size * 2 ** (levels - 1)
        if self.sample_size % step:
            raise ValueError(
                f"sample_size {self.sample_size} is not a multiple of {step}, which patches and levels divide it by"
            )
        if self.low_size and self.sample_size % self.low_size:
            raise ValueError(f"sample_size {self.sample_size} is not a multiple of low_size {self.low_size}")
        return self


class TowerSizes(BaseModel):
    """Sizes of the small text tower; see `SmallTextTower`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    buckets: int = 4096
    dim: int = 96
    heads: int = 3
    layers: int = 1
    max_words: int = 24


class NeighborKind(BaseModel):
    """A share of the training samples whose neighbors are of one kind, and how often the text then names the target's
    style.

    `retrieved`: what the search finds, mostly the same thing drawn by others; `itself`: first the target under a small
    turn, scale, shift and mirror, so that a look can be kept; `others`: what the search finds among other things.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    kind: Literal["retrieved", "itself", "others"]
    share: Amount
    style_named: Share


class ReImagenConfig(ObjectiveConfig):
    """Everything that shapes one stage and its training data; stored in `recipe.json`.

    `text_encoder`: a frozen T5 or CLIP (directory or hub id) in place of the small tower. `base`: the directory of a
    trained pipeline that this stage is added to; its text tower is used, frozen.
    Of samples of the kind `itself`, the share `varied` is under a random variation of colors, grounds, lines and places
    (the data may then come larger, which keeps it sharp), target and neighbor alike, and has no other neighbor; in the
    share `itself_exact` the neighbor is the target as it is, else in another form, turned and moved `itself_change`
    times as far as usual.
    """

    kind: Literal["reimagen"] = "reimagen"
    unet: UNetSizes = UNetSizes()
    tower: TowerSizes = TowerSizes()
    text_encoder: str | None = network(None)
    base: str | None = network(None)
    max_level: Annotated[int, Field(ge=1, le=1000)] = 400
    search: Literal["bm25", "dense", "hybrid"] = "bm25"
    encoder: str = network("small")
    k: Count = 2
    k_stored: Count = 12
    pool: Count = 4
    max_similarity: float | None = None
    style_key: str | None = column("style")
    draws: Annotated[tuple[NeighborKind, ...], AfterValidator(shares)] = (
        NeighborKind(kind="retrieved", share=0.45, style_named=0.7),
        NeighborKind(kind="itself", share=0.35, style_named=0.0),
        NeighborKind(kind="others", share=0.2, style_named=0.5),
    )
    text_null: Share = 0.1
    neighbors_null: Share = 0.1
    view_probability: Share = 0.5
    varied: Share = 0.0
    itself_exact: Share = 0.0
    itself_change: Share = 1.0

    @property
    def schedule_type(self) -> str:
        """What samplers are given: a stage that predicts the clean picture is converted to velocities."""
        return "v_prediction" if self.unet.prediction_type == "sample" else self.unet.prediction_type
