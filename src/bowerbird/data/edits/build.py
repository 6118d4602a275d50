"""All edits that a training is shown, and those that are held out: the same for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bowerbird.core import seeds
from bowerbird.data.edits.pair import Edits
from bowerbird.data.edits.scenes import add_scenes
from bowerbird.data.edits.variants import add_variants, find_variants, plain
from bowerbird.data.edits.varied import vary_surroundings
from bowerbird.data.edits.whole import add_becoming, add_wholes
from bowerbird.data.edits.wordings import is_held_out
from bowerbird.data.pictures import Pictures
from bowerbird.data.scenes.vocabulary import Vocabulary, build_vocabulary


@dataclass(frozen=True)
class EditSettings:
    """How many edits: at most `each` of each kind of variant, `wholes` of whole drawings, `becoming` of any drawing
    into any other, `per_scene` of each of `scenes`; scenes are of `names` things in `styles` (all when empty), and
    nothing in the groups `own_colors` changes its color. Of the edits on white a share of `grounds` is on another light
    color, and of those of a whole drawing a share of `placed` has it smaller somewhere. The keys name columns."""

    each: int
    wholes: int
    scenes: int
    per_scene: int
    names: int
    styles: Sequence[str] = ()
    style_key: str | None = None
    group_key: str | None = None
    kind_key: str | None = None
    own_colors: Sequence[str] = ()
    grounds: float = 0.0
    placed: float = 0.0
    becoming: int = 0


def build_edits(settings: EditSettings, pictures: Pictures, seed: int) -> tuple[Edits, Edits, Vocabulary]:
    """What is trained on, what is held out (names that no trained edit has), and the vocabulary that both are rendered
    with, a row a picture."""
    options = {
        "style_key": settings.style_key, "styles": settings.styles, "group_key": settings.group_key,
        "own_colors": settings.own_colors,
    }  # fmt: skip
    known = build_vocabulary(pictures, settings.names, **options)  # type: ignore[arg-type]
    parts = {held: [name for name in known.known if is_held_out(name) == held] for held in (False, True)}
    variants = find_variants(pictures, style_key=settings.style_key, group_key=settings.kind_key)
    names = [plain(caption) for caption in pictures.captions]
    styles = pictures.column(settings.style_key) if settings.style_key else [""] * len(pictures)
    found = []
    for held in (False, True):
        words = build_vocabulary(pictures, 0, names=parts[held], **options)  # type: ignore[arg-type]
        edits, own = Edits(), seeds.derive(seed, "edits", int(held))
        share = 8 if held else 1  # of what is held out a part is enough to look at
        each = max(1, settings.each // share)
        add_variants(edits, variants, pictures, each, own, style_key=settings.style_key, held_out=held)
        if len(words):
            rows = list(words.rows)
            whole = _per_picture(words, pictures)
            add_wholes(edits, whole, rows, settings.wholes // share, own)
        add_scenes(edits, words, settings.scenes // share, settings.per_scene, own)
        drawn = [row for row, name in enumerate(names) if name and is_held_out(name) == held]
        add_becoming(edits, names, styles, drawn, settings.becoming // share, own)
        found.append(vary_surroundings(edits, settings.grounds, settings.placed, own))
    return found[0], found[1], _per_picture(known, pictures)


def _per_picture(vocabulary: Vocabulary, pictures: Pictures) -> Vocabulary:
    """`vocabulary` with a row for every picture; one that it lacks is known as a whole drawing alone."""
    at = {row: number for number, row in enumerate(vocabulary.rows)}
    size = pictures.size
    rows = range(len(pictures))

    def pick(values: Sequence[object], otherwise: object) -> tuple[object, ...]:
        return tuple(values[at[row]] if row in at else otherwise for row in rows)

    return Vocabulary(
        pick(vocabulary.names, ""),  # type: ignore[arg-type]
        pick(vocabulary.styles, ""),  # type: ignore[arg-type]
        tuple(rows),
        pick(vocabulary.boxes, (0, 0, size, size)),  # type: ignore[arg-type]
        pick(vocabulary.recolorable, False),  # type: ignore[arg-type]
    )
