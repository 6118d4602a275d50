"""The data set of pairs in a folder: parquet files as the hub's `datasets` and diffusers' own script read them, in the
columns of `timbrooks/instructpix2pix-clip-filtered`.

An edit is a unit: its pairs are written when its tries are done, so a run that was cut goes on with the edit it was at,
and gives the same files. Edits go to files of `GROUP`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import cache, files
from bowerbird.core.errors import BowerbirdError, Terminated
from bowerbird.core.images import encode_png
from bowerbird.core.lock import lock
from bowerbird.core.progress import Progress
from bowerbird.core.types import Encoder
from bowerbird.systems.grounded.pipeline import ReferencePipeline
from bowerbird.systems.instruct.prompt_pairs.pairs import MadePair, PairSettings, best_pairs
from bowerbird.systems.instruct.prompt_pairs.prompts import PromptPair
from bowerbird.systems.instruct.prompt_pairs.scores import check_encoder

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 100
NOTE, CARD, DATA, UNFINISHED = "edits.json", "README.md", "data", ".unfinished"
COUNTS = b"bowerbird.tries"
"""The entry of a file's header that says what became of the tries, as JSON."""
NUMBERS = (
    "guidance_scale", "share", "similarity_original", "similarity_edited", "similarity_direction", "similarity_image",
)  # fmt: skip
COLUMNS = {
    "original_prompt": "string", "original_image": "image", "edit_prompt": "string", "edited_prompt": "string",
    "edited_image": "image", "edit": "int64", "seed": "int64", **dict.fromkeys(NUMBERS, "float64"),
}  # fmt: skip
TEXT = """---
task_categories: [image-to-image]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# Edits by Prompt-to-Prompt

{kept} pairs of pictures for {edits} edits, of {tries} tries, by `bowerbird datasets edits` with the base `{base}`
({base_hash}) and the encoder `{encoder}`. Both pictures of a pair are generated: what they may be used for is for the
license of the base to say.

| column | what |
|---|---|
| `original_image`, `edited_image` | the pictures, PNG |
| `original_prompt`, `edited_prompt`, `edit_prompt` | what each was asked for by, and the edit in words |
| `edit`, `seed`, `guidance_scale` | the row of the prompts, the noise, the scale |
| `share` | the share of the steps in which both pictures share attention |
| `similarity_original`, `similarity_edited` | each picture with its prompt, cosine |
| `similarity_direction` | the change of the pictures with that of the prompts |
| `similarity_image` | the two pictures |
"""


def build_dataset(
    pipe: ReferencePipeline,
    encoder: Encoder,
    prompts: Sequence[PromptPair],
    settings: PairSettings,
    out: Path,
    *,
    base: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the pairs of `prompts` with `pipe` (the base called `base`) and write those that `encoder` finds good into
    the folder `out`; the same call goes on where a cut one stopped. Returns what was made.

    Raises: BowerbirdError when `out` holds something else, or was begun with other prompts, settings or networks.
    """
    settings.check()
    check_encoder(encoder)
    note = _note(pipe, encoder, prompts, settings, base)
    _check_folder(out, note)
    files.make_folder(out)
    try:
        with lock(out / ".lock", f"{out}: another process makes this data set at the moment; wait for it", 0):
            files.write_json(out / NOTE, note)
            for start in range(0, len(prompts), GROUP):
                _write_group(pipe, encoder, prompts, settings, out, start, progress)
            counts = _counts(out)
            made = {"edits": len(prompts), "tries": sum(counts.values()) - counts["kept"], **counts, "out": str(out)}
            text = TEXT.format(
                kept=counts["kept"], edits=len(prompts), tries=made["tries"], base=note["base"],
                base_hash=note["base_fingerprint"], encoder=note["encoder"],
            )  # fmt: skip
            with files.atomic_path(out / CARD) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except (KeyboardInterrupt, Terminated) as error:
        error.add_note(f"{out}: the edits that are done are kept, and the same command goes on from there")
        raise
    return made


def _note(
    pipe: ReferencePipeline, encoder: Encoder, prompts: Sequence[PromptPair], settings: PairSettings, base: str
) -> dict[str, Any]:
    """Everything that the files depend on, by names that say nothing of this machine."""
    written = json.dumps([asdict(each) for each in prompts])
    note = {
        "base": files.portable(base),
        "base_fingerprint": pipe.base_fingerprint(),
        "encoder": files.portable(encoder.name),
        "encoder_fingerprint": encoder.fingerprint,
        "prompts": len(prompts),
        "prompts_fingerprint": cache.key(written)[:16],
        **asdict(settings),
    }
    found: dict[str, Any] = json.loads(json.dumps(note))
    return found


def _check_folder(out: Path, note: dict[str, Any]) -> None:
    if out.exists() and not out.is_dir():
        raise BowerbirdError(f"{out}: this is a file; name a folder for the pairs")
    if not (out / NOTE).is_file():
        if out.is_dir() and any(path.name != ".lock" for path in out.iterdir()):
            raise BowerbirdError(f"{out}: this folder holds something else; name a new one for the pairs")
        return
    there = files.read_json(out / NOTE, "note on the pairs")
    for key, value in note.items():
        if there.get(key) != value:
            raise BowerbirdError(
                f"{out}: was begun with another {key} ({ascii(there.get(key))[:80]} there, {ascii(value)[:80]} here);"
                " give another --out, or what it was begun with"
            )


def _write_group(
    pipe: ReferencePipeline,
    encoder: Encoder,
    prompts: Sequence[PromptPair],
    settings: PairSettings,
    out: Path,
    start: int,
    progress: Progress | None,
) -> None:
    """The file of the edits from `start` on, if it is not there, from one file an edit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    end = min(start + GROUP, len(prompts))
    target = out / DATA / f"train-{start // GROUP:05d}.parquet"
    parts = [out / UNFINISHED / f"{number:08d}.parquet" for number in range(start, end)]
    if not target.is_file():
        for number, part in enumerate(parts, start):
            if not part.is_file():
                pairs, counts = best_pairs(pipe, encoder, prompts[number], settings, number)
                _write(_table(prompts[number], pairs, number), counts | Counter(kept=len(pairs)), part)
            if progress is not None:
                progress(number + 1, len(prompts))
        counts = sum((_counts_of(part) for part in parts), Counter[str]())
        _write(pa.concat_tables([pq.read_table(part) for part in parts]), counts, target)
    elif progress is not None:
        progress(end, len(prompts))
    for part in parts:
        part.unlink(missing_ok=True)
    if (out / UNFINISHED).is_dir() and not any((out / UNFINISHED).iterdir()):
        (out / UNFINISHED).rmdir()


def _table(prompts: PromptPair, pairs: Sequence[MadePair], number: int) -> pa.Table:
    import pyarrow as pa

    def picture(pair: MadePair, which: int) -> dict[str, Any]:
        name = ("original", "edited")[which]
        return {"bytes": encode_png(pair.pictures[which]), "path": f"{number:08d}-{pair.seed}-{name}.png"}

    rows = [
        {
            "original_prompt": prompts.original,
            "original_image": picture(pair, 0),
            "edit_prompt": prompts.instruction,
            "edited_prompt": prompts.edited,
            "edited_image": picture(pair, 1),
            "edit": number,
            "seed": pair.seed,
            "guidance_scale": pair.guidance,
            "share": pair.share,
            **{f"similarity_{key}": value for key, value in asdict(pair.scores).items()},
        }
        for pair in pairs
    ]
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> pa.Schema:
    """The columns, and what they are for the hub's `datasets`."""
    import pyarrow as pa

    kinds = {
        "string": pa.string(), "int64": pa.int64(), "float64": pa.float64(),
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    }  # fmt: skip
    features = {
        name: {"_type": "Image"} if kind == "image" else {"dtype": kind, "_type": "Value"}
        for name, kind in COLUMNS.items()
    }
    said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()], said)


def _write(table: pa.Table, counts: Counter[str], path: Path) -> None:
    import pyarrow.parquet as pq

    said = _schema().metadata | {COUNTS: json.dumps(dict(sorted(counts.items()))).encode()}
    with files.atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(said), temporary, row_group_size=GROUP)


def _counts_of(path: Path) -> Counter[str]:
    """What became of the tries that a file is of."""
    import pyarrow.parquet as pq

    return Counter(json.loads(pq.read_schema(path).metadata[COUNTS]))


def _counts(out: Path) -> Counter[str]:
    return sum((_counts_of(path) for path in sorted((out / DATA).glob("*.parquet"))), Counter[str]())
