"""What is next in the queue of trainings (`train_queue.py`), on a lent GPU, in one call of under ten minutes.

The machine is bare: torch, transformers and accelerate are there, diffusers and pydantic come along as wheels. Before
the call, in the checkout that travels (the repository's root; at most 64 MiB travel, so the bundled weights stay
here):

    ls runs/data/drawings.parquet runs/data/held-out.parquet runs/wheels/*.whl      # see docs/log.md for how they are
    made mv src/bowerbird/models/bundled /tmp/bundled                                     # and back after the call

The call (`carry`: runs/data, runs/wheels, and runs/queue/NAME/model of each entry that is done and that the next stand
on):

    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site runs/wheels/*.whl &&
    PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/site:src python3 benchmarks/gpu_queue.py run --seconds 540 --out $OUT

It trains what is ready side by side, then what stands on that, each with a schedule that fits its time, and leaves in
`--out`: models.tar.0 … (half precision, pieces under 16 MiB), sheets.png, queue.log. Afterwards, here:

    mv /tmp/bundled src/bowerbird/models/bundled
    python benchmarks/gpu_queue.py adopt FILES_AT          # into runs/queue; `bash runs/queue.sh` goes on from there

To try it without one: `python benchmarks/gpu_queue.py --root /tmp/try run --seconds 120 --device cpu --out
/tmp/try/out`.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from train_queue import QUEUE, ROOT, Entry, log, missing, prepare

PIECE = 15 * 2**20
"""Bytes of a file that comes back; the limit is 16 MiB."""


def reserve(seconds: float) -> float:
    """Of an entry's time, what its last sheet, measures and export may take."""
    return 15 + 0.08 * seconds


def train_for(entry: Entry, root: Path, device: str, seconds: float, batch: int | None) -> None:
    """Trains one entry from nothing in so many seconds, reading of the data included."""
    import torch

    from bowerbird.core import files
    from bowerbird.training.loop import train

    deadline = time.time() + seconds
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    else:
        torch.set_num_threads(1)
    ready = prepare(entry, root, device, [])
    never = 10**9
    config = ready.recipe.train.model_copy(
        update={
            "batch_size": batch or entry.gpu_batch,
            "learning_rate": entry.gpu_rate,
            "save_every": never,
            "sheet_every": never,
            "keep_steps": (),
        }
    )
    begun, end = time.time(), deadline - reserve(seconds)
    logged = begun
    losses: list[float] = []

    def clock() -> float:
        return min(1.0, (time.time() - begun) / max(1.0, end - begun))

    for report in train(ready.objective, config, ready.out, device=device, spent=clock):
        losses.append(report.loss)
        if time.time() - logged > seconds / 12:
            pace = len(losses) * config.batch_size / (time.time() - logged)
            log(f"{entry.name}: {report.step} steps, {clock():.0%} of the time, loss {sum(losses) / len(losses):.4f},"
                f" {pace:.0f} pictures a second", root)  # fmt: skip
            losses, logged = [], time.time()
    # the model is written; what follows is for people and may be cut off
    checkpoint = ready.out / "checkpoint.safetensors"
    averaged = files.load_tensors(checkpoint)
    for name, parameter in ready.objective.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(averaged[f"ema.{name}"])
    checkpoint.unlink()
    (ready.out / "sheets").mkdir(exist_ok=True)
    ready.show(ready.objective.eval(), ready.out / "sheets" / f"{report.step:06d}.png")
    log(f"{entry.name}: done, {deadline - time.time():.0f} s before its time is over", root)


def rounds(root: Path, names: list[str]) -> list[list[Entry]]:
    """What can be trained now, side by side, and then what can with that: at most two rounds."""
    wanted = [e for e in QUEUE if (e.name in names if names else not (root / "queue" / e.name / "model").is_dir())]
    now = [entry for entry in wanted if not set(missing(entry, root)) - set()]
    made = {entry.name for entry in now}
    then = [entry for entry in wanted if entry not in now and set(missing(entry, root)) <= made]
    return [part for part in (now, then) if part]


def run(root: Path, device: str, seconds: float, out: Path, names: list[str], batch: int | None) -> None:
    """Both rounds, each entry in a process of its own; what is done is packed after each."""
    deadline = time.time() + seconds
    out.mkdir(parents=True, exist_ok=True)
    plan = rounds(root, names)
    log(f"gpu: {' | '.join(', '.join(entry.name for entry in part) for part in plan) or 'nothing is left'}", root)
    for number, part in enumerate(plan):
        left = deadline - time.time() - 0.04 * seconds
        # the first networks learn fast; what generates with them gets the larger part
        share = left * 0.38 if number + 1 < len(plan) else left
        running: list[Any] = []
        for entry in part:
            if absent := missing(entry, root):
                log(f"{entry.name}: there is no {', '.join(absent)}", root)
                continue
            command = [sys.executable, __file__, "--root", str(root), "one", entry.name, "--seconds", f"{share:.0f}"]
            command += ["--device", device] + ([] if batch is None else ["--batch", str(batch)])
            running.append(subprocess.Popen(command))
        end = time.time() + share + 0.03 * seconds
        for process in running:
            try:
                process.wait(max(1.0, end - time.time()))
            except subprocess.TimeoutExpired:
                process.kill()
                log("gpu: an entry ran over its time and was ended", root)
        pack(root, out, [entry.name for done in plan[: number + 1] for entry in done])


def pack(root: Path, out: Path, names: list[str]) -> None:
    """The models of the entries in pieces, their last sheets below one another, and the log."""
    from PIL import Image

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            for place in (f"queue/{name}/model", f"queue/{name}/recipe.json"):
                if (root / place).exists():
                    archive.add(root / place, place)
    data = buffer.getvalue()
    for number, start in enumerate(range(0, len(data), PIECE)):
        (out / f"models.tar.{number}").write_bytes(data[start : start + PIECE])
    sheets = []
    for name in names:
        found = sorted((root / "queue" / name / "sheets").glob("*.png"))
        sheets += [Image.open(path) for path in found if path.stem[:6] == found[-1].stem[:6]]
    if sheets:
        page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
        top = 0
        for sheet in sheets:
            page.paste(sheet, (0, top))
            top += sheet.height
        page.save(out / "sheets.png")
    shutil.copy(root / "queue.log", out / "queue.log")


def adopt(root: Path, folder: Path) -> None:
    """The models that a GPU trained, into the state of the queue; what a CPU had trained stays beside it, renamed."""
    pieces = sorted(folder.glob("models.tar.*"), key=lambda piece: int(piece.suffix[1:]))
    data = b"".join(piece.read_bytes() for piece in pieces)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = sorted({member.name.split("/")[1] for member in archive.getmembers()})
        for name in names:
            before = root / "queue" / name
            if before.exists():
                before.rename(before.with_name(f"{name}.before-{int(time.time())}"))
        archive.extractall(root, filter="data")
    for name in names:
        log(f"{name}: trained on a GPU, taken over from {folder}", root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="where state, data and log lie")
    verbs = parser.add_subparsers(dest="verb", required=True)
    whole, one = verbs.add_parser("run"), verbs.add_parser("one", help="one entry; `run` starts it")
    whole.add_argument("names", nargs="*", help="these entries, done or not; default: what is not done")
    whole.add_argument("--out", type=Path, required=True)
    one.add_argument("name")
    for verb in (whole, one):
        verb.add_argument("--seconds", type=float, default=540)
        verb.add_argument("--device", default="cuda")
        verb.add_argument("--batch", type=int, help="over the entries' own, for a trial")
    taking = verbs.add_parser("adopt", help="take over what came back")
    taking.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "adopt":
        adopt(arguments.root, arguments.folder)
    elif arguments.verb == "one":
        entry = next(entry for entry in QUEUE if entry.name == arguments.name)
        train_for(entry, arguments.root, arguments.device, arguments.seconds, arguments.batch)
    else:
        run(arguments.root, arguments.device, arguments.seconds, arguments.out, arguments.names, arguments.batch)


if __name__ == "__main__":
    main()
