"""`bowerbird demo`: from nothing to a contact sheet, on any machine, without a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, print_json, say
from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems.base import System


ACROSS = 5
"""Pictures generated a line."""
RARE = ("amphora", "lollipop", "bagel", "carpentry saw", "playground slide", "ladybird")
"""Things that no bundled model was trained on: in an emoji font, and the last in the drawn collection."""


EDITS = (("grinning face", "face with sunglasses"), ("cat", "lion"), ("red apple", "green apple"))
"""A picture to edit and what it is to become, the first pair that the collection knows."""


@dataclass(frozen=True)
class Row:
    """One line of the sheet: what was asked, the pictures generated with a word under each, the neighbors they came
    from."""

    label: str
    images: list[Image.Image]
    neighbors: Neighbors
    notes: tuple[str, ...] = ()


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheet and the knowledge bases.")] = Path("demo"),
    kb: Annotated[
        str | None, typer.Option("--kb", help="A knowledge base of your own instead of the demo's collection.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Collect, search and generate: one sheet shows it all.

    Makes a collection on the spot, in about a minute; every picture stands beside its neighbors.

    Example: bowerbird demo --out demo
    """
    start = time.perf_counter()
    from bowerbird.cli.common import open_model
    from bowerbird.core.outputs import check_folder
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import generation

    check_folder(out)
    main, swaps = (KnowledgeBase.open(kb), []) if kb is not None else _collections(out)
    say(f"1. a knowledge base of {len(main)} pictures: {main.path}")
    words = _subjects(main)
    found = main.search(text=words[0], k=min(4, len(main)))
    say(f'2. searched it for "{words[0]}": {", ".join(c for c in found.captions[0][:3] if c)} …')
    pipe = open_model("tiny-rdm", device)
    settings = generation.Settings(seed=seed, guidance_scale=4.0)
    rows = _generate(pipe, main, words, settings) + _swap(pipe, swaps, words[0], settings)
    rows += _balance(open_model("tiny-reimagen", device), main, words, seed)
    rows += _text_and_edit(open_model("tiny-knn", device), main, words, seed)
    count = sum(len(row.images) for row in rows)
    say(
        f"3. generated {count} pictures: from words, a picture, nothing, exchanged databases, from pictures themselves;"
        " and edited one"
    )
    sheet = out / "sheet.png"
    _write(rows, found, words[0], sheet)
    seconds = time.perf_counter() - start
    if as_json:
        print_json(
            {
                "out": str(out),
                "sheet": str(sheet),
                "kb": str(main.path),
                "items": len(main),
                "images": sum(len(r.images) for r in rows),
                "seconds": round(seconds, 1),
            }
        )
        return
    say(f"4. {sheet} shows each picture beside its neighbors ({seconds:.0f} s in all)")
    say("")
    say("Now with pictures of your own:")
    say("  bowerbird kb build my-kb FOLDER_OF_PICTURES")
    say('  bowerbird search my-kb --text "…" --sheet found.png')
    say('  bowerbird generate tiny-rdm --kb my-kb --prompt "…" --out generated')


def _collections(out: Path) -> tuple[KnowledgeBase, list[tuple[str, KnowledgeBase]]]:
    """The demo's collection, and databases of one style each to exchange it for."""
    from bowerbird.data.emoji_font import find_emoji_font
    from bowerbird.knowledge.base import KnowledgeBase

    def made(name: str, source: str, where: str | None = None) -> KnowledgeBase:
        path = out / name
        if path.exists():  # an earlier demo's; building is cheap, so it is opened only if it is whole
            return KnowledgeBase.open(path)
        return KnowledgeBase.build(path, source, where=where)[0]

    swaps = [(style, made(f"kb-{style}", "drawn", f"style = '{style}'")) for style in ("flat", "ink")]
    if find_emoji_font() is not None:
        try:
            font = made("kb", "emoji-font")
            return font, [("emoji font", font), swaps[1]]
        except BowerbirdError as error:
            say(f"(the machine's emoji font was left aside: {error})")
    return made("kb", "drawn"), swaps


def _subjects(kb: KnowledgeBase) -> list[str]:
    """Three things to ask for: the demo's own where the collection knows them, else captions it holds."""
    import numpy as np

    wanted = [w for w in ("red apple", "butterfly", "cat") if kb.search(text=w, k=1, mode="bm25").mask.any()]
    captions = [c for c in kb.get(kb.ids()[:: max(1, len(kb) // 50)].tolist()).captions[0] if c.strip()]
    others = [captions[i] for i in np.linspace(0, len(captions) - 1, 3).astype(int)] if captions else []
    subjects = (wanted + others)[:3]
    if not subjects:
        raise BowerbirdError(
            f"{kb.path}: its pictures have no captions, and the demo asks in words; add .txt files beside them and"
            " build it again"
        )
    return subjects


def _generate(pipe: System, kb: KnowledgeBase, words: list[str], settings: object) -> list[Row]:
    """From words (three prompts), from a picture, unconditionally."""
    from bowerbird.systems import generation
    from bowerbird.systems.queries import Request

    assert isinstance(settings, generation.Settings)
    k = min(2, len(kb))  # the demo's names fit two pictures each, one in either style
    asked = [(f'words: "{word}"', pipe.retrieve(Request(prompts=(word,), k=k), kb, ACROSS)) for word in words]
    picture = kb.search(text=words[-1], k=1).images()[0][0]
    assert picture is not None
    asked.append(
        (
            "a picture (the first beside the line's neighbors)",
            pipe.retrieve(Request(images=(picture,), k=k, image_mode="neighbors"), kb, ACROSS),
        )
    )
    counts = kb.proposal(k=min(4, len(kb) - 1)) if len(kb) > 1 else {}
    asked += [
        (
            "nothing: a draw from p_D",
            pipe.retrieve(Request(unconditional=True, k=k), kb, 1, seed=i, proposal=counts).repeat(ACROSS),
        )
        for i in range(2)
    ]
    return [Row(label, generation.generate(pipe, hits, settings), hits) for label, hits in asked]


def _swap(pipe: System, swaps: list[tuple[str, KnowledgeBase]], word: str, settings: object) -> list[Row]:
    """The same prompt and seeds from databases of different style."""
    from bowerbird.systems import generation
    from bowerbird.systems.queries import Request

    assert isinstance(settings, generation.Settings)
    rows = []
    for style, kb in swaps:
        hits = pipe.retrieve(Request(prompts=(word,), k=1), kb, ACROSS)
        rows.append(Row(f'"{word}" from the database "{style}"', generation.generate(pipe, hits, settings), hits))
    return rows


def _balance(pipe: System, kb: KnowledgeBase, words: list[str], seed: int) -> list[Row]:
    """Re-Imagen on a thing it was not trained on: no neighbor to four of them, then all neighbors to all text."""
    from dataclasses import replace

    from bowerbird.core.types import Neighbors
    from bowerbird.diffusion.guidance import Guidance
    from bowerbird.systems import generation
    from bowerbird.systems.queries import Request

    word = next((w for w in RARE if _knows(kb, w)), words[-1])
    most = min(ACROSS - 1, len(kb))
    hits = pipe.retrieve(Request(prompts=(word,), k=most, search_mode="bm25"), kb)
    settings = generation.Settings(seed=seed)
    by_k = [Neighbors.empty([word]), *(hits.select(list(range(k))) for k in range(1, most + 1))]
    first = [generation.generate(pipe, each, settings)[0] for each in by_k]
    styled = replace(hits.select([0]), queries=(f"{word}, flat style",))
    ratios = [i / (ACROSS - 1) for i in range(ACROSS)]
    second = [
        generation.generate(pipe, styled, replace(settings, guidance=Guidance("interleaved", 4.0, 4.0, ratio)))[0]
        for ratio in ratios
    ]
    return [
        Row(
            f'Re-Imagen, "{word}": from 0 to {most} of the pictures its words find',
            first,
            hits,
            tuple(f"{k}" for k in range(most + 1)),
        ),
        Row(
            f'Re-Imagen, "{word}, flat style": from neighbor to text',
            second,
            styled,
            tuple(f"text ratio {ratio:g}" for ratio in ratios),
        ),
    ]


def _knows(kb: KnowledgeBase, word: str) -> bool:
    """Whether the collection has a picture that is called so."""
    found = kb.search(text=word, k=1, mode="bm25")
    return bool(found.mask.any()) and word in found.captions[0][0]


def _text_and_edit(pipe: System, kb: KnowledgeBase, words: list[str], seed: int) -> list[Row]:
    """KNN-Diffusion: a text without and with what it finds; then a picture edited by a text, from little to much."""
    from dataclasses import replace

    from bowerbird.core.contact_sheet import difference
    from bowerbird.systems import generation
    from bowerbird.systems.queries import Request

    word = next((w for w in RARE if _knows(kb, w)), words[-1])
    most = min(ACROSS - 1, len(kb))
    hits = pipe.retrieve(Request(prompts=(word,), k=most, search_mode="bm25"), kb)  # the text's own embedding first
    settings = generation.Settings(seed=seed)
    first = [generation.generate(pipe, hits.select(list(range(1 + k))), settings)[0] for k in range(most + 1)]
    was, becomes = next(((a, b) for a, b in EDITS if _knows(kb, a) and _knows(kb, b)), (words[0], words[-1]))
    source = kb.search(text=was, k=1, mode="bm25").images()[0][0]
    assert source is not None
    asked = pipe.retrieve(Request(prompts=(becomes,), k=min(2, len(kb)), search_mode="bm25"), kb)
    strengths = (0.6, 0.8, 1.0)
    second = [generation.generate(pipe, asked, replace(settings, strength=s), sources=[source])[0] for s in strengths]
    notes = ("source", *(f"strength {s:g}" for s in strengths), "difference")
    label = f'KNN-Diffusion, "{word}": the text, with 0 to {most} of what it finds'
    return [
        Row(label, first, hits.select(list(range(1, most + 1))), tuple(map(str, range(most + 1)))),
        Row(
            f'edit without a mask: "{was}" to "{becomes}"',
            [source, *second, difference(source, second[-1])],
            asked.select([1, 2][: asked.k - 1]),
            notes,
        ),
    ]


def _write(rows: list[Row], found: Neighbors, word: str, path: Path) -> None:
    """The contact sheet: what the search found, then every generated row, with what comes from the database
    right of the line."""
    from bowerbird.core.contact_sheet import labeled_grid
    from bowerbird.core.files import atomic_path

    lines = [(f'search: "{word}"', [None] * ACROSS + found.images()[0], [""] * ACROSS + list(found.captions[0]))]
    for row in rows:
        near, empty = row.neighbors.rows([0]), ACROSS - len(row.images)
        notes = [*row.notes, *[""] * (ACROSS - len(row.notes))]
        lines.append((row.label, [*row.images, *[None] * empty, *near.images()[0]], notes + list(near.captions[0])))
    with atomic_path(path) as temporary:
        labeled_grid(
            lines,
            title="bowerbird: generated (left of the line) from pictures of the database (right of it)",
            divide=ACROSS,
        ).save(temporary, "PNG")
