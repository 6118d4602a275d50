"""From a folder of pictures to something that can be searched: ours beside clip-retrieval's own reader, mapper and
writer, with the same encoder.

Theirs: files, DataLoader workers, batches of 256, embeddings as float16 beside a parquet of paths; no index, no
pictures, no captions (its file reader cannot pair captions in 2.45, and is asked for pictures alone, which is less
work). Ours: everything, committed and searchable. Pictures are opaque PNG files of 72 px made from a parquet file, so
that both decode the same, or JPEG files of 1536 x 1024.

    taskset -c 1 python benchmarks/ingest.py --data drawings.parquet --out runs/ingest --encoder vit-b-32 --count 96
        --engine openvino,bfloat16 --rounds 2 --only ours "clip-retrieval, no workers"

`--engine onnx,openvino,bfloat16` adds ours with the network for pictures in each of them. All run in turn in one
process, `--rounds` times, after each of them has been through a few pictures: libraries are loaded and networks are
warm. Beside the seconds stand CPU seconds, of the process and of those it started: on a machine that does other things
they are what compares. `--encoder vit-b-32` is a network of the shape of CLIP's ViT-B/32 with random weights.

Theirs runs only where clip-retrieval is installed (pip install --no-deps clip-retrieval "pandas<3"); what it imports
and does not use here (all_clip, sentence_transformers) is replaced by empty modules.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import resource
import shutil
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.encoders import engines

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Encoder

SIZE = 64
FEW = 16
"""Pictures that each goes through before it is timed."""


def pictures(data: Path, out: Path, count: int = 0) -> int:
    """Write every picture of the parquet file, or the first `count`, as an opaque PNG file with a caption beside it,
    once."""
    import pyarrow.parquet as pq

    from bowerbird.core import images

    if not out.exists():
        out.mkdir(parents=True)
        table = pq.read_table(data, columns=["image", "name"])
        rows = table.slice(0, count or len(table)).to_pylist()
        for number, row in enumerate(rows):
            images.decode(row["image"]["bytes"], "x").save(out / f"{number:06d}.png")
            (out / f"{number:06d}.txt").write_text(row["name"])
    return sum(1 for _ in out.glob("*.png"))


def photographs(data: Path, out: Path, count: int) -> int:
    """Write JPEG files of 1536 x 1024, each of 24 pictures of the parquet file on noise, so that there is detail at
    every scale; once."""
    import pyarrow.parquet as pq
    from PIL import Image

    from bowerbird.core import images

    if not out.exists():
        out.mkdir(parents=True)
        rows = pq.read_table(data, columns=["image"]).to_pylist()
        rng = np.random.default_rng(0)
        for number in range(count):
            sheet = Image.fromarray(rng.integers(60, 200, (1024, 1536, 3), np.uint8))
            for place, at in enumerate(rng.integers(0, len(rows), 24)):
                tile = images.decode(rows[at]["image"]["bytes"], "x").resize((220, 220), Image.Resampling.BICUBIC)
                sheet.paste(tile, (256 * (place % 6) + 18, 256 * (place // 6) + 18))
            sheet.save(out / f"{number:06d}.jpg", quality=90)
    return sum(1 for _ in out.glob("*.jpg"))


def ours(folder: Path, out: Path, encoder: Encoder, workers: int) -> None:
    from bowerbird import KnowledgeBase

    KnowledgeBase.build(out / "kb", folder, encoder=encoder, workers=workers)


def theirs(folder: Path, out: Path, encoder: Encoder, workers: int) -> None:
    import torch

    from bowerbird.core import images
    from bowerbird.encoders.clip import ClipEncoder
    from bowerbird.encoders.small import SmallEncoder

    def stub(name: str, path: Path | None = None, **what: Any) -> None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=path is not None)
        if path is not None:
            module.__path__ = [str(path)]
        module.__dict__.update(what)
        sys.modules[name] = module

    class Model:
        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            if isinstance(encoder, ClipEncoder):
                return encoder.model.get_image_features(pixel_values=pixels).pooler_output
            if not isinstance(encoder, SmallEncoder):
                return torch.ones(len(pixels), encoder.dim)
            return encoder.model.encode_pixels(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)

        def encode_text(self, tokens: object) -> None: ...

    def preprocess(picture: Image.Image) -> torch.Tensor:
        if isinstance(encoder, ClipEncoder):
            return encoder.pixels([picture.convert("RGB")])[0]
        return torch.from_numpy(np.array(images.square(picture.convert("RGB"), SIZE)))

    root = next(
        Path(p) / "clip_retrieval" for p in sys.path if (Path(p) / "clip_retrieval" / "clip_inference").is_dir()
    )
    stub("clip_retrieval", root)
    stub("clip_retrieval.clip_inference", root / "clip_inference")
    stub("all_clip", load_clip=lambda **_: (Model(), preprocess, None))
    stub("sentence_transformers", SentenceTransformer=None)
    from clip_retrieval.clip_inference import mapper, reader, runner, writer

    flags = {"enable_text": False, "enable_image": True, "enable_metadata": False}
    named = {"use_mclip": False, "clip_model": "same", "use_jit": False, "mclip_model": None, "warmup_batch_size": 256}

    class Quiet:
        def start(self) -> None: ...
        def end(self) -> None: ...
        def __call__(self, row: object) -> None: ...

    runner.Runner(
        reader_builder=lambda sampler: reader.FilesReader(
            sampler, preprocess, None, str(folder), 256, workers, **flags
        ),
        mapper_builder=lambda: mapper.ClipMapper(**flags, **named),
        writer_builder=lambda i: writer.NumpyWriter(i, str(out / "theirs"), **flags, output_partition_count=1),
        logger_builder=lambda i: Quiet(),
        output_partition_count=1,
    )(0)


class Nothing:
    """An encoder that costs nothing: what is left is the way to it and from it."""

    name, dim, fingerprint, shared_dim = "nothing", 384, "0", 384

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return np.ones((len(pictures), self.dim), np.float32)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), self.dim), np.float32)


Task = Callable[[Path, Path, "Encoder", int], None]
CONTESTANTS: dict[str, tuple[Task, int]] = {
    "ours": (ours, 0),
    "ours, 2 workers": (ours, 2),
    "clip-retrieval": (theirs, 4),
    "clip-retrieval, 2 workers": (theirs, 2),
    "clip-retrieval, no workers": (theirs, 0),
}


def load(name: str) -> Encoder:
    """The encoder of both sides."""
    from bowerbird import encoders

    if name == "nothing":
        return Nothing()
    base, engine = engines.split(name)
    if base != "vit-b-32":
        return encoders.load(name)
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from bowerbird.encoders.clip import ClipEncoder

    torch.manual_seed(0)
    made = ClipEncoder(CLIPModel(CLIPConfig()), None, CLIPImageProcessorPil(), base, "vit-b-32-random", "cpu")
    return made if engine is None else engines.with_engine(made, engine)


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def few(folder: Path, out: Path) -> Path:
    """A folder with the first pictures of `folder` alone."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for path in sorted(folder.glob("*.[jp][pn]g"))[:FEW]:
        shutil.copy(path, out)
    return out


def timed(contestant: tuple[Task, int], folder: Path, place: Path, encoder: Encoder) -> tuple[float, float]:
    """Seconds, and CPU seconds, of one contestant."""
    task, workers = contestant
    start, used = time.perf_counter(), cpu_seconds()
    task(folder, place, encoder, workers)
    return time.perf_counter() - start, cpu_seconds() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("drawings.parquet"))
    parser.add_argument("--out", type=Path, default=Path("runs/ingest"))
    parser.add_argument(
        "--photographs", type=int, default=0, help="so many JPEG files of 1536 x 1024 in place of small PNG files"
    )
    parser.add_argument("--encoder", default="small", help="small, vit-b-32, or nothing: an encoder that costs nothing")
    parser.add_argument("--engine", default="", help="of ours too: onnx, openvino, bfloat16, or several")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), help="contestants")
    parser.add_argument("--count", type=int, default=0, help="the first so many small pictures alone")
    arguments = parser.parse_args()
    kind = "photographs" if arguments.photographs else f"pictures-{arguments.count}" if arguments.count else "pictures"
    folder = arguments.out / kind
    count = (
        photographs(arguments.data, folder, arguments.photographs)
        if arguments.photographs
        else pictures(arguments.data, folder, arguments.count)
    )
    by_name = arguments.encoder == "small"  # workers load encoders by name
    runs = [(name, arguments.encoder) for name in arguments.only if by_name or name != "ours, 2 workers"]
    runs += [("ours", f"{arguments.encoder}@{engine}") for engine in arguments.engine.split(",") if engine]
    print(f"{count:,} {folder.name}, encoder {arguments.encoder}")
    warm = few(folder, arguments.out / "few")
    loaded: dict[str, Encoder] = {}
    results: dict[str, list[tuple[float, float]]] = {}
    for number in range(arguments.rounds + 1):
        for name, encoder_name in list(runs):
            engine = engines.split(encoder_name)[1]
            shown = name if engine is None else f"{name}, {engine}"
            place = arguments.out / "made"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            try:
                if encoder_name not in loaded:
                    loaded[encoder_name] = load(encoder_name)
                seconds, used = timed(CONTESTANTS[name], folder if number else warm, place, loaded[encoder_name])
            except (BowerbirdError, ImportError, StopIteration) as error:  # not installed
                print(f"{shown:26} could not run: {type(error).__name__}: {str(error)[:120]}", flush=True)
                runs.remove((name, encoder_name))
                continue
            if not number:
                continue
            results.setdefault(shown, []).append((seconds, used))
            rate = f"{count / seconds:6.0f} pictures a second, {1e3 * used / count:7.2f} ms of CPU a picture"
            print(f"{shown:26} {seconds:7.1f} s, {rate}, round {number}", flush=True)
    for at, what in enumerate(("seconds", "CPU seconds")):
        best = {name: min(each[at] for each in runs) for name, runs in results.items()}
        mine, peer = [name for name in best if name.startswith("ours")], [v for k, v in best.items() if k[:4] == "clip"]
        for name in mine if peer else []:
            print(f"clip-retrieval / {name} in {what}, the best of each: {min(peer) / best[name]:.2f}")


if __name__ == "__main__":
    main()
