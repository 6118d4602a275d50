"""`bowerbird edit`: change what a text or a picture says in a picture, keep the rest; no mask is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SignCertOption,
    SignKeyOption,
    SystemOption,
    load_signer,
    open_model,
    others_given,
    say,
    show_progress,
    with_flags,
)
from bowerbird.cli.filling import OpenEncoderOption
from bowerbird.cli.generate_options import MinScoreOption
from bowerbird.cli.pictures import print_result, say_fewer, say_warnings, warn_of_copies
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article

if TYPE_CHECKING:
    from bowerbird.systems.base import System


def edit(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id of a model that edits.")
    ],
    image: Annotated[list[Path], typer.Option("--image", help="Image to edit; repeatable.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Output folder for pictures, sheet.png and generation.jsonl: new, or of an earlier run."
        ),
    ],
    kb: Annotated[
        str | None,
        typer.Option(
            "--kb", help="Knowledge base to retrieve from; with --instruction, for what the instruction names."
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option("--instruction", help="What to change, for a model that reads instructions, e.g. 'make it blue'."),
    ] = None,
    image_guidance: Annotated[
        float | None,
        typer.Option(
            "--image-guidance",
            help="With --instruction: guidance scale of the image, more keeps more of it; default 1.5.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="With --instruction: LoRA for the model; repeatable, several are summed.",
        ),
    ] = None,
    encoder: OpenEncoderOption = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What the edited image should show.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="F.png",
            help="Inpainting mask, for models such as tiny-racm3: white is replaced, the rest is kept.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Image of what the result should show, instead of --prompt; with --instruction: of what it names.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--num-neighbors",
            help="Neighbors of the prompt or reference; 0 for none; default: the model's.",
            min=0,
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--num-images", help="Edits per image.", min=1)] = 4,
    strength: Annotated[
        float,
        typer.Option("--strength", help="Share of the steps that are taken, above 0 and up to 1; less keeps more."),
    ] = 1.0,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            "--guidance-scale", help="Guidance scale of the prompt or instruction; 1 is off; default: the model's."
        ),
    ] = None,
    preservation: Annotated[
        float | None,
        typer.Option(
            "--preservation", help="How strongly everything else is pulled back to the source, 0 to 1; default 0.25."
        ),
    ] = None,
    change_threshold: Annotated[
        float | None,
        typer.Option(
            "--change-threshold",
            help="Changes below this are undone; 0 keeps all; default 0.6, or what an instruction's model says.",
            min=0.0,
        ),
    ] = None,
    img2img: Annotated[
        bool,
        typer.Option("--img2img", help="Plain image-to-image: only start from the image; needs a --strength below 1."),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Sampling steps; default 20, or one per token for token models.", min=1),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dpmsolver++, ddim or unipc; default: the model's.")
    ] = None,
    search_mode: Annotated[
        str | None,
        typer.Option(
            "--search-mode", help="hybrid (default), dense, bm25, captions or mixed; with --mask: the model's."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Retrieve only items that satisfy this condition.")
    ] = None,
    min_score: MinScoreOption = None,
    allow_no_neighbors: Annotated[
        bool, typer.Option("--allow-no-neighbors", help="Generate even if the search finds nothing.")
    ] = False,
    on_copy: Annotated[
        str,
        typer.Option(
            "--on-copy",
            help="What to do when a picture nearly copies a neighbor: warn, drop the neighbor, resample, or off.",
        ),
    ] = "warn",
    sign_cert: SignCertOption = None,
    sign_key: SignKeyOption = None,
    seed: SeedOption = 0,
    system: SystemOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Edit images by a prompt, reference, instruction or mask.

    Everything else is kept. The sheet shows each image, its edit, and where they differ.

    Example: bowerbird edit tiny-knn --kb my-kb --image face.png --prompt "face with sunglasses" --out edits

    Example: bowerbird edit tiny-instruct --image face.png --instruction "make it blue" --out edits
    """
    of_search = {"--where": where, "--min-score": min_score}
    if mask is not None:
        _check_mask(context, k, kb, prompt, of_search)
    else:
        _check_change(kb, prompt, reference, instruction, image_guidance)
        if instruction is not None:
            _check_instruction(context, kb)
        if kb is None and (unused := [flag for flag, value in of_search.items() if value is not None]):
            raise BowerbirdError(f"edit: {unused[0]} is about what a search finds; give a knowledge base with --kb")
    if img2img and strength >= 1:
        raise BowerbirdError("edit: --img2img keeps nothing of the picture at --strength 1; give less, for example 0.6")
    from bowerbird.systems import output

    output.check(out)
    signer = load_signer(sign_cert, sign_key)
    from bowerbird.core import images
    from bowerbird.core.types import Neighbors
    from bowerbird.evaluation.copies import guard
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.systems import filling, generation, records, unfamiliar
    from bowerbird.systems.edit_change import edit_hint
    from bowerbird.systems.notes import readable
    from bowerbird.systems.queries import make_request
    from bowerbird.systems.reference_settings import Adapter, parse_lora

    guard.check_policy(on_copy)
    opened = None if kb is None else KnowledgeBase.open(kb, encoder=encoder)
    pictures = [images.read(path) for path in image]
    wanted = None if reference is None else images.read(reference)
    marked = None if mask is None else images.read_with_alpha(mask)
    changes = tuple(map(parse_lora, lora or ()))
    pipe = open_model(model, device, adapter=Adapter(loras=changes) if changes else None)
    can = pipe.capabilities
    _check_model(model, pipe, fills=mask is not None, instructs=instruction is not None, img2img=img2img)
    if marked is not None:
        pictures = [filling.with_hole(picture, marked, can.sizes[-1]) for picture in pictures]
    if mask is not None and not (prompt or "").strip():
        each = [pipe.retrieve_like(picture, opened, k) for picture in pictures]
        hits = Neighbors.stack(each).repeat(n)
        record: dict[str, Any] = {"k": hits.k, "search_mode": None}
    elif instruction is not None and wanted is not None:
        hits = pipe.own_references(instruction, [wanted], [""]).repeat(len(pictures) * n)
        record = {"k": hits.k, "search_mode": None}
    else:
        request = pipe.resolve(
            make_request(
                instruction or prompt,
                wanted,
                k=k,
                search_mode=search_mode or (None if can.fills else "hybrid"),
                where=where,
                min_score=min_score,
                allow_no_neighbors=allow_no_neighbors,
            ),
            opened,
        )
        hits = pipe.retrieve(request, opened, len(pictures) * n)
        record = {"k": request.k, "search_mode": request.search_mode}
    if opened is not None:
        say_fewer(pipe, opened, k)
        if can.instructs and record["k"] and not hits.k:
            say("the instruction names nothing that is to come in, as 'a wolf' does, so nothing is looked up")
    if can.instructs and change_threshold is None:
        change_threshold = generation.default_settings(pipe).change_threshold
    how: dict[str, Any] = {
        "preservation": preservation,
        "change_threshold": change_threshold,
        "image_guidance": image_guidance,
    }
    how = {key: value for key, value in how.items() if value is not None}
    settings = generation.Settings(
        steps=steps or (pipe.defaults.num_inference_steps if can.fills or can.instructs else 20),
        guidance_scale=pipe.defaults.guidance_scale if guidance_scale is None else guidance_scale,
        sampler=sampler,
        seed=seed,
        strength=strength,
        show_source=not img2img,
        **how,
    )
    sources = [picture for picture in pictures for _ in range(n)]
    say_warnings(model, unfamiliar.find_warnings(pipe, hits, settings, sources))
    with show_progress("editing", as_json, len(sources)) as progress:
        made = generation.generate(pipe, hits, settings, sources=sources, progress=progress)
    for note in readable(note for row in hits.notes for note in row):
        say(note)
    kept = guard.guard(pipe, made, hits, settings, sources=sources, policy=on_copy)
    asked: dict[str, Any] = {
        "prompt": instruction or prompt,
        "reference": None if reference is None else str(reference),
        "edited": [str(path) for path in image],
    }
    record = {key: value for key, value in asked.items() if value} | record | {"where": where, "min_score": min_score}
    made_records = records.generation_records(
        pipe,
        model,
        opened,
        kept.hits,
        kept.images,
        settings,
        record,
        sources=sources,
        picture_seeds=kept.seeds,
        copies=kept.copies,
    )
    paths = output.write(kept.images, made_records, kept.hits, out, sources=sources, signer=signer)
    warn_of_copies(made_records, paths)
    usual = mask is None and instruction is None and not img2img and preservation is None
    if usual and (hint := edit_hint(sources, kept.images)):
        say(with_flags(hint))
    print_result(paths, out, as_json, "edit")


BESIDE_MASK = (
    "model",
    "image",
    "out",
    "kb",
    "encoder",
    "prompt",
    "mask",
    "k",
    "n",
    "guidance_scale",
    "search_mode",
    "where",
    "min_score",
    "allow_no_neighbors",
    "on_copy",
    "sign_cert",
    "sign_key",
    "seed",
    "system",
    "device",
    "as_json",
)
"""What can be given beside --mask."""
NOT_BESIDE_INSTRUCTION = ("strength", "preservation", "img2img")
OF_REFERENCES = ("k", "encoder", "search_mode")


def _check_mask(
    context: typer.Context, k: int | None, kb: str | None, prompt: str | None, of_search: dict[str, Any]
) -> None:
    """Raises: BowerbirdError for an option that filling in does not have, or nothing to retrieve from."""
    if given := others_given(context, BESIDE_MASK):
        raise BowerbirdError(f"edit: a --mask is filled in with what --prompt says; leave out {', '.join(given)}")
    if kb is None and k != 0:
        raise BowerbirdError("edit: give a knowledge base with --kb, or -k 0 for the picture and the prompt alone")
    for flag, value in of_search.items():
        if value is not None and not (prompt or "").strip():
            raise BowerbirdError(f"edit: {flag} is about what --prompt finds; give a --prompt with it")


def _check_change(
    kb: str | None,
    prompt: str | None,
    reference: Path | None,
    instruction: str | None,
    image_guidance: float | None,
) -> None:
    """Raises: BowerbirdError when what to change is not said once, or nothing says it."""
    of_instruction = instruction is not None and prompt is None and kb is None
    if sum(given is not None for given in (prompt, None if of_instruction else reference, instruction)) != 1:
        raise BowerbirdError(
            "edit: say what the picture is to show with --prompt T or --reference F, or what to change with"
            " --instruction T, one of them; or where something else is to come with --mask F.png. A --reference shows"
            " what an --instruction names where no --kb does"
        )
    if instruction is None and kb is None:
        raise BowerbirdError("edit: give --kb, from which --prompt and --reference retrieve")
    if instruction is None and image_guidance is not None:
        raise BowerbirdError("edit: --image-guidance is of --instruction")
    if instruction is not None and not instruction.strip():
        raise BowerbirdError("edit: the --instruction is empty; say what to change, for example 'make it blue'")


def _check_instruction(context: typer.Context, kb: str | None) -> None:
    """Raises: BowerbirdError for an option that editing by instruction does not have."""
    every = [parameter.name or "" for parameter in context.command.params]
    if given := others_given(context, [name for name in every if name not in NOT_BESIDE_INSTRUCTION]):
        raise BowerbirdError(f"edit: an --instruction says what to change; leave out {', '.join(given)}")
    if kb is None and (given := others_given(context, [name for name in every if name not in OF_REFERENCES])):
        raise BowerbirdError(f"edit: {given[0]} is about what a knowledge base shows; give one with --kb")


def _check_model(model: str, pipe: System, *, fills: bool, instructs: bool, img2img: bool) -> None:
    """Raises: BowerbirdError for a model that does not edit in the way that is asked for."""
    can = pipe.capabilities
    if can.fills != fills:
        raise BowerbirdError(
            f"model {model!r} fills in what a mask marks; give --mask F.png, white where something else is to come"
            if can.fills
            else f"model {model!r} does not fill in what a mask marks; leave --mask out, or use a model like tiny-racm3"
        )
    if fills:
        return
    if not can.starts_from_image:
        other = f"train instruct --base {model} --data PAIRS" if instructs else "train tiny-knn"
        raise BowerbirdError(
            f"model {model!r} is {with_article(type(pipe).__name__)}, which does not edit; use tiny-knn, or train"
            f" one: bowerbird {other}"
        )
    if can.instructs != instructs:
        raise BowerbirdError(
            f"model {model!r} edits by instruction; give --instruction"
            if can.instructs
            else f"model {model!r} reads no instruction; give --prompt, or use a model like tiny-instruct"
        )
    if not can.edits and not img2img:
        raise BowerbirdError(
            f"model {model!r} was not trained to edit; use tiny-knn, or --img2img with a --strength below 1"
        )
