"""`bowerbird export`: an RDM, or a base such as `tiny-sd`, for plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import DeviceOption, JsonOption, SeedOption, print_json, say
from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name, directory, or hub id of an RDM or a base.")],
    out: Annotated[Path, typer.Option("--out", help="Output directory of the pipeline.")],
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Export an RDM, or a base model, for diffusers without bowerbird.

    An RDM's pipeline takes the neighbors' embeddings instead of a prompt; the README.md it writes shows how. A base
    (`tiny-sd`) is written as it is, in half precision.

    Example: bowerbird export tiny-rdm --out tiny-rdm-diffusers
    """
    if out.exists():
        raise BowerbirdError(f"{out}: is there already; give another --out, or remove it")
    from bowerbird.cli.common import open_model
    from bowerbird.systems.grounded.wrapped import WrappedPipeline
    from bowerbird.systems.rdm.interop import plain_diffusers
    from bowerbird.systems.rdm.pipeline import RDMPipeline

    pipe = open_model(model, "cpu")
    if isinstance(pipe, WrappedPipeline):
        with files.atomic_directory(out) as folder:
            pipe.export(folder)
        if as_json:
            print_json({"out": str(out)})
        else:
            say(f"{out}: a {type(pipe.base).__name__} of diffusers")
        return
    if not isinstance(pipe, RDMPipeline):
        raise BowerbirdError(
            f"model {model!r} is {with_article(type(pipe).__name__)}; diffusers can run an RDM or a base, the others"
            " need what bowerbird adds"
        )
    plain_diffusers.export(pipe, out)
    if as_json:
        print_json({"out": str(out)})
    else:
        say(
            f"{out}: a StableDiffusionPipeline of diffusers, without text encoder and tokenizer; {out / 'README.md'}"
            " shows how"
        )
