"""`bowerbird datasets …`: data that anyone can make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import JsonOption, bar_progress, print_json, print_line, progress_bar, say
from bowerbird.core.text import in_shell

StylesOption = Annotated[
    str | None,
    typer.Option("--styles", metavar="A,B", help="Some of the 19, as noto,twemoji; or all emoji, all icons."),
]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", metavar="URL", help="npm registry; else $NPM_CONFIG_REGISTRY, else as npm is set up."),
]
PackagesOption = Annotated[
    Path | None,
    typer.Option("--packages", metavar="DIR", help="Folder of tarballs as npm pack writes them: used where there."),
]

app = typer.Typer(help="Make data sets from what is published.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def datasets() -> None:
    """Make data sets from what is published."""


@app.command("drawings")
def drawings(
    out: Annotated[Path, typer.Option("--out", metavar="F.parquet", help="File to write; one there is replaced.")],
    styles: StylesOption = None,
    registry: RegistryOption = None,
    packages: PackagesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the data set of drawings: 21,630 emoji and icons of 19 styles, 128 px, with names, splits and licenses.

    Packages are pinned and checked by hash (33 MB); drawing takes two minutes. Needs: pip install 'bowerbird[data]'.

    Example: bowerbird datasets drawings --out drawings.parquet
    """
    from bowerbird.data.datasets.drawings import build, parse_styles

    chosen = parse_styles(styles)
    with progress_bar(as_json) as bar:
        on_message = bar.console.print if bar.console.is_terminal else say
        report = build(
            out,
            styles=chosen,
            registry=registry,
            packages=packages,
            on_message=on_message,
            progress=bar_progress(bar, "drawing"),
        )
    if as_json:
        print_json(report)
        return
    for style, rows in report["styles"].items():
        print_line(f"{style:26} {rows:6,}  {report['licenses'][style]}")
    splits = ", ".join(f"{split} {rows:,}" for split, rows in report["splits"].items())
    print_line(f"{out}: {report['rows']:,} pictures of {len(report['styles'])} styles ({splits})")
    if report["missing"]:
        say(f"{len(report['missing'])} listed drawings are not in their packages, the first {report['missing'][0]}")


@app.command("starter")
def starter(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the pictures.")],
    as_json: JsonOption = False,
) -> None:
    """Write the collection that travels with the package: 301 drawings of things no bundled model was trained on.

    Four styles under MIT and Apache-2.0; metadata.csv says whose each is. kb build reads it by the name starter, too.

    Example: bowerbird datasets starter --out starter
    """
    from bowerbird.data.datasets.starter import CREDIT, unpack

    unpack(out)
    pictures = sum(1 for _ in out.glob("*/*.png"))
    if as_json:
        print_json({"out": str(out), "pictures": pictures, "credit": list(CREDIT)})
        return
    print_line(f"{out}: {pictures} pictures, metadata.csv and LICENSE")
    say(f"bowerbird kb build my-kb {in_shell(out)} --credit {','.join(CREDIT)}")
