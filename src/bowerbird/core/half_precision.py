"""Where bfloat16 is worth it: a processor without instructions for it computes the same many times slower."""

from __future__ import annotations

import functools


@functools.cache
def has_fast_bfloat16(device: str) -> bool:
    """Whether `device` (cpu, cuda, mps, …) has instructions for bfloat16."""
    import platform

    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return True
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    found = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported() for supported in found if supported is not None)
