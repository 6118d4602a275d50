"""What an evaluation does: which pictures are generated, which metrics are taken, and on what they depend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.evaluation import set_measures
from bowerbird.evaluation.copies import detect
from bowerbird.systems import generation

if TYPE_CHECKING:
    from bowerbird.systems.base import System

QUERIES = ("caption", "image", "unconditional")


@dataclass(frozen=True)
class Settings:
    """What an evaluation does; every one of these moves a figure and stands in the report. `n`: pictures of the set
    measures; `repeats`: pictures a prompt of EntityDraw; `metrics`: of `parse_metrics`, None for all."""

    n: int = 500
    query: str = "caption"
    k: int = 4
    repeats: int = 4
    templates: tuple[str, ...] = ("{name}",)
    entity_key: str | None = None
    style_key: str | None = "style"
    manifold_k: int = 5
    baseline: int = 300
    copies_per_kind: int = detect.COPIES_PER_KIND
    metrics: tuple[str, ...] | None = None
    generate: generation.Settings = field(default_factory=generation.Settings)


def default_settings(pipe: System, **changes: Any) -> Settings:
    """The settings that `pipe` is evaluated with: its own k and its own settings of generation; `changes` replace
    fields of them."""
    return replace(Settings(k=pipe.defaults.k, generate=generation.default_settings(pipe)), **changes)


PARTS = ("inception-score", "faithfulness", "clip-score", "hubness", "copies", "likelihood")
"""Measures that are not of sets alone."""


def parse_metrics(text: str | None) -> tuple[str, ...] | None:
    """The names in a text such as "fid,kid", or None for all. Raises: BowerbirdError for a name that is none."""
    if text is None:
        return None
    known = [*set_measures.names(), *PARTS]
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    wrong = [name for name in found if name not in known]
    if wrong or not found:
        raise BowerbirdError(
            f"`metrics` {wrong[0] if wrong else text!r}: there is no such metric; choose from {','.join(known)}"
        )
    return found


WITHOUT_SAMPLES = {"hubness", "likelihood", "faithfulness"}
"""Measures that look at none of the `n` pictures: of the knowledge base, of real pictures, and of pictures of their
own."""
JUDGED = {"faithfulness", "inception-score"}
"""Measures of what a judge says."""


def needs_judge(metrics: tuple[str, ...] | None) -> bool:
    """Whether these measures need a judge's verdicts; distances between sets are measured without one."""
    return metrics is None or bool(JUDGED & set(metrics))
