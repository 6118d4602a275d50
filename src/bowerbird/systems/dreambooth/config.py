"""The settings of a DreamBooth training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bowerbird.systems.objective import ObjectiveConfig
from bowerbird.systems.settings import Amount, Share, network

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The layers of a text encoder that a LoRA changes, as in diffusers' recipe."""


class DreamBoothConfig(ObjectiveConfig):
    """Everything that shapes the training of a subject; stored in `recipe.json`.

    The subject is `template` with `word` and `class_name`, its class `template` with `class_name` alone. `method`: the
    U-Net whole (`full`), or by `rank` in the layers whose name ends in one of `targets`, times `alpha` / rank (`lora`;
    `alpha` None is the rank). `prior_weight`: of the loss on `class_pictures` pictures of the class, which the base
    itself generates in `class_steps` steps (None: as many as it usually takes); 0 leaves them out. `train_text`:
    whether the text encoders learn too, the same way. `stop_below`: training stops where less than this share of the
    base's diversity of the class is left, of which the last checkpoint before is kept; looked at whenever one is
    written, 0 never, None as `collapse.least_share` finds it for this subject and class.
    """

    kind: Literal["dreambooth"] = "dreambooth"
    base: str = network("tiny-sd")
    class_name: str = ""
    word: str = "sks"
    template: str = "a photo of a {}"
    method: Literal["lora", "full"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    alpha: Annotated[float, Field(gt=0, le=10_000)] | None = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = TARGETS
    prior_weight: Amount = 1.0
    class_pictures: Annotated[int, Field(ge=1, le=10_000)] = 100
    class_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    train_text: bool = False
    stop_below: Share | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        """The template is filled by replacing, as a stranger's recipe may hold any format."""
        if self.template.count("{}") != 1:
            raise PydanticCustomError("template", "has one {place} for what is shown", {"place": "{}"})
        return self

    @property
    def class_prompt(self) -> str:
        """What the class is asked for by."""
        return self.template.replace("{}", self.class_name)

    @property
    def subject_prompt(self) -> str:
        """What the subject is asked for by."""
        return self.template.replace("{}", f"{self.word} {self.class_name}")
