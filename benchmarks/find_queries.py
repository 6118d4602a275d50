"""The queries of `find.py` and what answers them, out of what the drawings say of themselves: names, tags, styles,
splits and colors. By itself it shows some of each kind.

    python benchmarks/find_queries.py KB
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from PIL.Image import Image

from bowerbird.core.types import Neighbors
from bowerbird.data.color_words import NAMES, color_shares, has_color
from bowerbird.knowledge.search.words import words

K = 20
"""How many results of a query are looked at."""
LANGUAGES = ("de", "fr", "es", "ru", "ja", "zh", "ko", "th", "hi", "fi")
VENDORS = ("github", "iamcal", "joypixels")
"""Whose names for emoji are asked for: those of GitHub, Slack and JoyPixels."""
PROMPTS = (
    *("a photo of a {}", "{} in watercolor", "{}, studio lighting, 4k", "generate an image of {}"),
    *("a cute {} sticker", "{} on a white background, flat vector art"),
)
"""How people ask a generator for a thing."""
COMMON_TAG = (8, 60)
"""A tag of so many emoji stands for a kind of thing."""


@dataclass(frozen=True)
class Query:
    """A `text`, or the picture of a `row`, which is no answer itself; the rows that answer it; of two things the rows
    of each in `parts`."""

    relevant: frozenset[int]
    text: str = ""
    row: int = -1
    parts: tuple[frozenset[int], ...] = ()


Search = Callable[[Sequence[Query]], list[list[int]]]
"""The rows that are found for each of some queries, best first, at most `K`."""


@dataclass(frozen=True)
class Drawings:
    """What each row of a knowledge base of drawings says of itself."""

    names: list[str]
    tags: list[list[str]]
    codes: list[str]
    styles: list[str]
    rare: list[bool]

    def rows_by(self, values: Sequence[str]) -> dict[str, frozenset[int]]:
        """The rows of each value."""
        found: dict[str, set[int]] = {}
        for row, value in enumerate(values):
            found.setdefault(value, set()).add(row)
        return {value: frozenset(rows) for value, rows in found.items()}


def read_drawings(held: Neighbors) -> Drawings:
    """The drawings of a knowledge base, one row of neighbors."""

    def tags(facts: dict[str, Any]) -> list[str]:
        given = facts.get("tags") or []
        return given.split() if isinstance(given, str) else [str(tag) for tag in given]

    rows = held.metadata[0]
    return Drawings(
        names=list(held.captions[0]),
        tags=[tags(facts) for facts in rows],
        codes=[str(facts["hexcode"]) for facts in rows],
        styles=[str(facts.get("style", "")) for facts in rows],
        rare=[facts.get("split") == "rare" for facts in rows],
    )


def text_queries(
    drawings: Drawings, colored: Sequence[Query], vendors: Sequence[Query], count: int, *, seed: int = 0
) -> dict[str, list[Query]]:
    """Text to picture, by kind, at most `count` each: `names` that the bundled models were trained with, `unseen names`
    that they were not, names with a word that no other has, known ones in a prompt, mistyped ones, all tags of an emoji
    as its description, some of `colored` (a color and a tag) and of `vendors` (others' names), and two names. Another
    `seed` draws others."""
    rng = random.Random(seed)
    of_name, of_code = drawings.rows_by(drawings.names), drawings.rows_by(drawings.codes)
    unseen = {name for name, rare in zip(drawings.names, drawings.rare, strict=True) if rare}
    frequency = Counter(word for name in of_name for word in set(words(name)))
    uncommon = [name for name in sorted(of_name) if any(frequency[word] == 1 for word in words(name))]
    described = [(" ".join(drawings.tags[min(rows)]), rows) for rows in of_code.values() if drawings.tags[min(rows)]]
    known = rng.sample(sorted(of_name.keys() - unseen), min(count, len(of_name) - len(unseen)))
    pairs = [tuple(rng.sample(sorted(of_name), 2)) for _ in range(count)]
    by_name = {
        "names": known,
        "unseen names": rng.sample(sorted(unseen), min(count, len(unseen))),
        "rare words": rng.sample(uncommon, min(count, len(uncommon))),
    }
    kinds = {kind: [Query(of_name[name], name) for name in names] for kind, names in by_name.items()}
    asked = zip(known, cycle(PROMPTS))
    kinds["in a prompt"] = [Query(of_name[name], prompt.format(name)) for name, prompt in asked]
    kinds["mistyped names"] = [Query(of_name[name], wrong) for name in known if (wrong := mistype(name, rng))]
    kinds["tags"] = [Query(rows, text) for text, rows in rng.sample(described, min(count, len(described)))]
    kinds["color and tag"] = rng.sample(colored, min(count, len(colored)))
    kinds["others' names"] = rng.sample(vendors, min(count, len(vendors)))
    kinds["two things"] = [
        Query(of_name[a] | of_name[b], f"{a} and {b}", parts=(of_name[a], of_name[b])) for a, b in pairs
    ]
    return {kind: queries for kind, queries in kinds.items() if queries}


def picture_queries(drawings: Drawings, count: int) -> dict[str, list[Query]]:
    """Picture to picture: the same thing in another style, and other things in the same style."""
    rng = random.Random(1)
    of_code, of_style = drawings.rows_by(drawings.codes), drawings.rows_by(drawings.styles)
    several = [row for row, code in enumerate(drawings.codes) if len(of_code[code]) > 1]
    rows = rng.sample(several, min(count, len(several)))
    things = [Query(of_code[drawings.codes[row]] - {row}, row=row) for row in rows]
    alike = [Query(of_style[drawings.styles[row]] - of_code[drawings.codes[row]], row=row) for row in rows]
    return {
        "picture: same thing, other style": things,
        "picture: same style, other thing": [query for query in alike if query.relevant],
    }


def colored_queries(drawings: Drawings, pictures: Sequence[Image]) -> Iterator[Query]:
    """ "red fruit": drawings with the tag that are of the color, where others with it are not."""
    shares = [color_shares(picture) for picture in pictures]
    tagged: dict[str, set[int]] = {}
    for row, tags in enumerate(drawings.tags):
        for tag in tags:
            tagged.setdefault(tag.casefold(), set()).add(row)
    for tag, rows in sorted(tagged.items()):
        least, most = COMMON_TAG
        if tag in NAMES or not least <= len({drawings.codes[row] for row in rows}) <= most:
            continue
        for color in NAMES:
            of_it = frozenset(row for row in rows if has_color(shares[row], frozenset((color,))))
            if 0 < len(of_it) < len(rows) / 2:
                yield Query(of_it, f"{color} {tag}")


def vendor_queries(package: Path, drawings: Drawings) -> Iterator[Query]:
    """ "tada": what other vendors call an emoji, where these are not the words of its name."""
    rows_of: dict[str, set[int]] = {}
    for row, code in enumerate(drawings.codes):
        rows_of.setdefault(plain(code), set()).add(row)
    asked: dict[str, set[int]] = {}
    with tarfile.open(package) as archive:
        for vendor in VENDORS:
            file = archive.extractfile(f"package/en/shortcodes/{vendor}.json")
            for code, given in (json.load(file) if file is not None else {}).items():
                rows = rows_of.get(plain(code), set())
                names = {frozenset(words(drawings.names[row])) for row in rows}
                for text in [given] if isinstance(given, str) else given:
                    each = re.split("[_-]", text)
                    if rows and min(map(len, each)) > 2 and frozenset(words(" ".join(each))) not in names:
                        asked.setdefault(" ".join(each), set()).update(rows)
    yield from (Query(frozenset(rows), text) for text, rows in sorted(asked.items()))


def mistype(name: str, rng: random.Random) -> str | None:
    """A name with one mistake in its longest word; None where no word is long enough."""
    word = max(re.findall(r"[a-z]+", name), key=len, default="")
    if len(word) < 5:
        return None
    at, kind = rng.randrange(1, len(word) - 1), rng.randrange(4)
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    put = {0: letter + word[at], 1: "", 2: letter, 3: word[at + 1] + word[at]}[kind]
    return name.replace(word, word[:at] + put + word[at + (2 if kind == 3 else 1) :], 1)


def language_queries(package: Path, codes: list[str], count: int) -> Iterator[tuple[str, list[str], list[Query]]]:
    """Of each language the names of the emoji in it, and keywords of that language that stand in them."""
    with tarfile.open(package) as archive:
        for language in LANGUAGES:
            file = archive.extractfile(f"package/{language}/data.json")
            entries = json.load(file) if file is not None else []
            known = {plain(entry["hexcode"]): entry for entry in entries if entry.get("label")}
            some = [known[code] for code in sorted({plain(code) for code in codes}) if code in known]
            rows_of: dict[str, set[int]] = {}
            for row, entry in enumerate(some):
                for tag in entry.get("tags", ()):
                    if tag.casefold() in entry["label"].casefold():
                        rows_of.setdefault(tag, set()).add(row)
            asked = sorted(rows_of.items())
            asked = random.Random(0).sample(asked, min(count, len(asked)))
            yield language, [entry["label"] for entry in some], [Query(frozenset(r), tag) for tag, r in asked]


def plain(code: str) -> str:
    """A hexcode without the mark that asks for a colored picture, as not everybody writes it."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def main() -> None:
    from bowerbird import KnowledgeBase

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kb", help="a knowledge base of drawings, as find.py makes it")
    kb = KnowledgeBase.open(parser.parse_args().kb)
    held = kb.get(kb.ids().tolist())
    drawings = read_drawings(held)
    pictures = [picture for picture in held.images()[0] if picture is not None]
    colored = list(colored_queries(drawings, pictures))
    for kind, queries in {**text_queries(drawings, colored, (), 6), **picture_queries(drawings, 6)}.items():
        print(f"{kind}:")
        for query in queries:
            asked = repr(query.text) if query.text else f"the picture of {drawings.names[query.row]!r}"
            print(f"    {asked}, {len(query.relevant)} answers")


if __name__ == "__main__":
    main()
