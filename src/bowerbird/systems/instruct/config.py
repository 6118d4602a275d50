"""The settings of a training that edits by instruction."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bowerbird.models.clip_text import TextConfig
from bowerbird.models.unet import UNetConfig
from bowerbird.systems.objective import ObjectiveConfig
from bowerbird.systems.settings import Count, Share, column, network


class InstructConfig(ObjectiveConfig):
    """Everything that shapes the model and what it is shown; stored in `recipe.json`.

    `base`: a Stable Diffusion in diffusers layout that training goes on from, with its autoencoder, text model and
    prediction type; None: a new network of `unet` and `text` on `autoencoder`. `train_text`: whether the text model
    learns too, as a small one that never read an instruction should; a new one always does.

    `references`: whether the network is shown a picture of the thing that an instruction names. Of edits that name a
    drawing, `referred` have one, in `exact` of them the target's own drawing, else another of its name, and in
    `invented` the thing is called by a word that means nothing. `drop`: the share without the text alone, without the
    picture alone, and without both, each.

    `change_threshold`: below which change a trained model leaves the picture's own pixels unless asked otherwise, in
    units of the latents' deviation; 0: nowhere.

    `composes`: whether code composes edits of pictures that are no table of edits, see `data.edits.build.EditSettings`;
    else such pictures are refused.
    """

    kind: Literal["instruct"] = "instruct"
    base: str | None = network(None)
    references: bool = False
    train_text: bool = False
    autoencoder: str = network("tiny-autoencoder")
    unet: UNetConfig = UNetConfig(block_out_channels=(64, 128, 192))
    text: TextConfig = TextConfig()
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    drop: Annotated[float, Field(ge=0, le=0.3)] = 0.05
    referred: Share = 0.7
    exact: Share = 0.35
    invented: Share = 0.15
    change_threshold: Annotated[float, Field(ge=0, le=100)] = 0.0
    composes: bool = True
    each: Count = 12_000
    wholes: Count = 10_000
    becoming: Annotated[int, Field(ge=0)] = 0
    scenes: Count = 10_000
    per_scene: Annotated[int, Field(ge=1, le=8)] = 2
    names: Count = 600
    grounds: Share = 0.0
    placed: Share = 0.0
    styles: tuple[str, ...] = ()
    own_colors: tuple[str, ...] = ()
    style_key: str | None = column("style")
    group_key: str | None = column("group")
    kind_key: str | None = column("subgroup")
    picture_size: Annotated[int, Field(ge=8, le=4096)] = 64
