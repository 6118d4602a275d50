"""`bowerbird demo`: from nothing to a contact sheet, on any machine, without a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, print_json, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.cli.demo_rows import Base
    from bowerbird.knowledge.base import KnowledgeBase

MODEL, EDITOR = "reimagen-drawings", "tiny-instruct"
THINGS = ("avocado", "duck", "koala", "lollipop")
"""What is asked for: of the things that the collection has in both styles, those that came out best of twenty, looked
at one by one (docs/log.md)."""
STYLES = ("fluent", "icon-park")
"""The two databases that are exchanged: shaded pictures, and thick lines filled with blue."""
COLORS = ("blue telephone", "pink telephone", "blue candy")
"""The collection has four of each in four colors, and none of their names says one."""
EDITED_IN = "style = 'noto'"
EDITS = (
    ("violin", "make it a carrot"),
    ("hot beverage", "make it a honeybee"),
    ("duck", "make it blue"),
)
"""What is edited, among the pictures of `EDITED_IN`, and how: the first two of twelve that were looked at, the third of
six."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Output folder for the sheet and the knowledge bases.")] = Path(
        "demo"
    ),
    kb: Annotated[
        str | None, typer.Option("--kb", help="Your own knowledge base instead of the starter collection.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="A Re-Imagen model: a bundled name, or the directory of a trained one.")
    ] = MODEL,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Build, search and generate: one sheet shows all three.

    Uses the starter collection and takes about a minute; the sheet shows each picture beside its neighbors.

    Example: bowerbird demo --out demo
    """
    start = time.perf_counter()
    from bowerbird.cli import demo_rows
    from bowerbird.cli.common import open_model
    from bowerbird.core.outputs import check_folder
    from bowerbird.knowledge.base import KnowledgeBase

    check_folder(out)
    main = KnowledgeBase.open(kb) if kb is not None else _build(out / "kb")
    say(f"1. a knowledge base of {len(main)} pictures: {main.path}")
    own = kb is not None
    things = _captions(main, len(THINGS)) if own else THINGS
    found = main.search(text=things[0], k=min(4, len(main)))
    say(f'2. searched it for "{things[0]}": {", ".join(c for c in found.captions[0][:3] if c)} …')
    bases: list[Base] = [("your pictures", main)] if own else [(s, _build(out / f"kb-{s}", s)) for s in STYLES]
    pipe = open_model(model, device)
    rows = demo_rows.thing_rows(pipe, things, bases, seed)
    if own:
        becoming = [(things[0], f"replace it with {things[-1]}")]
        rows.append(demo_rows.edit_row(open_model(EDITOR, device), main, None, becoming, seed))
    else:
        rows.append(demo_rows.color_row(pipe, main, COLORS, seed))
        rows.append(demo_rows.edit_row(open_model(EDITOR, device), main, EDITED_IN, EDITS, seed))
    count = sum(row.generated for row in rows)
    say(f"3. generated {count} pictures: from words alone, from what was found, from another database; and edited some")
    sheet = out / "sheet.png"
    demo_rows.write(rows, sheet)
    seconds = time.perf_counter() - start
    if as_json:
        facts = {"out": str(out), "sheet": str(sheet), "kb": str(main.path), "items": len(main), "images": count}
        print_json({**facts, "seconds": round(seconds, 1)})
        return
    say(f"4. {sheet} shows each picture beside its neighbor ({seconds:.0f} s in all)")
    say("")
    say("Now with pictures of your own:")
    say("  bowerbird kb build my-kb FOLDER_OF_PICTURES")
    say('  bowerbird search my-kb --text "…" --sheet found.png')
    say(f'  bowerbird generate {MODEL} --kb my-kb --prompt "…" --out generated')


def _build(path: Path, style: str | None = None) -> KnowledgeBase:
    """The starter collection, or one style of it, as a knowledge base that credits its pictures."""
    from bowerbird.data.datasets.starter import CREDIT
    from bowerbird.knowledge.base import KnowledgeBase

    if path.exists():  # an earlier demo's; building is cheap, so it is opened only if it is whole
        return KnowledgeBase.open(path)
    return KnowledgeBase.build(path, "starter", where=style and f"style = '{style}'", credit=CREDIT)[0]


def _captions(kb: KnowledgeBase, most: int) -> tuple[str, ...]:
    """Captions of a knowledge base to ask for, evenly over its items."""
    import numpy as np

    every = kb.get(kb.ids()[:: max(1, len(kb) // 50)].tolist()).captions[0]
    captions = list(dict.fromkeys(caption for caption in every if caption.strip()))
    if not captions:
        raise BowerbirdError(
            f"{kb.path}: its pictures have no captions, and the demo asks in words; add .txt files beside them and"
            " build it again"
        )
    chosen = np.linspace(0, len(captions) - 1, min(most, len(captions))).astype(int)
    return tuple(captions[i] for i in chosen)
