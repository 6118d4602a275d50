"""Other programs that run an encoder's network for pictures: `small@onnx`, `DIR@openvino`, `DIR@bfloat16`.

The network is exported to ONNX once, and kept in the cache under the encoder's fingerprint; ONNX Runtime and OpenVINO
then run the same file, in float32. `bfloat16` is torch with half the bits, which rounds otherwise. Each has a
fingerprint of its own, as its embeddings differ in the last bits or more. Texts go through torch as ever.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bowerbird.core import cache, files, tensors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import Encoder

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCH = 16
"""Pictures that go through an engine at once, always, so that an embedding does not depend on its company."""
CLOSE = 1e-3
"""How far a number of a unit vector may be from torch's; seen to when a network is exported."""
OF_TORCH = ("embed_images_with_tokens", "embed_text_tokens", "token_dim")
"""What an encoder in an engine has not: token matrices come from a network that is not exported."""
Run = Callable[[np.ndarray], np.ndarray]


class HasTower(Encoder, Protocol):
    """An encoder whose network for pictures can be taken out of it."""

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """What the network is given of n RGB pictures, float32 `(n, 3, S, S)`."""
        ...

    def tower(self) -> torch.nn.Module:
        """The network: pixels -> raw embeddings `(n, dim)`."""
        ...


@dataclass(frozen=True)
class Engine:
    """`modules`: what has to be installed, by import name; `extra`: the extra of bowerbird that has it; `start(tower,
    example, key)`: pixels `(BATCH, 3, S, S)` -> embeddings."""

    modules: Sequence[str]
    extra: str
    start: Callable[[torch.nn.Module, torch.Tensor, str], Run]


def split(name: str) -> tuple[str, str | None]:
    """A name without its engine, and the engine; None for torch's own."""
    base, _, engine = name.rpartition("@")
    return (base, engine) if base and engine in ENGINES else (name, None)


def named(name: str, engine: str) -> str:
    """The name of an encoder that runs in `engine`. Raises: BowerbirdError for one that there is not."""
    if engine != TORCH and engine not in ENGINES:
        raise BowerbirdError(f"`engine` {ascii(engine)[:40]}: choose one of {', '.join((TORCH, *ENGINES))}")
    return name if engine == TORCH else f"{name}@{engine}"


def device_of(engine: str, device: str) -> str:
    """Where an encoder's own networks go: ONNX Runtime and OpenVINO run on the processor here."""
    return "cpu" if ENGINES[engine].modules else device


class EngineEncoder:
    """`Encoder` whose pictures go through an engine; what else is asked of it is the encoder's that it was made of."""

    def __init__(self, inner: HasTower, engine: str, run: Run) -> None:
        self.inner, self.run = inner, run
        self.name, self.dim, self.shared_dim = f"{inner.name}@{engine}", inner.dim, inner.shared_dim
        self.fingerprint = fingerprint(inner.fingerprint, engine)

    def __getattr__(self, name: str) -> Any:
        if name in OF_TORCH:
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """As the encoder it was made of."""
        return self.inner.embed_text(texts)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """n RGB pictures -> raw float32 `(n, dim)`."""
        import torch

        if not pictures:
            return np.zeros((0, self.dim), np.float32)

        def embed(chunk: Sequence[Image.Image]) -> torch.Tensor:
            pixels = self.inner.pixels(chunk).numpy()
            filled = np.concatenate([pixels, np.repeat(pixels[-1:], BATCH - len(pixels), 0)])
            return torch.from_numpy(np.array(self.run(filled)[: len(pixels)], np.float32))

        chunks = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
        return torch.cat(tensors.side_by_side(embed, chunks)).numpy()


def fingerprint(of: str, engine: str) -> str:
    """That of an encoder in another engine."""
    return hashlib.sha256(f"{of}@{engine}".encode()).hexdigest()[:16]


def with_engine(encoder: Encoder, engine: str) -> EngineEncoder:
    """The encoder with its network for pictures in `engine`.

    Raises: BowerbirdError when the engine is not installed, cannot run this network, or gives other numbers.
    """
    from PIL import Image

    chosen = ENGINES[engine]
    for module in chosen.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BowerbirdError(
                f"engine {engine} needs {module}, which is not installed: pip install 'bowerbird[{chosen.extra}]'"
            ) from error
    inner: Any = encoder
    if not (hasattr(inner, "tower") and hasattr(inner, "pixels")):
        raise BowerbirdError(
            f"engine {engine}: encoder {encoder.name!r} has no network for pictures that can be exported; small, CLIP"
            " and SigLIP have; leave out the engine"
        )
    rng = np.random.default_rng(0)
    size = int(inner.picture_size)
    noise = [Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(BATCH)]
    try:
        example, tower = inner.pixels(noise), inner.tower()
        run = chosen.start(tower, example, f"{encoder.fingerprint}-{BATCH}")
    except Exception as error:  # of three libraries, each with errors of its own
        line = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise BowerbirdError(
            f"engine {engine} cannot run encoder {encoder.name!r} ({line}); leave out the engine"
        ) from error
    return EngineEncoder(inner, engine, run)


def _start_bfloat16(tower: torch.nn.Module, example: torch.Tensor, key: str) -> Run:
    import copy

    import torch

    network = copy.deepcopy(tower)
    for module in network.modules():  # once, and not with every batch
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.to(torch.bfloat16)
    device = next(network.parameters()).device

    def run(pixels: np.ndarray) -> np.ndarray:
        # what should not be rounded, such as sums, stays in float32
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            return network(torch.from_numpy(pixels).to(device)).float().cpu().numpy()

    return run


def _start_onnx(tower: torch.nn.Module, example: torch.Tensor, key: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # pieces go side by side
    options.log_severity_level = 3

    def load(path: Path) -> Run:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"pixels": pixels})[0]

    return _exported(tower, example, key, "onnx", load)


@functools.cache
def _openvino_core() -> Any:
    """The one of this process, for good. Each would put its own signal stack under the thread that made it, and dropped
    in the order they came they leave one that is freed: the next signal with a handler then ends the process."""
    import openvino

    return openvino.Core()


def _start_openvino(tower: torch.nn.Module, example: torch.Tensor, key: str) -> Run:
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # it would take bfloat16 by itself

    def load(path: Path) -> Run:
        compiled, own = _openvino_core().compile_model(str(path), "CPU", settings), threading.local()

        def run(pixels: np.ndarray) -> np.ndarray:
            if not hasattr(own, "request"):  # one is for one thread at a time
                own.request = compiled.create_infer_request()
            return own.request.infer([pixels])[0]

        return run

    return _exported(tower, example, key, "openvino", load)


def _exported(tower: torch.nn.Module, example: torch.Tensor, key: str, engine: str, load: Callable[[Path], Run]) -> Run:
    """The network from the cache, where it was exported and compared in this engine before, or exported now.

    Raises: BowerbirdError when the engine's numbers are not torch's.
    """
    import torch

    path = cache.directory("engines") / f"{key}.onnx"
    compared = path.with_suffix(f".{engine}.json")
    if path.is_file() and compared.is_file():
        try:
            return load(path)
        except Exception:  # a damaged file, or one of another version: exported again below
            path.unlink(missing_ok=True)
    if not path.is_file():
        with files.atomic_path(path) as target:
            _export(tower, example, target)
    run = load(path)
    with torch.inference_mode():
        theirs, ours = _unit(run(example.numpy())), _unit(tower(example).float().numpy())
    off = float(np.abs(theirs - ours).max())
    if not off <= CLOSE:
        path.unlink(missing_ok=True)
        raise BowerbirdError(f"its embeddings are off by {off:.2g}, and {CLOSE} is allowed")
    files.write_json(compared, {"off": off})
    return run


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _export(tower: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write the network as ONNX, for batches of the example's shape."""
    import warnings

    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        torch.onnx.export(
            tower,
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["pixels"],
            output_names=["embeddings"],
        )


TORCH = "torch"
ENGINES: Mapping[str, Engine] = {
    "onnx": Engine(("onnx", "onnxruntime"), "onnx", _start_onnx),
    "openvino": Engine(("onnx", "openvino"), "openvino", _start_openvino),
    "bfloat16": Engine((), "", _start_bfloat16),
}
"""By the name that stands behind an encoder's, after an @."""
