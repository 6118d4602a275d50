"""`bowerbird export`: an RDM for plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, print_json, say
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id of an RDM.")],
    out: Annotated[Path, typer.Option("--out", help="Output directory of the pipeline.")],
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Export an RDM for diffusers without bowerbird.

    The pipeline takes the neighbors' embeddings instead of a prompt; the README.md it writes shows how.

    Example: bowerbird export tiny-rdm --out tiny-rdm-diffusers
    """
    if out.exists():
        raise BowerbirdError(f"{out}: is there already; give another --out, or remove it")
    from bowerbird.cli.common import open_model
    from bowerbird.systems.rdm.interop import plain_diffusers
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    pipe = open_model(model, "cpu")
    if not isinstance(pipe, RDMPipeline):
        raise BowerbirdError(
            f"model {model!r} is {with_article(type(pipe).__name__)}; diffusers can run RDM alone, the others need"
            " what bowerbird adds"
        )
    plain_diffusers.export(pipe, out)
    if as_json:
        print_json({"out": str(out)})
    else:
        say(
            f"{out}: a StableDiffusionPipeline of diffusers, without text encoder and tokenizer; {out / 'README.md'}"
            " shows how"
        )
