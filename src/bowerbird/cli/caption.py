"""`bowerbird caption`: say in words what pictures show, after pictures of a knowledge base that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SystemOption,
    open_model,
    print_json,
    print_line,
    show_progress,
)
from bowerbird.cli.filling import OpenEncoderOption
from bowerbird.core.errors import BowerbirdError


def caption(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Directory or hub id of a model that writes captions, such as tiny-racm3."
        ),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="F.png…", help="Images to describe.")],
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base to retrieve from.")] = None,
    encoder: OpenEncoderOption = None,
    k: Annotated[
        int | None, typer.Option("-k", "--num-neighbors", help="Neighbors shown before each image; 0 for none.", min=0)
    ] = None,
    best_of: Annotated[
        int, typer.Option("--best-of", help="Candidates; the most likely caption is printed.", min=1)
    ] = 1,
    seed: SeedOption = 0,
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Caption images, with names from a knowledge base.

    A thing that the model was not trained on is named as in the knowledge base. Prints FILE, a tab and the caption;
    with --json also the neighbors and the likelihood.

    Example: bowerbird caption runs/tiny-racm3/model photo.png --kb my-kb
    """
    if kb is None and k != 0:
        raise BowerbirdError("caption: give a knowledge base with --kb, or -k 0 for the picture alone")
    from bowerbird.core import images
    from bowerbird.knowledge.base import KnowledgeBase

    opened = KnowledgeBase.open(kb, encoder=encoder) if kb is not None else None
    pictures = [images.read(path) for path in files]
    pipe = open_model(model, device)
    found = []
    with show_progress("captioning", as_json, len(files)) as progress:
        for number, picture in enumerate(pictures, start=1):
            found.append(pipe.caption(picture, knowledge_base=opened, k=k, best_of=best_of, seed=seed))
            progress(number, len(files))
    if not as_json:
        for path, each in zip(files, found, strict=True):
            print_line(f"{path}\t{each.text}")
        return
    print_json(
        {
            "captions": [
                {
                    "file": str(path),
                    "caption": each.text,
                    "log_likelihood": round(each.log_likelihood, 6),
                    "neighbors": [
                        {"id": int(each.neighbors.ids[0, c]), "caption": each.neighbors.captions[0][c]}
                        for c in range(each.neighbors.k)
                        if each.neighbors.mask[0, c]
                    ],
                }
                for path, each in zip(files, found, strict=True)
            ]
        }
    )
