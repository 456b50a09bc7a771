"""How many tokens at once fit in memory, by trying a few.

On a GPU a small and a larger micro-batch go forward and back, what they took at most gives the line
on which the largest lies, and that one is tried, too. On a CPU nothing says how much was taken at
most, and a process that takes too much is killed: there what the forward pass keeps is counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bertsmith.architectures import MicroBatch, architecture_of
from bertsmith.batch import Batch
from bertsmith.config import PretrainConfig
from bertsmith.errors import DeviceError
from bertsmith.hardware.device import TOKENS_AT_ONCE, usual_micro_batch
from bertsmith.nn.shards import own_part
from bertsmith.training.memory import bytes_of_optimizer, bytes_of_parameters
from bertsmith.training.parallel import Parallel

SHARE_OF_FREE = 0.9  # the rest is for what is not counted, and for others

_TRIED_ON_CUDA = 8
"""Sequences: of fewer, what is allocated whatever their number hides what each takes."""


def fitting_micro_batch(
    parallel: Parallel,
    config: PretrainConfig,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> int:
    """The largest micro-batch in tokens that fits, up to what the device works best with.

    All ranks try at once and take what fits on each. Weights are as before; gradients are gone.

    Raises:
        DeviceError: one sequence of the full length does not fit, or a rank that others wait for
            met the end of its memory.
    """
    length = config.data.max_length
    share = math.ceil(config.training.largest_batch / parallel.ranks.size)
    is_known = free_memory(device) is not None
    usual = TOKENS_AT_ONCE[device.type] if is_known else usual_micro_batch(device, config.model)
    fits = max(1, min(usual, share * length) // length)
    if is_known and fits > 1:
        trial = _Trial(parallel, config, device, autocast, fits)
        fits = largest(
            trial.bytes_of,
            free=trial.free,
            most=fits,
            several=_TRIED_ON_CUDA if device.type == "cuda" else 2,
            confirms=device.type == "cuda",
            least=lambda number: int(parallel.ranks.gather([number]).min()),
        )
        parallel.model.zero_grad()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    if not fits:
        error = DeviceError(
            f"One sequence of {length} tokens does not fit in the memory of {device.type}; give "
            "--recompute, a smaller model, or a shorter --max-length; several GPUs share the "
            "states of a model with --parallel fsdp."
        )
        raise parallel.ranks.of_all(error)
    return fits * length


def with_micro_batch(config: PretrainConfig, tokens: int | Literal["auto"]) -> PretrainConfig:
    """`config` with so many tokens at once."""
    return replace(config, training=replace(config.training, micro_batch=tokens))


def largest(
    measure: Callable[[int], int],
    *,
    free: int,
    most: int,
    several: int,
    confirms: bool,
    least: Callable[[int], int] = int,
) -> int:
    """The most sequences that fit, 0 to `most`, by a line through two measurements.

    Args:
        measure: the bytes that so many sequences take; `torch.OutOfMemoryError` if they cannot.
        free: bytes that there are.
        most: not more than these.
        several: so many of them, or fewer if these do not fit, give the line beside one.
        confirms: whether the answer is measured as well, and lowered until it fits.
        least: of a number that the ranks have; each calls it equally often.
    """
    number = least(_on_the_line(measure, free, most, several))
    while confirms and number > 1 and not least(_is_within(measure, number, free)):
        number = 3 * number // 4
    return number


def _on_the_line(measure: Callable[[int], int], free: int, most: int, several: int) -> int:
    try:
        one = measure(1)
    except torch.OutOfMemoryError:
        return 0
    several = min(several, most)
    while several > 1:
        try:
            each = (measure(several) - one) / (several - 1)
        except torch.OutOfMemoryError:
            several //= 2
            continue
        return most if each <= 0 else max(0, min(most, int(1 + (free - one) / each)))
    return 1


def _is_within(measure: Callable[[int], int], number: int, free: int) -> bool:
    try:
        return measure(number) <= free
    except torch.OutOfMemoryError:
        return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on `device`; None if that is not known."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        available = sizes["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min([available, *left_by_control_groups()]) // sharing


def left_by_control_groups(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes that each bound on this process leaves: a container's, a scheduler's, a service's.

    Of Linux's control groups, version 2; files that were read and may be forgotten are not counted
    as used.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    place = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    found = []
    for folder in [root / place, *(root / place).parents]:
        if folder.is_relative_to(root):
            try:
                limit = int((folder / "memory.max").read_text(encoding="ascii"))
                used = int((folder / "memory.current").read_text(encoding="ascii"))
                stat = (folder / "memory.stat").read_text(encoding="ascii").split()
                cached = int(stat[stat.index("inactive_file") + 1])
            except (OSError, ValueError):  # no bound ("max"), or none that may be read
                continue
            found.append(limit - used + cached)
    return found


class _Trial:
    """Goes through the network with sequences of the full length."""

    def __init__(
        self,
        parallel: Parallel,
        config: PretrainConfig,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        most: int,
    ) -> None:
        self._parallel, self._config, self._device = parallel, config, device
        self._autocast = autocast
        model, training = parallel.model, config.training
        if device.type == "cuda":  # what is allocated once is there before anything is measured
            with suppress(torch.OutOfMemoryError):
                self.bytes_of(1)
        batch = MicroBatch(
            num_sequences=most,
            length=config.data.max_length,
            num_masked=_num_masked(config),
        )
        parts = parallel.ranks.size if parallel.requires_lockstep else 1
        reserve = bytes_of_optimizer(model, training) // parts
        if device.type == "cpu" or parallel.ranks.size > 1:
            # Gradients; FSDP has them whole where a step has several micro-batches, and DDP has
            # room to send them in.
            reserve += bytes_of_parameters(model)
        if device.type == "cpu":
            architecture = architecture_of(config.model.architecture)
            reserve += architecture.working_bytes(config.model, model.vocab_size, batch)
            if training.recompute:  # of one layer at a time all is there
                reserve += architecture.layer_bytes(config.model, batch)
        self.free = int((free_memory(device) or 0) * SHARE_OF_FREE) - reserve
        """Bytes that are left for a micro-batch."""

    def bytes_of(self, num_sequences: int) -> int:
        """What a micro-batch of so many sequences takes beyond what is there."""
        batch = made_up_batch(self._config, self._parallel.model.vocab_size, num_sequences)
        batch = batch.to(self._device)
        return self._kept(batch) if self._device.type == "cpu" else self._peak(batch)

    def _kept(self, batch: Batch) -> int:
        """Bytes that the forward pass keeps for the backward pass."""
        own = map(own_part, self._parallel.model.parameters())
        known = {part.untyped_storage().data_ptr() for part in own}
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            losses = self._forward(batch)
        del losses
        return sum(kept.values())

    def _peak(self, batch: Batch) -> int:
        """Bytes that the forward and the backward pass take at most, with the gradients."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        try:
            self._forward(batch).backward()
        except torch.OutOfMemoryError as error:
            if not self._parallel.requires_lockstep:
                raise
            raise DeviceError(
                f"{batch.num_tokens:,} tokens at once do not fit in the memory of rank "
                f"{self._parallel.ranks.rank}, and the others wait for it; give a --micro-batch, "
                "or --recompute."
            ) from error
        torch.cuda.synchronize(self._device)
        self._parallel.model.zero_grad()
        return torch.cuda.max_memory_allocated(self._device) - before

    def _forward(self, batch: Batch) -> Tensor:
        with self._autocast():
            found = [part.sum() for part in self._parallel.forward_here(batch, 0)]
        return 0.0 * torch.stack(found).sum()


def _num_masked(config: PretrainConfig) -> int:
    return max(1, round(config.data.largest_mlm_probability * config.data.max_length))


def made_up_batch(config: PretrainConfig, vocab_size: int, num_sequences: int) -> Batch:
    """A batch of sequences of the full length, with as many masks as there will be."""
    length = config.data.max_length
    num_masked = _num_masked(config)
    tokens = num_sequences * length
    first = torch.arange(num_sequences) * length
    return Batch(
        input_ids=torch.arange(tokens) % vocab_size,
        token_type_ids=torch.zeros(tokens, dtype=torch.int64),
        position_ids=torch.arange(length).repeat(num_sequences),
        cu_seqlens=(torch.arange(num_sequences + 1) * length).int(),
        masked_positions=(first[:, None] + torch.arange(1, num_masked + 1)).flatten(),
        masked_labels=torch.zeros(num_sequences * num_masked, dtype=torch.int64),
        sequence_labels=torch.zeros(
            num_sequences if config.data.is_pairs else 0, dtype=torch.int64
        ),
        lengths=(length,) * num_sequences,
        num_masked_each=(num_masked,) * num_sequences,
        starts=tuple(first.tolist()),
    )
