"""`bowerbird reproduce`: what the papers say, measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    bar_progress,
    print_json,
    print_line,
    progress_bar,
    say,
)
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.tensors import pick_device

if TYPE_CHECKING:
    from bowerbird.evaluation.claims.claim import Claim
    from bowerbird.evaluation.claims.experiment import Experiment


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Claims to measure; all when none is named.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the claims and what they say; measure none.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Drawings with the columns hexcode, style and split (required).")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option("--photos", help="Small photographs with a column label, for a second domain.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME=DIR", help="Directory of a model that is not bundled; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Output folder for claims.md, claims.json and plots.")] = Path(
        "claims"
    ),
    seeds: Annotated[int, typer.Option("--seeds", help="Number of seeds, from --seed on.", min=2)] = 3,
    steps: Annotated[
        int, typer.Option("--steps", help="Training steps of the networks that are compared.", min=1)
    ] = 500,
    pictures: Annotated[int, typer.Option("--pictures", help="Pictures per value.", min=20)] = 400,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most this many pictures of each kind.", min=200)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Reproduce the papers' claims.

    Measures effects with intervals, and says whether each claim holds. Trainings are cached: the first full run takes
    a night on two cores, later ones minutes.

    Example: bowerbird reproduce style --data drawings.parquet --out claims
    """
    from bowerbird.evaluation import claims

    claims.check_names(names or [])
    if listed:
        return _list(claims.load(names or []), as_json)
    if data is None:
        raise BowerbirdError(
            "reproduce needs drawings: give --data drawings.parquet; bowerbird datasets drawings --out drawings.parquet"
            " makes it"
        )
    from bowerbird.core.quiet import quiet_libraries
    from bowerbird.evaluation.claims.experiment import Settings
    from bowerbird.evaluation.claims.loading import load_experiment

    quiet_libraries()
    chosen = claims.load(names or [])
    given = dict(_place(text) for text in models or [])
    settings = Settings(seeds=tuple(range(seed, seed + seeds)), train_steps=steps, pictures=pictures)
    with progress_bar(as_json) as bar:
        experiment = load_experiment(
            data,
            photos,
            settings,
            limit=limit,
            device=pick_device(device),
            progress=bar_progress(bar, "working"),
            on_message=say,
        )
        experiment.models = given
        if not names:
            chosen = [claim for claim in chosen if _has_models(claim, experiment)]
        found = claims.run(chosen, experiment, out)
    if as_json:
        print_json({"out": str(out), "claims": found})
        return
    for document in found:
        print_line(f"{document['verdict']:13}  {document['name']}: {document['says']}")
    say(f"{out / 'claims.md'} shows effects and plots")


def _list(chosen: Sequence[Claim], as_json: bool) -> None:
    """Print what the claims say, and where."""
    if as_json:
        facts = ("name", "says", "source", "varies", "measures", "models")
        print_json({"claims": [{key: getattr(claim, key) for key in facts} for claim in chosen]})
        return
    for claim in chosen:
        print_line(f"{claim.name}: {claim.says} ({claim.source})")


def _place(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not equals or not name or not Path(place).is_dir():
        raise BowerbirdError(
            f"--model {text!r}: give NAME=DIR, the directory of a model, as tiny-instruct=runs/mine/model"
        )
    return name, place


def _has_models(claim: Claim, experiment: Experiment) -> bool:
    """Whether the models of a claim are there; that it is left out is said."""
    try:
        for name in claim.models:
            experiment.model(name)
    except BowerbirdError as error:
        say(f"{claim.name} is left out: {error}")
        return False
    return True
