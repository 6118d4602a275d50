"""Which rerankers there are, by the name that `--rerank` and `rerank=` take; a new one is one line of `BUILT_IN`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

from bowerbird.core.errors import BowerbirdError
from bowerbird.knowledge.rerank.protocol import Reranker

BUILT_IN: Mapping[str, str] = {
    "auto": "bowerbird.knowledge.rerank.color:ColorReranker",
    "color": "bowerbird.knowledge.rerank.color:ColorReranker",
    "late": "bowerbird.knowledge.rerank.late:LateReranker",
}
"""By name the class, made without arguments when it is asked for. `auto` is what generation does where nothing else is
asked for."""
NONE = "none"
"""What the search itself finds, and nothing else."""
NAMES = ("auto", NONE, *(name for name in BUILT_IN if name != "auto"))

Rerank = str | bool | Reranker
"""A name of `NAMES`, or a reranker of one's own; True is `auto` and False `none`, as requests and files say it."""


def check_rerank(given: str | bool) -> str:
    """The name of a reranker, as `NAMES` has it. Raises: BowerbirdError for one that is not known."""
    return _known(given if isinstance(given, str) else "auto" if given else NONE)


def _known(name: str, otherwise: str = "") -> str:
    if name not in NAMES:
        raise BowerbirdError(f"`rerank` {name[:100]!r} is not known; choose one of {', '.join(NAMES)}{otherwise}")
    return name


def open_reranker(given: str) -> Rerank:
    """A name of `NAMES`, or the trained reranker in the directory `given`: for whoever may name files of this machine,
    as the command line may. Raises: BowerbirdError where it is neither."""
    if given in NAMES or not (os.sep in given or Path(given).is_dir()):
        return _known(given, " or the directory of one that was trained: bowerbird train reranker")
    from bowerbird.knowledge.rerank.learned import LearnedReranker

    return LearnedReranker(Path(given))


def load_reranker(given: Rerank) -> Reranker | None:
    """What `given` names; None for `none`. Raises: BowerbirdError for a name that is not known."""
    if not isinstance(given, str | bool):
        return given
    name = check_rerank(given)
    if name == NONE:
        return None
    module, _, attribute = BUILT_IN[name].partition(":")
    found: Reranker = getattr(importlib.import_module(module), attribute)()
    return found


def rerank_name(given: Rerank, *, pictures: bool = False) -> str:
    """What results and records call what `given` does to queries that are texts, or `pictures`."""
    reranker = load_reranker(given)
    return NONE if reranker is None or (pictures and not reranker.reads_pictures) else reranker.name
