"""The options of `generate`, by the headings of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.filling import NEIGHBORS

WHAT = "What to generate"
SAMPLING = "Sampling"
TOKENS = "Models of tokens"
BASE = "Base models of diffusers"

ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="With --prompts: a Ray cluster; local for one on this machine."),
]
OnCopyOption = Annotated[
    str, typer.Option("--on-copy", help="Near copy of a neighbor: warn, drop the neighbor, resample, or off.")
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Compute in float32, bfloat16 (twice as fast on most machines) or float16; int8: weights alone, twice as"
        " fast for models of tokens on a CPU.",
    ),
]

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for pictures, sheet.png and generation.jsonl, new or of an earlier run.",
        rich_help_panel=WHAT,
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", help="What to generate; several as if they were lines of --prompts.", rich_help_panel=WHAT
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A prompt a line (.txt), or an object a line (.jsonl) with seed, n, k, where, … of its own; resumes.",
        rich_help_panel=WHAT,
    ),
]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Generate from this picture; several are used together.", rich_help_panel=WHAT),
]
ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class", help="A class; with --class-key, drawn from the items of that class.", rich_help_panel=WHAT
    ),
]
UnconditionalOption = Annotated[
    bool,
    typer.Option(
        "--unconditional", help="Generate from what the model met often in training (p_D).", rich_help_panel=WHAT
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="F.png", help="Generate the picture in this PNG again.", rich_help_panel=WHAT),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--num-images",
        help="How many pictures; default 4, of each of several prompts 1.",
        min=1,
        rich_help_panel=WHAT,
    ),
]
ReferenceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference", help="A picture of your own as neighbor, in place of a knowledge base.", rich_help_panel=WHAT
    ),
]
CaptionOption = Annotated[
    list[str] | None,
    typer.Option("--caption", help="What a --reference shows, one each, in order.", rich_help_panel=WHAT),
]

KbOption = Annotated[
    str | None, typer.Option("--kb", help="Knowledge base to retrieve from.", rich_help_panel=NEIGHBORS)
]
NumNeighborsOption = Annotated[
    int | None,
    typer.Option("-k", "--num-neighbors", help="Neighbors a picture; default the model's.", rich_help_panel=NEIGHBORS),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="One number a neighbor, e.g. 2,1,1,0.", rich_help_panel=NEIGHBORS)
]
TextModeOption = Annotated[
    str | None,
    typer.Option(
        "--text-mode", help="neighbors, text, or text+neighbors; default the model's.", rich_help_panel=NEIGHBORS
    ),
]
ImageModeOption = Annotated[
    str | None, typer.Option("--image-mode", help="image+neighbors, image, or neighbors.", rich_help_panel=NEIGHBORS)
]
SearchModeOption = Annotated[
    str | None,
    typer.Option(
        "--search-mode", help="hybrid, dense, bm25, captions or mixed; default the model's.", rich_help_panel=NEIGHBORS
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="Retrieve only items that satisfy this.", rich_help_panel=NEIGHBORS),
]
AllowNoNeighborsOption = Annotated[
    bool,
    typer.Option(
        "--allow-no-neighbors", help="Generate even where the search finds nothing.", rich_help_panel=NEIGHBORS
    ),
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        help="Leave out neighbors less similar: a cosine; with --search-mode bm25 a BM25 score.",
        rich_help_panel=NEIGHBORS,
    ),
]
ClassKeyOption = Annotated[
    str | None, typer.Option("--class-key", help="Metadata column that names the class.", rich_help_panel=NEIGHBORS)
]
TopMOption = Annotated[
    float, typer.Option("--top-m", help="Fraction of the database p_D keeps.", rich_help_panel=NEIGHBORS)
]
ProposalOption = Annotated[
    str, typer.Option("--proposal", help="Counts for --unconditional: model, or database.", rich_help_panel=NEIGHBORS)
]

StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help="Sampling steps; one number, or one a stage: 30,10; default the model's, mostly 20.",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        help="1 = off, 0 = without neighbors; default the model's, mostly 3.",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceIntervalOption = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        help="Guide only from and to these shares of the noise, e.g. 0.1,0.8: fewer passes.",
        rich_help_panel=SAMPLING,
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler", help="dpmsolver++, ddim, unipc or module:Class; default the model's.", rich_help_panel=SAMPLING
    ),
]
EtaOption = Annotated[float, typer.Option("--eta", help="Fresh noise in ddim, 0 to 1.", rich_help_panel=SAMPLING)]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", help="Height and width in pixels; default the model's.", rich_help_panel=SAMPLING),
]
HeightOption = Annotated[int | None, typer.Option("--height", help="Height in pixels.", rich_help_panel=SAMPLING)]
WidthOption = Annotated[int | None, typer.Option("--width", help="Width in pixels.", rich_help_panel=SAMPLING)]
GuidanceOption = Annotated[
    str | None,
    typer.Option(
        "--guidance", help="Balance of text and neighbors: interleaved, weighted or joint.", rich_help_panel=SAMPLING
    ),
]
TextRatioOption = Annotated[
    str | None,
    typer.Option(
        "--text-ratio", help="Share of text: 0 is all neighbors, 1 all text; default 0.25.", rich_help_panel=SAMPLING
    ),
]
TextScaleOption = Annotated[
    str | None,
    typer.Option(
        "--text-scale",
        help="Guidance of the text, one or one a stage; default 1 + (W - 1) / 4.",
        rich_help_panel=SAMPLING,
    ),
]
NeighborScaleOption = Annotated[
    str | None,
    typer.Option(
        "--neighbor-scale", help="Guidance of the neighbors, one or one a stage; default W.", rich_help_panel=SAMPLING
    ),
]
BestOfOption = Annotated[
    int,
    typer.Option(
        "--best-of",
        help="Draw so many for each picture and keep the one nearest to --prompt.",
        min=1,
        rich_help_panel=SAMPLING,
    ),
]

TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature", help="Of models of tokens: 0 takes the likeliest, 1 as learned.", rich_help_panel=TOKENS
    ),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", help="Draw tokens from so many likeliest; 0 from all.", rich_help_panel=TOKENS)
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p", help="Draw tokens from the likeliest that together have this share.", rich_help_panel=TOKENS
    ),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        "--min-p", help="Draw tokens at least so many times as likely as the likeliest.", rich_help_panel=TOKENS
    ),
]
PatchWeightOption = Annotated[
    float | None,
    typer.Option(
        "--patch-weight",
        help="Of models of tokens: merge what follows the nearest windows of --kb, 0 to 1 (DAiD).",
        rich_help_panel=TOKENS,
    ),
]
PatchNeighborsOption = Annotated[
    int | None,
    typer.Option("--patch-neighbors", help="Windows looked at for each token; default 64.", rich_help_panel=TOKENS),
]
PatchTemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--patch-temperature", help="How slowly windows count less with distance; default 0.1.", rich_help_panel=TOKENS
    ),
]

AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="For a base model of diffusers: an IP-Adapter or FLUX Redux, .safetensors or .bin.",
        rich_help_panel=BASE,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="For a base model: a LoRA's .safetensors in PEFT's, diffusers' or kohya's form; several are added.",
        rich_help_panel=BASE,
    ),
]
ImageEncoderOption = Annotated[
    Path | None,
    typer.Option(
        "--image-encoder",
        metavar="DIR",
        help="The adapter's image encoder; default beside its file.",
        rich_help_panel=BASE,
    ),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="References that are no squares: pad, squash or crop; default pad, or as stored.",
        rich_help_panel=BASE,
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option("--scale", help="How strongly a base attends to its references; default 0.6.", rich_help_panel=BASE),
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        "--layers", help="Which layers of a base read references: all, style or content.", rich_help_panel=BASE
    ),
]
StepsFromOption = Annotated[
    float | None,
    typer.Option("--steps-from", help="References from this share of the steps on; default 0.", rich_help_panel=BASE),
]
StepsToOption = Annotated[
    float | None,
    typer.Option("--steps-to", help="References up to this share of the steps; default 1.", rich_help_panel=BASE),
]
PoolOption = Annotated[
    int | None,
    typer.Option("--pool", help="FLUX Redux: average squares of so many tokens: 1, 3 or 9.", rich_help_panel=BASE),
]
NegativePromptOption = Annotated[
    str | None, typer.Option("--negative-prompt", help="What a base model is to avoid.", rich_help_panel=BASE)
]
PhrasesOption = Annotated[
    str | None,
    typer.Option(
        "--phrases",
        metavar="PARSER",
        help="For a base: references for each phrase of the prompt, found by rules, brackets, spacy, textblob or"
        " stanza; a [red fox] marks one.",
        rich_help_panel=BASE,
    ),
]
StructureOption = Annotated[
    str | None,
    typer.Option(
        "--structure",
        help="For a base of the SD family: each phrase encoded for itself: mean or conjunction.",
        rich_help_panel=BASE,
    ),
]
CriticOption = Annotated[
    str | None,
    typer.Option(
        "--critic",
        metavar="NAME",
        help="For a base: look for each phrase in the picture, and generate again with references for what is"
        " missing: encoder, or an image-text model.",
        rich_help_panel=BASE,
    ),
]
MaxPassesOption = Annotated[
    int | None,
    typer.Option("--max-passes", help="Most pictures a --critic looks at for each; default 3.", rich_help_panel=BASE),
]
OffloadOption = Annotated[
    str | None,
    typer.Option(
        "--offload",
        help="Keep a base's weights in main memory: model (a network at a time), sequential.",
        rich_help_panel=BASE,
    ),
]
