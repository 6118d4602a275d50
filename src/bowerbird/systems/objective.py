"""What is trained: the contract between a system and the one training loop.

A system that learns gives four things, and names them in its `Registration` under the `kind` of its settings:

    class ToyConfig(ObjectiveConfig):            # its settings; stored in recipe.json
        kind: Literal["toy"] = "toy"
        width: int = 8

    class ToyObjective(Objective[ToyBatch]):     # its networks with their loss
        def batch(self, step, size, rank=0): ...
        def forward(self, batch): ...
        def export(self, out): ...

    def build(config: ToyConfig, pictures: Pictures, run: RunContext) -> ToyObjective: ...
    def sheet(objective: ToyObjective, path: Path) -> None: ...                             # where there is one to see

Knows no system and no loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

if TYPE_CHECKING:
    from bowerbird.data.pictures import Pictures

BatchT = TypeVar("BatchT", bound=Mapping[str, Any])
ConfigT = TypeVar("ConfigT", contravariant=True)
ObjectiveT = TypeVar("ObjectiveT", bound="Objective[Any]", covariant=True)
ShownT = TypeVar("ShownT", bound="Objective[Any]", contravariant=True)


class ObjectiveConfig(BaseModel):
    """The settings of what is trained: strict (an unknown key is an error) and frozen. A subclass gives `kind` its one
    value, by which a stored recipe finds the class again."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    kind: str


@dataclass(frozen=True)
class RunContext:
    """Where and with what a training is built: `seed` of weights and batches, the run's folder `out`, the torch
    `device`, and a folder `caches` in which trainings that differ in other things share latents (None: `out`).

    `database`: what is trained on, where an objective is built over pictures that are held out, to be scored by the
    weights of the trained one. A system that retrieves finds their neighbors in it too, and what depends on the
    pictures of a training (labels, a codebook) is taken from it.
    """

    seed: int
    out: Path
    device: str = "cpu"
    caches: Path | None = None
    database: Pictures | None = None


class Objective(nn.Module, ABC, Generic[BatchT]):
    """A network with its loss over one set of pictures.

    Its parameters that require gradients are trained, averaged and kept in the checkpoint; what is frozen is hidden
    from `nn.Module` in a tuple. Everything random comes from (seed, step, rank), so that a run that was cut and goes on
    is the run that was not cut.
    """

    @abstractmethod
    def batch(self, step: int, size: int, rank: int = 0) -> BatchT:
        """The batch of `size` items of a step (from 0) in process `rank`: tensors and plain values by name, on the CPU.

        It is made in a thread of its own while the step before computes, and depends on the arguments alone.
        """

    @abstractmethod
    def forward(self, batch: BatchT) -> Tensor:
        """The loss of a batch, whose tensors are on the device: a scalar."""

    def fault(self) -> str | None:
        """Why training on would only do harm, in words; None where it would not. Asked with the averaged weights before
        a checkpoint is written: where there is a reason the one before is kept, and training ends with that."""
        return None

    @abstractmethod
    def export(self, out: Path) -> None:
        """Write what was learned into the empty folder `out`, and leave the weights as they are: training may go on."""


class Build(Protocol[ConfigT, ObjectiveT]):
    """Makes the objective of a configuration over pictures: it opens the frozen networks that the configuration names,
    and takes what is costly from the cache."""

    def __call__(self, config: ConfigT, pictures: Pictures, run: RunContext, /) -> ObjectiveT: ...


class Preview(Protocol[ShownT]):
    """Draws a sheet of what the weights can do now and writes it to `path` (PNG)."""

    def __call__(self, objective: ShownT, path: Path, /) -> None: ...
