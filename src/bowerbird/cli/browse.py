"""`bowerbird kb list`, `show` and `sheet`: look at what a knowledge base holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import JsonOption, print_json, print_line, say
from bowerbird.cli.filling import KbArgument
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import shorten

if TYPE_CHECKING:
    from bowerbird.knowledge.base import KnowledgeBase

ACROSS = 8
"""Pictures in a row of a sheet."""
WhereOption = Annotated[
    str | None, typer.Option("--where", metavar="SQL", help="Only items that satisfy this condition.")
]


def list_items(
    kb: KbArgument,
    where: WhereOption = None,
    count: Annotated[int, typer.Option("-n", "--num-items", min=0, help="At most this many; 0 for all.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List items: id, file and caption.

    Example: bowerbird kb list my-kb --where "price > 20" -n 0
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    ids = opened.ids(where).tolist()
    shown = ids[: count or None]
    results = _describe(opened, shown)
    if as_json:
        print_json({"kb": str(kb), "version": opened.version, "items": len(ids), "results": results})
        return
    for facts in results:
        print_line(
            f"{facts['id']:>19}  {': '.join(part for part in (facts['path'], shorten(facts['caption'])) if part)}"
        )
    more = f"; {len(ids) - len(shown)} more: -n 0 lists all" if len(shown) < len(ids) else ""
    say(f"{kb}: {_counted(len(ids), where)}{more}")


def _counted(count: int, where: str | None) -> str:
    one = count == 1
    satisfy = "" if where is None else f" satisf{'ies' if one else 'y'} {where}"
    return f"{count} item{'' if one else 's'}{satisfy}"


def show(
    kb: KbArgument,
    item: Annotated[int, typer.Argument(metavar="ID", help="Id of an item, as printed by kb list and search.")],
    as_json: JsonOption = False,
) -> None:
    """Show everything about one item.

    Example: bowerbird kb show my-kb 4611686018427387904
    """
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    facts = _describe(opened, [item])[0] | {"picture": _picture(opened, item)}
    if as_json:
        print_json({"kb": str(kb), "version": opened.version, **facts})
        return
    picture = facts["picture"]
    lines = {"id": item, "file": facts["path"], "caption": facts["caption"]}
    if picture is not None:
        size = f"{picture['width']} x {picture['height']} pixels, " if "width" in picture else ""
        lines["picture"] = f"{picture['format']}, {size}{picture['bytes']:,} bytes"
    else:
        lines["picture"] = "none, an embedding only"
    width = max(len(name) for name in (*lines, *facts["metadata"]))
    for name, value in (lines | facts["metadata"]).items():
        print_line(f"{name:<{width}}  {value}")


def sheet(
    kb: KbArgument,
    out: Annotated[Path, typer.Argument(metavar="F.png", help="Image file to write.")],
    where: WhereOption = None,
    count: Annotated[int, typer.Option("-n", "--num-items", min=1, max=10_000, help="At most this many.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Write a contact sheet of items with their captions.

    Example: bowerbird kb sheet my-kb all.png --where "style = 'noto'"
    """
    from bowerbird.core import images
    from bowerbird.core.contact_sheet import labeled_grid
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    ids = opened.ids(where)
    if not len(ids):
        condition = "" if where is None else f" that satisfies --where {where!r}"
        raise BowerbirdError(f"{kb}: holds no item{condition}, so there is no sheet to write")
    rows = []
    for start in range(0, min(count, len(ids)), ACROSS):
        some = ids[start : min(start + ACROSS, count)]
        hits = opened.get(some.tolist())
        names = opened.names(some.tolist())
        words = [caption or name for caption, name in zip(hits.captions[0], names, strict=True)]
        rows.append((f"{start + 1} to {start + len(some)}", hits.images()[0], words))
    shown = min(count, len(ids))
    title = f"{Path(str(opened.path)).name}: {shown} of {len(ids)} items{'' if where is None else f' where {where}'}"
    images.write(labeled_grid(rows, title=title), out)
    if as_json:
        print_json({"kb": str(kb), "version": opened.version, "out": str(out), "shown": shown, "items": len(ids)})
    else:
        say(f"{out}: {shown} of {len(ids)} items" + ("; -n shows more" if shown < len(ids) else ""))


def _describe(kb: KnowledgeBase, ids: list[int]) -> list[dict[str, Any]]:
    """Id, caption, metadata and file of items."""
    hits = kb.get(ids)
    return [
        {"id": item, "caption": caption, "metadata": metadata, "path": name}
        for item, caption, metadata, name in zip(ids, hits.captions[0], hits.metadata[0], kb.names(ids), strict=True)
    ]


def _picture(kb: KnowledgeBase, item: int) -> dict[str, Any] | None:
    """Format, size and bytes of an item's picture; None where it has none."""
    import io

    from bowerbird.core import images
    from bowerbird.knowledge.export import suffix_of

    data = kb.store.pictures([item]).get(item)
    if data is None:
        return None
    facts: dict[str, Any] = {"format": suffix_of(data), "bytes": len(data)}
    with images.open_image(io.BytesIO(data)) as opened:
        return facts | {"width": opened.width, "height": opened.height}
