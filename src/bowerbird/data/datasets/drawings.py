"""The data set of drawings: emoji in five styles and icons in fourteen, from the icon packages of the npm registry.

Only what stands in the bundled list is drawn (`drawings.csv.gz`: id and split, in the order of the rows). What the
packages hold besides is kept for final evaluation and left out.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_path
from bowerbird.core.progress import OnMessage, Progress, log_message
from bowerbird.data.datasets import svg
from bowerbird.data.datasets.npm import Package, fetch, read_members, registry_address

if TYPE_CHECKING:
    import pyarrow as pa

HERE = Path(__file__).parent
EMOJI = {
    "noto": "noto", "twemoji": "twemoji", "fluent": "fluent-emoji", "flat": "fluent-emoji-flat", "openmoji": "openmoji",
}  # fmt: skip
"""Emoji styles and the iconify set of each, in the order of the rows."""
ICONS = (
    "circle-flags", "fluent-color", "icon-park", "marketeq", "meteocons", "noto-v1", "streamline-color",
    "streamline-cyber-color", "streamline-emojis", "streamline-flex-color", "streamline-freehand-color",
    "streamline-kameleon-color", "streamline-plump-color", "streamline-ultimate-color",
)  # fmt: skip
"""Icon styles, each called as its iconify set, in the order of the rows."""
STYLES = (*EMOJI, *ICONS)
NAMES = "emojibase-data"
"""The package of the emoji's names, tags and groups."""
CHARS_OF = {"fluent": "flat"}
"""A style whose package does not say which emoji an icon is, and the one that does; both call their icons the same."""
ROW_GROUP = 512


@dataclass(frozen=True)
class Listed:
    """A drawing that may be made: its `id`, `style/name`, and its `split`."""

    id: str
    split: str

    @property
    def style(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The part after it: an emoji's hexcode (lower case, no fe0f) or an icon's name."""
        return self.id.partition("/")[2]


def read_list(path: Path = HERE / "drawings.csv.gz") -> list[Listed]:
    """The bundled list of what may be drawn, in the order of the rows."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [Listed(*row) for row in csv.reader(file)]


def pinned_packages(path: Path = HERE / "packages.json") -> dict[str, Package]:
    """The packages by name, each with the version and the hash it is held to."""
    table = json.loads(path.read_text())
    return {name: Package(name, entry["version"], entry["integrity"]) for name, entry in table.items()}


def package_of(style: str) -> str:
    """The package that the pictures of `style` come from."""
    return f"@iconify-json/{EMOJI.get(style, style)}"


def parse_styles(text: str | None) -> tuple[str, ...]:
    """The styles of a list with commas, in the order of the rows; all for None. `emoji` and `icons` stand for theirs.

    Raises: BowerbirdError for one that is not known, or for none.
    """
    if text is None:
        return STYLES
    chosen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part not in (*STYLES, "emoji", "icons"):
            raise BowerbirdError(f"`styles` {part!r} is not known; choose of emoji, icons, {', '.join(STYLES)}")
        chosen.update({"emoji": tuple(EMOJI), "icons": ICONS}.get(part, (part,)))
    if not chosen:
        raise BowerbirdError(f"`styles` {text!r} names none; leave it out for all, or choose of {', '.join(STYLES)}")
    return tuple(style for style in STYLES if style in chosen)


def schema() -> pa.Schema:
    """The columns: what is drawn, its `license` (SPDX) and `attribution`, and the picture as lossless WebP."""
    import pyarrow as pa

    texts = ("id", "style", "hexcode", "name", "tags", "group", "subgroup", "split", "license", "attribution")
    fields = [(name, pa.list_(pa.string()) if name == "tags" else pa.string()) for name in texts]
    return pa.schema([*fields, ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])


def build(
    out: str | Path,
    *,
    styles: Sequence[str] = STYLES,
    registry: str | None = None,
    packages: Path | None = None,
    entries: Iterable[Listed] | None = None,
    table: dict[str, Package] | None = None,
    on_message: OnMessage = log_message,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the drawings of `styles` to the parquet file `out`, which is replaced as a whole at the end.

    `registry` and `packages` say where the packages come from (`npm.fetch`). `entries` and `table` stand in for the
    bundled list and the pinned packages. `on_message` hears of each style; `progress` counts the
    bytes of a package and the pictures of a style, each a stage by its name.

    Returns: a report with `out`, `rows`, `styles` and `splits` (rows each), `licenses`, `packages` (versions) and
    `missing`, the listed ids that a package lacks.

    Raises: BowerbirdError when a package cannot be had or is not the pinned one, or when resvg-py is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    svg.draw('<svg xmlns="http://www.w3.org/2000/svg"/>')  # before anything is downloaded
    registry_address(registry)
    if packages is not None and not packages.is_dir():
        raise BowerbirdError(f"`packages` {packages}: no folder; make it, and fill it with npm pack")
    wanted: dict[str, list[Listed]] = {style: [] for style in styles}
    for entry in read_list() if entries is None else entries:
        if entry.style in wanted:
            wanted[entry.style].append(entry)
    report: dict[str, Any] = {
        "out": str(out),
        "rows": 0,
        "styles": {},
        "splits": {},
        "licenses": {},
        "packages": {},
        "missing": [],
    }
    with tempfile.TemporaryDirectory(prefix="bowerbird-") as folder, atomic_path(out) as temporary:
        source = _Source(Path(folder), pinned_packages() if table is None else table, registry, packages, progress)
        with pq.ParquetWriter(temporary, schema(), compression="none") as writer:
            for style, own in wanted.items():
                on_message(f"{style}: {len(own)} pictures of {source.table[package_of(style)]}")
                rows: list[dict[str, Any]] = []
                for done, row in enumerate(_rows(style, own, source, report), 1):
                    rows.append(row)
                    if progress is not None:
                        progress(done, len(own), style)
                    if len(rows) == ROW_GROUP:
                        writer.write_table(pa.Table.from_pylist(rows, schema()))
                        rows = []
                    _count(report, row)
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema()))
        report["packages"] = dict(sorted(source.versions.items()))
    return report


class _Source:
    """Documents of the pinned packages, each tarball fetched once and in a folder that goes away."""

    def __init__(
        self,
        folder: Path,
        table: dict[str, Package],
        registry: str | None,
        packages: Path | None,
        progress: Progress | None,
    ) -> None:
        self.folder, self.table, self.registry, self.packages, self.progress = (
            folder,
            table,
            registry,
            packages,
            progress,
        )
        self.versions: dict[str, str] = {}
        self._tarballs: dict[str, Path] = {}
        self._names: dict[str, dict[str, Any]] | None = None

    def read(self, name: str, *members: str) -> list[Any]:
        """JSON documents of a package, in the order asked for. Raises: BowerbirdError when one is not there."""
        package = self.table[name]
        if name not in self._tarballs:
            self._tarballs[name] = fetch(
                package, self.folder, registry=self.registry, packages=self.packages, progress=self.progress
            )
            self.versions[name] = package.version
        found = read_members(self._tarballs[name], members)
        lacking = [member for member in members if member not in found]
        if lacking:
            raise BowerbirdError(f"{package}: holds no {lacking[0]}; it is not the kind of package that was expected")
        return [found[member] for member in members]

    def emoji(self) -> dict[str, dict[str, Any]]:
        """Name, tags, group and subgroup of every emoji, by hexcode in lower case without fe0f."""
        if self._names is None:
            data, messages = self.read(NAMES, "en/data.json", "meta/groups.json")
            self._names = emoji_names(data, messages)
        return self._names


def emoji_names(data: list[dict[str, Any]], groups: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What emojibase says of each emoji and of its skin tones: `{hexcode: {name, tags, group, subgroup}}`.

    `data` is en/data.json and `groups` is meta/groups.json of emojibase-data. Where it says nothing, a text is empty.
    """
    found: dict[str, dict[str, Any]] = {}
    for base in data:
        for emoji in (base, *base.get("skins", [])):
            hexcode = "-".join(part for part in emoji["hexcode"].lower().split("-") if part != "fe0f")
            row = {
                "name": emoji["label"],
                "tags": sorted(emoji.get("tags", [])),
                "group": groups["groups"].get(str(emoji.get("group")), ""),
                "subgroup": groups["subgroups"].get(str(emoji.get("subgroup")), ""),
            }
            found.setdefault(hexcode, row)
    return found


def icon_name(style: str, name: str) -> str:
    """What an icon shows, in words: its name without sizes, then without one closing number, `flat` or `duo`.

    Example: `icon_name("streamline-color", "shopping-cart-1-flat")` is `shopping cart 1`.
    """
    without_sizes = re.sub(r"-(16|20|24|28|32|48)(?=-|$)", "", name)
    words = re.sub(r"-(\d+|flat|duo)$", "", without_sizes).replace("-", " ")
    return f"flag of {words}" if style == "circle-flags" else words


def attribution(info: dict[str, Any]) -> str:
    """The set, its author and its license in a line, with their addresses where info.json of the set gives them."""

    author, license_ = info["author"], info["license"]
    parts = ((f"{info['name']} by {author['name']}", author), (license_["title"], license_))
    return ", ".join(f"{text} ({of['url']})" if of.get("url") else text for text, of in parts)


def _rows(style: str, entries: list[Listed], source: _Source, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a style; ids that the package lacks go to the report."""
    icons, info = source.read(package_of(style), "icons.json", "info.json")
    of_style = {"license": info["license"]["spdx"], "attribution": attribution(info)}
    if style in EMOJI:
        (chars,) = source.read(package_of(CHARS_OF.get(style, style)), "chars.json")
        described = source.emoji()
    else:
        (metadata,) = source.read(package_of(style), "metadata.json")
        subgroups = {name: group for group, names in reversed(metadata.get("categories", {}).items()) for name in names}
    for entry in entries:
        if style in EMOJI:
            name, words = chars.get(entry.name), described.get(entry.name)
            hexcode = entry.name
        else:
            name, said = entry.name, icon_name(style, entry.name)
            group = {"group": info.get("category", ""), "subgroup": subgroups.get(name, "")}
            hexcode, words = said, {"name": said, "tags": sorted(set(said.split())), **group}
        drawn = svg.document(icons, name) if name is not None else None
        if drawn is None or words is None:
            report["missing"].append(entry.id)
            continue
        image = {"bytes": svg.encode(svg.draw(drawn)), "path": f"{entry.id}.webp"}
        yield {
            "id": entry.id,
            "style": style,
            "hexcode": hexcode,
            **words,
            "split": entry.split,
            **of_style,
            "image": image,
        }


def _count(report: dict[str, Any], row: dict[str, Any]) -> None:
    report["rows"] += 1
    report["licenses"][row["style"]] = row["license"]
    for key, of in (("style", "styles"), ("split", "splits")):
        report[of][row[key]] = report[of].get(row[key], 0) + 1
