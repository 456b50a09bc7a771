"""Where to compute, in which precision, and how much at once."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bertsmith.config import ModelConfig
from bertsmith.errors import DeviceError
from bertsmith.hardware.native import has_native_bfloat16
from bertsmith.ranks import ALONE, Ranks

TOKENS_AT_ONCE = {"cpu": 2**13, "cuda": 2**17, "mps": 2**15}
"""Most tokens of a micro-batch: on a CPU what its caches serve well."""

_ACTIVATIONS_AT_ONCE = 2**27
"""Most hidden values (tokens × layers × hidden size) of a micro-batch. Training keeps some
30 numbers for each: about 16 GB in float32 where this bound is met, less elsewhere."""

_ROWS_OF_A_KERNEL = 128

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h


def available_devices() -> list[str]:
    """What there is on this machine of cuda, mps and cpu, in this order."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [kind for kind, is_there in there.items() if is_there]


def choose_device(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, mps). Raises: `DeviceError` if it is not there."""
    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise DeviceError(
            f"The device must be on this machine; {name} is not. Use {' or '.join(there)}."
        )
    return torch.device(name)


def device_of_rank(device: torch.device, number: int) -> torch.device:
    """The device of the process `number` of this machine: each has a GPU, and all share a CPU.

    Raises:
        DeviceError: there are fewer GPUs, or the device knows no other ones.
    """
    if device.type == "mps":
        raise DeviceError("Several ranks must be on cpu or cuda; got mps. Give --device cpu.")
    if device.type != "cuda":
        return device
    if number >= torch.cuda.device_count():
        raise DeviceError(
            f"Each rank must have a GPU; there are {torch.cuda.device_count()} for more processes. "
            "Lower --nproc-per-node."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def describe_device(device: torch.device) -> str:
    """As the closing line says it: `[cpu]`, `[cuda: NVIDIA H200]`."""
    if device.type == "cuda":
        return f"[cuda: {torch.cuda.get_device_name(device)}]"
    return f"[{device.type}]"


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type of matrix products; auto is bfloat16 on CUDA and where a CPU has it natively."""
    if precision == "auto":
        has_it = device.type == "cuda" or (device.type == "cpu" and has_native_bfloat16())
        precision = "bfloat16" if has_it else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def settled_precision(
    device: torch.device, precision: str, ranks: Ranks = ALONE
) -> Literal["float32", "bfloat16"]:
    """What auto means on a device: bfloat16 if all ranks have it. Another is as it is."""
    is_whole = compute_dtype(device, precision) == torch.float32
    return "float32" if ranks.any(is_whole) else "bfloat16"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context for the forward pass, with products in `compute_dtype`."""
    dtype = compute_dtype(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def whole_on_cpu(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast on a CPU: for small products, where bfloat16 gains no time."""
    return torch.autocast("cpu", enabled=False) if device.type == "cpu" else nullcontext()


def product_dtype(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.dtype:
    """In which type matrices of `dtype` are multiplied: autocast's, inside one."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype


def rounds_rows(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether matrices of `dtype` are multiplied with rounded numbers of rows.

    oneDNN, which multiplies bfloat16 on a CPU, makes a kernel for every shape that it meets, which
    takes as long as a small product, and keeps it with its buffers. Batches without padding have
    new shapes at every step; rounded up, they have few.
    """
    return device.type == "cpu" and dtype == torch.bfloat16


def rounded_rows(num_rows: int) -> int:
    """The next multiple of 128."""
    return math.ceil(num_rows / _ROWS_OF_A_KERNEL) * _ROWS_OF_A_KERNEL


def rows_with_filler(num_rows: int, device: torch.device) -> int:
    """The rows of a matrix under the present autocast: `num_rows`, or, rounded up, at least one
    more, which nobody reads.
    """
    return rounded_rows(num_rows + 1) if rounds_rows(device, product_dtype(device)) else num_rows


def to_device(made: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`; nothing waits for the copy."""
    if device.type == "cuda" and made.device.type == "cpu":
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)


def wait_for(device: torch.device) -> None:
    """Wait until `device` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Inside, CUDA's kernels add in a fixed order, so that a run repeats itself byte for byte.

    On a CPU they do so in any case. Past 128 tokens flash attention's backward pass needs it; it
    costs next to nothing (docs/speed.md).
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its start
    was, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filling: Any = torch.utils.deterministic
    fills = filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # which would write all twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=only_warns)
        filling.fill_uninitialized_memory = fills


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, instead of giving it back and asking anew.

    A step on a CPU frees and takes the same hundreds of megabytes again and again. glibc hands
    large blocks back to the system each time, and the next use of every 4 kB page of them is a
    fault, which on a virtual machine takes microseconds: up to a fifth of a step (see
    docs/speed.md). The process then stays as large as it once was. Elsewhere than on Linux
    with glibc nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**30)


def resident_bytes() -> int:
    """Memory of this process as it is now; the most it ever was where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_bytes(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process had: of a GPU, or of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def usual_micro_batch(device: torch.device, config: ModelConfig) -> int:
    """Tokens at once that suit the device where nothing is measured: fewer of a large network."""
    activations = config.num_hidden_layers * config.hidden_size
    return max(1, min(TOKENS_AT_ONCE[device.type], _ACTIVATIONS_AT_ONCE // activations))
