"""How fast are the measures? Ours beside the peer, on the same features, in one process, with the ratio of the times
and of the values.

python benchmarks/measures.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from bowerbird.evaluation.copies import windows
from bowerbird.evaluation.metrics.frechet import frechet_distance
from bowerbird.evaluation.metrics.kernel import kernel_distance
from bowerbird.evaluation.metrics.manifold import manifold


class Given(torch.nn.Module):
    """Features that are already there, in the place of torchmetrics' network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def timed(task: Callable[[], float]) -> tuple[float, float]:
    """Seconds and value of `task`."""
    start = time.perf_counter()
    value = task()
    return time.perf_counter() - start, value


def line(name: str, ours: tuple[float, float], peer: tuple[float, float]) -> None:
    print(
        f"{name:52} ours {ours[0]:7.2f} s  peer {peer[0]:7.2f} s  ratio {ours[0] / peer[0]:5.2f}   values {ours[1]:.6g}"
        f" and {peer[1]:.6g}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--width", type=int, default=2048, help="of the features; Inception's")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    a, b = (rng.normal(shift, 1, (arguments.n, arguments.width)).astype(np.float32) for shift in (0.0, 0.02))
    tensors = torch.from_numpy(a), torch.from_numpy(b)

    def filled(metric: torch.nn.Module) -> torch.nn.Module:
        for x, real in zip(tensors, (True, False), strict=True):
            metric.update(x[:, :, None, None], real=real)  # type: ignore[operator]
        return metric

    def fid() -> float:
        metric = FrechetInceptionDistance(
            feature=Given(arguments.width), normalize=True, input_img_size=(arguments.width, 1, 1)
        )
        return float(filled(metric.set_dtype(torch.float64)).compute())  # type: ignore[operator]

    def kid() -> float:
        metric = KernelInceptionDistance(feature=Given(arguments.width), normalize=True, subsets=50, subset_size=1000)
        return float(filled(metric).compute()[0])  # type: ignore[operator]

    line("Fréchet distance (torchmetrics)", timed(lambda: frechet_distance(b, a)), timed(fid))
    line("KID, 50 subsets of 1,000 (torchmetrics)", timed(lambda: kernel_distance(b, a, subsets=50)[0]), timed(kid))

    def precision_by_faiss() -> float:
        index = faiss.IndexFlatL2(arguments.width)
        index.add(a)
        radius = index.search(a, 6)[0][:, 5]
        squared = faiss.pairwise_distances(b, a)
        return float((squared <= radius[None]).any(1).mean())

    line(
        "precision alone, k = 5 (FAISS), ours with recall etc.",
        timed(lambda: manifold(b, a, k=5).precision),
        timed(precision_by_faiss),
    )

    queries, there = (
        rng.normal(0, 1, (64, 19, 128)).astype(np.float32),
        rng.normal(0, 1, (1024, 19, 128)).astype(np.float32),
    )
    queries, there = (x / np.linalg.norm(x, axis=2, keepdims=True) for x in (queries, there))

    def windows_by_faiss() -> float:
        index = faiss.IndexFlatIP(128)
        index.add(there[:, 1:].reshape(-1, 128))
        return float(index.search(queries[:, 1:].reshape(-1, 128), 1)[0].reshape(64, -1).max(1).mean())

    line(
        "windows of 64 x 1,024 (FAISS top 1), ours: every pair",
        timed(lambda: float(windows.compare(queries, there).split.max(1).mean())),
        timed(windows_by_faiss),
    )


if __name__ == "__main__":
    main()
