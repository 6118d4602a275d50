"""What an injector is: the way in which one kind of base takes references, with what it can and cannot do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.systems.grounded.references import WHOLE, Reference

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from bowerbird.core.torch_file import Stored
    from bowerbird.systems.grounded.adapter_file import AdapterFacts, EncoderNeed
    from bowerbird.systems.grounded.bases import BaseFacts
    from bowerbird.systems.reference_settings import ReferenceSettings


@dataclass(frozen=True, kw_only=True)
class InjectorCapabilities:
    """What a way of taking references can do.

    `takes`: `embeds` (one vector a picture, which a knowledge base can hold), `tokens` (many vectors a picture, of the
    adapter's encoder) or `pictures`. `max_references`: None for any number. `weights`: whether each reference can count
    by its own. `regions`: each for a part of the picture. `layers`: names that `ReferenceSettings.layers` takes.
    `step_window`: for some of the steps alone. `scale`: more or less strongly. `pool`: tokens can be averaged.
    `mixed_batches`: pictures of different references in one batch. `needs_reference`: the base generates nothing
    without one.
    """

    takes: Literal["embeds", "tokens", "pictures"]
    max_references: int | None = None
    weights: bool = True
    regions: bool = False
    layers: tuple[str, ...] = ("all",)
    step_window: bool = False
    scale: bool = True
    pool: bool = False
    mixed_batches: bool = False
    needs_reference: bool = False


@dataclass(frozen=True)
class Injection:
    """References that are in a base: the arguments of its call, and what turns them on and off between steps."""

    call: dict[str, Any]
    switch: Callable[[bool], None] | None = None


@dataclass(frozen=True)
class Task:
    """What an injector is asked for: the prompt and references of each picture of a batch, all of one number of
    references, with equal weights and regions; the picture's size; how. `blank`: what the encoder makes of no picture,
    for the passes without references, where that is not zeros."""

    prompts: Sequence[str]
    references: Sequence[Sequence[Reference]]
    settings: ReferenceSettings
    height: int
    width: int
    blank: Tensor | None = None


class Injector(ABC):
    """One way of taking references, made for a base. It holds all that it adds; the base is changed inside
    `inject` alone, and is as it was afterwards, whatever happens.

    `kind`: its name, as records call it. `facts`: of its file, None for a base that takes pictures itself.
    """

    kind: ClassVar[str]

    def __init__(self, base: Any, facts: AdapterFacts | None = None) -> None:
        """Read its weights for `base`. Raises: BowerbirdError when they do not fit."""
        self.base, self.facts = base, facts

    @staticmethod
    def recognize(tensors: Mapping[str, Stored]) -> AdapterFacts | None:
        """What a file of these tensors is, None where it is not this injector's."""
        return None

    @staticmethod
    def refuse(base: BaseFacts) -> str | None:
        """Why this base cannot be served, None where it can."""
        return None

    @property
    @abstractmethod
    def capabilities(self) -> InjectorCapabilities:
        """What this way can do with this base."""

    @property
    def encoder(self) -> EncoderNeed | None:
        """The image encoder it needs, None for a base that reads pictures itself."""
        return None if self.facts is None else self.facts.encoder

    @property
    def reads_blank(self) -> bool:
        """Whether the passes without references read what the encoder makes of no picture, in place of zeros."""
        return False

    @abstractmethod
    def inject(self, task: Task) -> AbstractContextManager[Injection]:
        """A block in which the base attends to the references."""

    def prepare_picture(self, picture: Image.Image, fit: str) -> Image.Image:
        """A picture as the base reads it; one that is so already comes back the same."""
        return picture

    def describe(self) -> dict[str, Any]:
        """What a record says of it beside its file."""
        return {}

    def check(self, references: Sequence[Reference], settings: ReferenceSettings) -> None:
        """Raises: BowerbirdError for what this way cannot do."""
        can, name = self.capabilities, type(self.base).__name__
        if can.max_references is not None and len(references) > can.max_references:
            raise BowerbirdError(
                f"{len(references)} references, and {with_article(name)} by {self.kind} takes at most"
                f" {can.max_references}; choose fewer, by `k={can.max_references}` or `reference`"
            )
        if can.needs_reference and (not references or settings.scale == 0):
            raise BowerbirdError(
                f"{with_article(name)} edits pictures: give it a reference, from a knowledge base or `reference`, at"
                " a `scale` above 0"
            )
        if not can.weights and len({reference.weight for reference in references}) > 1:
            raise BowerbirdError(
                f"{with_article(name)} by {self.kind} gives all references the same weight; leave weights out"
            )
        if not can.regions and any(reference.region != WHOLE for reference in references):
            raise BowerbirdError(
                f"{with_article(name)} by {self.kind} knows no regions; give references for the whole picture"
            )
        if settings.layers not in can.layers:
            raise BowerbirdError(
                f"`layers={settings.layers}` is not known for {with_article(name)} by {self.kind}; choose"
                f" {' or '.join(can.layers)}"
            )
        if not can.step_window and not settings.whole_run:
            raise BowerbirdError(
                f"{with_article(name)} by {self.kind} reads its references in every step; leave `steps_from` and"
                " `steps_to` out"
            )
        if not can.pool and settings.pool != 1:
            raise BowerbirdError(f"{with_article(name)} by {self.kind} averages no tokens; leave `pool` out")
        if not can.scale and settings.scale not in (0.0, 1.0, type(settings).scale):
            raise BowerbirdError(
                f"{with_article(name)} by {self.kind} takes no `scale`: what a reference is for is said in the prompt"
            )


@dataclass
class Restored:
    """Attributes of objects that a block sets, put back as they were when it ends, last first."""

    _undo: list[Callable[[], None]] = field(default_factory=list)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute for the length of the block."""
        missing = object()
        before = getattr(owner, name, missing)
        own = name in vars(owner) or name in vars(owner).get("_modules", {})

        def undo() -> None:
            delattr(owner, name)  # a module keeps networks and other attributes in two places
            if own and before is not missing:
                setattr(owner, name, before)

        self._undo.append(undo)
        setattr(owner, name, value)

    def undo_by(self, undo: Callable[[], None]) -> None:
        """Something else to be done when the block ends."""
        self._undo.append(undo)

    def restore(self) -> None:
        """Put all back; the first error is raised when everything was tried."""
        first: Exception | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:  # the others are put back all the same
                first = first or error
        if first is not None:
            raise first


@contextmanager
def restoring() -> Iterator[Restored]:
    """A block whose changes by `Restored.set` are undone when it ends, also by an exception."""
    changes = Restored()
    try:
        yield changes
    finally:
        changes.restore()
