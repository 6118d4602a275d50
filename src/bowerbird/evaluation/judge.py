"""The judge: a classifier that measures read, trained apart from every generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import files, images, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.opening import opening
from bowerbird.core.progress import OnMessage, Progress, log_message
from bowerbird.core.text import in_shell
from bowerbird.core.weight_files import file_fingerprint
from bowerbird.data.pictures import Pictures
from bowerbird.evaluation import entity_draw
from bowerbird.models import network_files
from bowerbird.models.classifier import ClassifierModel
from bowerbird.training.cached import train_once
from bowerbird.training.recipes.judge import judge as judge_recipe
from bowerbird.training.recipes.judge import style_judge as style_judge_recipe

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.training.recipe import Recipe


class Judge:
    """A trained `ClassifierModel` with its labels; also a `FeatureExtractor` (the layer before the verdicts)."""

    name, dim = "judge", 256

    def __init__(self, path: Path) -> None:
        self.path = path
        config = files.read_json(path / "config.json", "judge")  # a label for each entity: no bounds for its lists
        if config.get("type") != "bowerbird-evaluator":
            raise BowerbirdError(
                f"{path}: not a judge; train one: bowerbird train judge --data SOURCE --out {in_shell(path)}"
            )
        weights = files.load_tensors(path / "model.safetensors")
        with opening(f"judge {str(path)!r}", "fetch it or train it again: bowerbird train judge"):
            self.entities, self.styles = list(config["entities"]), list(config["styles"])
            sizes = (config["channels"], len(self.entities), len(self.styles))
            self.size = int(config.get("size", 64))
            network_files.check_shapes(lambda: ClassifierModel(*sizes), weights, path)
            self.model = ClassifierModel(*sizes)
        self.model.load_state_dict(weights)
        network_files.check_finite(self.model, path)
        self.preprocessing = f"middle square, bicubic to {self.size} px, on white"
        self.model.eval().requires_grad_(False)
        self.fingerprint = file_fingerprint(path / "model.safetensors")

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> float32 `(n, 256)`."""
        if not pictures:
            return np.zeros((0, self.dim), np.float32)
        return self(self.prepare(pictures))[0].numpy()

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """n pictures of any size -> uint8 `(n, 3, size, size)`."""
        return tensors.stack([images.square(p.convert("RGB"), self.size) for p in pictures])

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 `(n, 3, size, size)` -> float32 features `(n, 256)`, entity logits `(n, E)`, style logits `(n, S)`."""
        parts = [self.model(tensors.to_float(chunk)) for chunk in torch.split(pixels, 128)]
        features, entity, style = (torch.cat(p) for p in zip(*parts, strict=True))
        return features, entity, style


def train_judge(
    recipe: Recipe,
    pictures: Pictures,
    *,
    steps: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Judge:
    """The judge that `recipe` trains on `pictures`, or the one from the cache where it was trained before; `steps`: in
    place of the recipe's."""
    if steps is not None:
        train = recipe.train.model_copy(update={"steps": steps, "sheet_every": 10**6})
        recipe = recipe.model_copy(update={"train": train})
    return Judge(train_once(recipe, pictures, device=device, progress=progress))


def load_judges(
    pictures: Pictures,
    judge: str | Path = "train",
    style_judge: Path | None = None,
    *,
    entity_key: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    on_message: OnMessage = log_message,
) -> tuple[Judge, Judge] | None:
    """The judges of entity and of style: one network may be both. None where `judge` is `none`, or where it is to be
    trained and no column names two entities or more.

    `judge`: `train` (on all of `pictures`, cached by their content), `none`, or a trained judge's directory.
    `style_judge`: a directory; None is trained with the judge, or the same as the judge where there is no column
    `style`. `entity_key`: the column that names the entity, None: found by `entity_draw.entity_key`. Raises:
    BowerbirdError when there is no such column.
    """
    if judge == "none":
        return None
    if judge != "train":
        return Judge(Path(judge)), Judge(style_judge or Path(judge))
    key = entity_draw.entity_key(pictures, entity_key)
    if key is None or len(set(pictures.column(key))) < 2:  # there is nothing to choose among
        return None
    recipe = judge_recipe()
    on_message(
        f"judging by the column {key!r}: a judge is trained on {len(pictures)} pictures, {recipe.train.steps} steps,"
        " once; the next time it is there"
    )
    style_key = "style" if all(pictures.column("style")) else key
    system = recipe.system.model_copy(update={"entity_key": key, "style_key": style_key})
    trained_judge = train_judge(
        recipe.model_copy(update={"system": system}), pictures, device=device, progress=progress
    )
    if style_judge is not None:
        return trained_judge, Judge(style_judge)
    if style_key != "style":
        return trained_judge, trained_judge
    return trained_judge, train_judge(style_judge_recipe(), pictures, device=device, progress=progress)
