"""Whether a processor multiplies matrices of bfloat16 natively, and so faster than of float32."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

import torch

_SIZE = 768  # of matrices whose product takes milliseconds
_REPEATS = 3
_TIMES_AS_FAST = 1.5
"""Native products are 2 to 4 times as fast as those of float32, emulated ones slower than these."""

_WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Instruction sets of oneDNN without products of bfloat16."""


@cache
def has_native_bfloat16() -> bool:
    """Whether this processor has products of bfloat16 (AVX512-BF16 or AMX), and they are quick.

    The processor is asked, then PyTorch and oneDNN, which may have been told to use less of it
    (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA); what they say is held against the time of a product,
    once in a process, some milliseconds. Processors other than x86-64 are not known here.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT:
        return False
    return _seconds(torch.float32) > _TIMES_AS_FAST * _seconds(torch.bfloat16)


def _seconds(dtype: torch.dtype) -> float:
    """Of a product, the best of some: other work on the machine only adds to it."""
    left, right = (torch.ones(_SIZE, _SIZE, dtype=dtype) for _ in range(2))
    torch.mm(left, right)  # not timed: the first one also makes threads and buffers
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - began)
    return min(times)
