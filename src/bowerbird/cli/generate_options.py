"""The options of `generate`, by the headings of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.filling import NEIGHBORS

WHAT = "What to generate"
SAMPLING = "Sampling"
TOKENS = "Token models"
BASE = "Diffusers base models"

ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help="Bundled name, directory, or hub id.")]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="With --prompts: generate on a Ray cluster: its address, or local to start one here.",
    ),
]
OnCopyOption = Annotated[
    str,
    typer.Option(
        "--on-copy",
        help="What to do when a picture nearly copies a neighbor: warn, drop the neighbor, resample, or off.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Compute in float32, bfloat16 (twice as fast where the processor has instructions for it) or float16; "
        "int8 quantizes weights alone, twice as fast for token models on a CPU.",
    ),
]

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Output folder for pictures, sheet.png and generation.jsonl: new, or of an earlier run.",
        rich_help_panel=WHAT,
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="What to generate; repeatable, like the lines of --prompts.", rich_help_panel=WHAT),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="One prompt per line (.txt), or one JSON object per line (.jsonl) with its own seed, "
        "n, k, where, …; resumes.",
        rich_help_panel=WHAT,
    ),
]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Generate from this image; repeatable, all are used together.", rich_help_panel=WHAT),
]
ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class",
        help="Generate from the name of a class; with --class-key, from items of that class, drawn at random.",
        rich_help_panel=WHAT,
    ),
]
UnconditionalOption = Annotated[
    bool,
    typer.Option(
        "--unconditional",
        help="Generate from items drawn from p_D: how often each was a neighbor in training.",
        rich_help_panel=WHAT,
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="F.png", help="Regenerate the picture in this PNG from its record.", rich_help_panel=WHAT
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--num-images",
        help="Number of pictures; default 4, or 1 for each of several prompts.",
        min=1,
        rich_help_panel=WHAT,
    ),
]
ReferenceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference",
        help="Your own image as a neighbor, instead of a knowledge base; repeatable.",
        rich_help_panel=WHAT,
    ),
]
CaptionOption = Annotated[
    list[str] | None,
    typer.Option("--caption", help="Caption of a --reference; one for each, in the same order.", rich_help_panel=WHAT),
]

KbOption = Annotated[
    str | None, typer.Option("--kb", help="Knowledge base to retrieve from.", rich_help_panel=NEIGHBORS)
]
NumNeighborsOption = Annotated[
    int | None,
    typer.Option(
        "-k", "--num-neighbors", help="Neighbors per picture; default: the model's.", rich_help_panel=NEIGHBORS
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="One weight per neighbor, e.g. 2,1,1,0.", rich_help_panel=NEIGHBORS)
]
TextModeOption = Annotated[
    str | None,
    typer.Option(
        "--text-mode",
        help="What a prompt conditions on: neighbors, text, or text+neighbors; default: the model's.",
        rich_help_panel=NEIGHBORS,
    ),
]
ImageModeOption = Annotated[
    str | None,
    typer.Option(
        "--image-mode",
        help="What an --image conditions on: image+neighbors, image, or neighbors.",
        rich_help_panel=NEIGHBORS,
    ),
]
SearchModeOption = Annotated[
    str | None,
    typer.Option(
        "--search-mode", help="hybrid, dense, bm25, captions or mixed; default: the model's.", rich_help_panel=NEIGHBORS
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where", metavar="SQL", help="Retrieve only items that satisfy this condition.", rich_help_panel=NEIGHBORS
    ),
]
AllowNoNeighborsOption = Annotated[
    bool,
    typer.Option("--allow-no-neighbors", help="Generate even if the search finds nothing.", rich_help_panel=NEIGHBORS),
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        help="Drop neighbors below this cosine similarity; with --search-mode bm25, below this BM25 score.",
        rich_help_panel=NEIGHBORS,
    ),
]
ClassKeyOption = Annotated[
    str | None, typer.Option("--class-key", help="Metadata column that names the class.", rich_help_panel=NEIGHBORS)
]
TopMOption = Annotated[
    float,
    typer.Option(
        "--top-m",
        help="Top-m sampling: share of the database that p_D keeps, the most frequent items.",
        rich_help_panel=NEIGHBORS,
    ),
]
ProposalOption = Annotated[
    str,
    typer.Option(
        "--proposal",
        help="Whose counts p_D is made of for --unconditional: model or database.",
        rich_help_panel=NEIGHBORS,
    ),
]

StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help="Sampling steps: one number, or one per stage as in 30,10; default: the model's, mostly 20.",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        help="Classifier-free guidance: 1 is off, 0 is without neighbors; default: the model's, mostly 3.",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceIntervalOption = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        help="Guide only between these shares of the noise, e.g. 0.1,0.8, which saves passes of the network.",
        rich_help_panel=SAMPLING,
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler", help="dpmsolver++, ddim, unipc or module:Class; default: the model's.", rich_help_panel=SAMPLING
    ),
]
EtaOption = Annotated[
    float,
    typer.Option("--eta", help="DDIM's eta: share of fresh noise in each step, 0 to 1.", rich_help_panel=SAMPLING),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", help="Height and width in pixels; default: the model's.", rich_help_panel=SAMPLING),
]
HeightOption = Annotated[int | None, typer.Option("--height", help="Height in pixels.", rich_help_panel=SAMPLING)]
WidthOption = Annotated[int | None, typer.Option("--width", help="Width in pixels.", rich_help_panel=SAMPLING)]
GuidanceOption = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        help="How guidance of text and neighbors is combined: interleaved, weighted or joint.",
        rich_help_panel=SAMPLING,
    ),
]
TextRatioOption = Annotated[
    str | None,
    typer.Option(
        "--text-ratio",
        help="Share of text guidance: 0 is all neighbors, 1 is all text; default 0.25.",
        rich_help_panel=SAMPLING,
    ),
]
TextScaleOption = Annotated[
    str | None,
    typer.Option(
        "--text-scale",
        help="Guidance scale of the text, one or one per stage; default 1 + (W - 1) / 4 for --guidance-scale W.",
        rich_help_panel=SAMPLING,
    ),
]
NeighborScaleOption = Annotated[
    str | None,
    typer.Option(
        "--neighbor-scale",
        help="Guidance scale of the neighbors, one or one per stage; default W.",
        rich_help_panel=SAMPLING,
    ),
]
BestOfOption = Annotated[
    int,
    typer.Option(
        "--best-of",
        help="Candidates per picture; the one nearest to --prompt is kept.",
        min=1,
        rich_help_panel=SAMPLING,
    ),
]

TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        help="Sampling temperature: 0 takes the most likely token, 1 samples as learned.",
        rich_help_panel=TOKENS,
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", help="Sample from this many most likely tokens; 0 is all.", rich_help_panel=TOKENS),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        help="Nucleus sampling: sample from the most likely tokens that have this probability in total.",
        rich_help_panel=TOKENS,
    ),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        help="Sample from tokens at least this many times as likely as the most likely one.",
        rich_help_panel=TOKENS,
    ),
]
PatchWeightOption = Annotated[
    float | None,
    typer.Option(
        "--patch-weight",
        help="Weight, 0 to 1, of what follows the nearest windows of tokens in --kb (DAiD).",
        rich_help_panel=TOKENS,
    ),
]
PatchNeighborsOption = Annotated[
    int | None,
    typer.Option("--patch-neighbors", help="Nearest windows per token; default 64.", rich_help_panel=TOKENS),
]
PatchTemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--patch-temperature",
        help="Temperature that turns distances of windows into weights; default 0.1.",
        rich_help_panel=TOKENS,
    ),
]

AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="IP-Adapter or FLUX Redux, .safetensors or .bin.",
        rich_help_panel=BASE,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="LoRA (.safetensors) in the format of PEFT, diffusers or kohya; repeatable, several are summed.",
        rich_help_panel=BASE,
    ),
]
ImageEncoderOption = Annotated[
    Path | None,
    typer.Option(
        "--image-encoder",
        metavar="DIR",
        help="The adapter's image encoder; default: the one beside its file.",
        rich_help_panel=BASE,
    ),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="How references that are not square are fitted: pad, squash or crop; default pad, or as stored.",
        rich_help_panel=BASE,
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--scale",
        help="How strongly the model attends to its references; default 1 for adapters of bowerbird train, else 0.6.",
        rich_help_panel=BASE,
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option("--layers", help="Which layers read references: all, style or content.", rich_help_panel=BASE),
]
StepsFromOption = Annotated[
    float | None,
    typer.Option(
        "--steps-from", help="Share of the steps after which references are used; default 0.", rich_help_panel=BASE
    ),
]
StepsToOption = Annotated[
    float | None,
    typer.Option(
        "--steps-to", help="Share of the steps up to which references are used; default 1.", rich_help_panel=BASE
    ),
]
PoolOption = Annotated[
    int | None,
    typer.Option(
        "--pool",
        help="FLUX Redux: average-pool a reference's tokens in squares of this edge: 1, 3 or 9.",
        rich_help_panel=BASE,
    ),
]
NegativePromptOption = Annotated[
    str | None, typer.Option("--negative-prompt", help="What to avoid.", rich_help_panel=BASE)
]
PhrasesOption = Annotated[
    str | None,
    typer.Option(
        "--phrases",
        metavar="PARSER",
        help="Retrieve references for each phrase of the prompt, found by rules, brackets (as in a"
        " [red fox]), spacy, textblob or stanza.",
        rich_help_panel=BASE,
    ),
]
StructureOption = Annotated[
    str | None,
    typer.Option(
        "--structure",
        help="Stable Diffusion only: encode each phrase by itself, and combine them by mean or conjunction.",
        rich_help_panel=BASE,
    ),
]
CriticOption = Annotated[
    str | None,
    typer.Option(
        "--critic",
        metavar="NAME",
        help="Look for each phrase in the picture, and generate again with references for what is "
        "missing: encoder, or an image-text model.",
        rich_help_panel=BASE,
    ),
]
MaxPassesOption = Annotated[
    int | None,
    typer.Option("--max-passes", help="Most passes of the --critic for each picture; default 3.", rich_help_panel=BASE),
]
OffloadOption = Annotated[
    str | None,
    typer.Option(
        "--offload",
        help="Offload weights to main memory: model (one network at a time) or sequential.",
        rich_help_panel=BASE,
    ),
]
