"""What a training takes before it is begun: arithmetic, memory, messages and time.

All is of sequences of the full length; shorter ones take less. Counted by hand from the network
(`bertsmith.training.memory`, `bertsmith.hardware.rate`); the rate alone is measured, or stated.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch

from bertsmith.architectures import Encoder, MicroBatch, architecture_of, build
from bertsmith.config import PretrainConfig, resolve
from bertsmith.errors import ConfigError, DeviceError
from bertsmith.extras import is_installed
from bertsmith.hardware.device import (
    TOKENS_AT_ONCE,
    autocast,
    available_devices,
    choose_device,
    compute_dtype,
    keep_freed_memory,
    resident_bytes,
    usual_micro_batch,
)
from bertsmith.objectives import objective_of
from bertsmith.ranks import ALONE
from bertsmith.training.fit import SHARE_OF_FREE, free_memory, made_up_batch
from bertsmith.training.memory import (
    bytes_of_muon,
    bytes_of_optimizer,
    bytes_of_parameters,
    empty_model,
)
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import PhaseClock
from bertsmith.training.schedules import short_share
from bertsmith.training.settings import Layers
from bertsmith.training.step import train_step

_MEASURED_STEPS, _MEASURED_SECONDS = 3, 8.0
"""At least so many steps, and so long: a processor that was idle begins faster than it goes on."""

_BETWEEN = {"cpu": 0.15, "cuda": 0.05, "mps": 0.05}
"""Share of the activations that is lost between blocks, as these change their sizes from batch to
batch: on a CPU as measured with mini and small (docs/scaling.md); elsewhere a guess."""


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it is to run: so many devices of a kind."""

    kind: str
    """cpu, cuda or mps."""
    devices: int = 1
    memory: int | None = None
    """Bytes of each; None: what this machine has."""
    flops_per_second: float | None = None
    """That each sustains in training; None: measured, if `memory` is this machine's, too."""

    @staticmethod
    def of(
        device: str,
        *,
        devices: int = 1,
        memory: int | str | None = None,
        flops_per_second: float | None = None,
    ) -> Machine:
        """The machine that is asked for.

        Args:
            device: auto, cpu, cuda or mps; auto is a GPU if `memory` is stated, which need not be
                here, and otherwise what this machine has.
            devices: how many.
            memory: of each, in bytes or as "80GB".
            flops_per_second: see `Machine`.

        Raises:
            ConfigError: there is no device, or the memory is not a size.
        """
        if devices < 1:
            raise ConfigError(f"`devices` must be at least 1; got {devices}.")
        if device == "auto":
            device = choose_device("auto").type if memory is None else "cuda"
        size = bytes_of(memory) if isinstance(memory, str) else memory
        return Machine(kind=device, devices=devices, memory=size, flops_per_second=flops_per_second)


def bytes_of(text: str) -> int:
    """A size such as 80GB, 24 GiB or 16000000000, in bytes. Raises: `ConfigError`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise ConfigError(f"`device_memory` must be a size such as 80GB; got {text!r}.")
    number, unit, is_binary = found.groups()
    factor = _UNITS[unit.upper()]
    if is_binary:
        factor = 1024 ** list(_UNITS).index(unit.upper())
    return int(float(number) * factor)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device, at the moment at which most is taken."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept by the forward pass of a micro-batch for the backward pass."""
    working: int
    """Taken for a moment, and lost between blocks."""
    libraries: int
    """PyTorch and the rest of the process; of a CPU only."""

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The answer; sizes in bytes, times in seconds."""

    parameters: int
    vocab_size: int
    devices: int
    device: str
    sequences_a_step: int
    tokens_a_step: int
    flops_a_step: int
    micro_batch: int
    """Tokens at once on each device."""
    accumulation: int
    """Micro-batches a step on each device."""
    memory: Memory
    memory_of_device: int | None
    """None: not known."""
    fits: bool
    sent_a_step: int
    """Bytes that each device sends a step for the gradients (and weights, if they are spread)."""
    flops_per_second: float | None
    """Of each device; None: neither stated nor measured."""
    seconds_a_step: float | None
    """Without the time that messages take."""
    tokens_per_second: float | None
    steps: int | None
    """Of the whole budget; None: it depends on the text."""
    tokens: int | None
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """All of it, with the sum of the memory."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def config_of(layers: Layers, settings: Mapping[str, Any]) -> PretrainConfig:
    """The settings of the training to estimate.

    Args:
        layers: what is below.
        settings: what is asked for; `vocab_size` may be that of a vocabulary which is bounded
            otherwise, or is there already.
    """
    others = {name: value for name, value in settings.items() if name != "vocab_size"}
    config = layers.resolve(others)
    if "vocab_size" not in settings:
        return config
    preparation = replace(config.preparation, vocab_size=settings["vocab_size"])
    return replace(config, preparation=preparation)


def estimate(config: PretrainConfig, machine: Machine) -> Estimate:
    """What training with `config` takes.

    Args:
        config: of the run; `vocab_size` is taken for the size of the vocabulary.
        machine: where.

    Raises:
        DeviceError: there are more devices than sequences in a step.
    """
    training, length = config.training, config.data.max_length
    if training.smallest_batch < machine.devices:
        raise DeviceError(
            f"`{training.setting_of(training.smallest_batch)}` must be at least one for each of "
            f"the {machine.devices} devices; got {training.smallest_batch}."
        )
    vocab_size = config.preparation.vocab_size
    architecture = architecture_of(config.model.architecture)
    model = empty_model(config.model, vocab_size, objective_of(config.data.objective))
    num_masked = max(1, round(config.data.largest_mlm_probability * length))
    batch = _Work.of(training.largest_batch, length, num_masked)
    flops = architecture.training_flops(config.model, vocab_size, batch)
    limit = _memory_here(machine) if machine.memory is None else machine.memory
    share = math.ceil(training.largest_batch / machine.devices)
    of_tokens, of_flops = _mean_shares(config, vocab_size, batch, flops)
    number = _sequences_at_once(config, machine, model, share, num_masked, limit)
    accumulation = math.ceil(share / number)
    memory = _memory(config, machine, model, number, num_masked)
    fits = limit is None or memory.total <= limit * SHARE_OF_FREE
    rate = machine.flops_per_second or (_rate_here(config, machine, number) if fits else None)
    seconds = flops / (rate * machine.devices) if rate else None
    steps = _steps(config, batch.num_tokens, seconds)
    return Estimate(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocab_size=vocab_size,
        devices=machine.devices,
        device=machine.kind,
        sequences_a_step=training.largest_batch,
        tokens_a_step=batch.num_tokens,
        flops_a_step=flops,
        micro_batch=number * length,
        accumulation=accumulation,
        memory=memory,
        memory_of_device=limit,
        fits=fits,
        sent_a_step=sent_bytes(
            bytes_of_parameters(model),
            machine.devices,
            training.parallel,
            accumulation,
            of_muon=bytes_of_muon(model, training),
        ),
        flops_per_second=rate,
        seconds_a_step=seconds,
        tokens_per_second=batch.num_tokens / seconds if seconds else None,
        steps=steps,
        tokens=None if steps is None else round(steps * batch.num_tokens * of_tokens),
        seconds=None if steps is None or seconds is None else steps * seconds * of_flops,
    )


def _mean_shares(
    config: PretrainConfig, vocab_size: int, largest: _Work, flops: float
) -> tuple[float, float]:
    """What a step has on average of the tokens and of the arithmetic of the largest one."""
    data, training = config.data, config.training
    size, share = training.mean_batch / training.largest_batch, short_share(data, training)
    if data.first_max_length is None:
        return size, size
    num_masked = max(1, round(data.largest_mlm_probability * data.first_max_length))
    short = _Work.of(training.largest_batch, data.first_max_length, num_masked)
    architecture = architecture_of(config.model.architecture)
    of_short = architecture.training_flops(config.model, vocab_size, short) / flops
    tokens = short.num_tokens / largest.num_tokens
    return size * (share * tokens + 1 - share), size * (share * of_short + 1 - share)


def _rate_here(config: PretrainConfig, machine: Machine, number: int) -> float | None:
    """FLOP/s of each device by a few steps; None: the machine is not this one."""
    if machine.memory is not None or machine.kind not in available_devices():
        return None
    device = torch.device(machine.kind)
    rate = measured_rate(config, config.preparation.vocab_size, number, device)
    return rate / (machine.devices if machine.kind == "cpu" else 1)  # which they share


def sent_bytes(
    parameters: int, devices: int, parallel: str, accumulation: int = 1, *, of_muon: int = 0
) -> int:
    """Bytes that each device sends a step, by rings: all but its own part, once for each pass.

    Args:
        parameters: bytes of all weights, which is that of all gradients.
        devices: how many.
        parallel: "ddp": gradients are scattered as sums and gathered; "fsdp": weights are gathered
            before each forward and each backward pass, gradients scattered as sums.
        accumulation: micro-batches a step.
        of_muon: bytes of the matrices that Muon updates, each of which is gathered if it is spread.
    """
    passed = 2 * parameters if parallel == "ddp" else (2 * accumulation + 1) * parameters + of_muon
    return passed * (devices - 1) // devices


def measured_rate(
    config: PretrainConfig,
    vocab_size: int,
    num_sequences: int,
    device: torch.device,
    *,
    at_least: float = _MEASURED_SECONDS,
) -> float:
    """FLOP/s of this machine's `device`: the median of some steps of made-up text.

    The updates are in it as they are in a step of the run, which has more micro-batches.

    Args:
        config: of the run.
        vocab_size: of the network.
        num_sequences: of a micro-batch.
        device: where.
        at_least: seconds to measure for.
    """
    keep_freed_memory()
    objective = objective_of(config.data.objective)
    model = build(config.model, vocab_size, objective.heads)
    model.initialize(0)
    model.to(device)
    model.recomputes = config.training.recompute
    parallel = Parallel(model, objective, ALONE, "ddp", device)
    optimizers = make_optimizers(model, config.training)
    batch = made_up_batch(config, vocab_size, num_sequences)
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) <= _MEASURED_STEPS or time.perf_counter() - began < at_least:
        clock = PhaseClock(device)
        train_step(
            parallel,
            optimizers,
            batch,
            micro_batch=batch.num_tokens,
            max_grad_norm=config.training.max_grad_norm,
            dropout_key=0,
            device=device,
            autocast=lambda: autocast(device, config.training.precision),
            phase=clock,
        )
        rounds = config.training.largest_batch / num_sequences
        parts = clock.seconds
        seconds.append(rounds * (parts["forward"] + parts["backward"]) + parts["optimizer"])
    work = _Work.of(config.training.largest_batch, batch.lengths[0], batch.num_masked_each[0])
    architecture = architecture_of(config.model.architecture)
    flops = architecture.training_flops(config.model, vocab_size, work)
    return flops / statistics.median(seconds[1:])


@dataclass(frozen=True)
class _Work:
    """Sizes of a batch of full sequences."""

    num_sequences: int
    num_tokens: int
    num_squared: int
    num_masked: int

    @staticmethod
    def of(num_sequences: int, length: int, num_masked: int) -> _Work:
        return _Work(
            num_sequences,
            num_sequences * length,
            num_sequences * length**2,
            num_sequences * num_masked,
        )


def _sequences_at_once(
    config: PretrainConfig,
    machine: Machine,
    model: Encoder,
    share: int,
    num_masked: int,
    limit: int | None,
) -> int:
    """Sequences of a micro-batch: what is asked for, or the most that fits; at least 1."""
    length = config.data.max_length
    asked = config.training.micro_batch
    if asked != "auto":
        return max(1, min(share, asked // length))
    tokens = TOKENS_AT_ONCE[machine.kind]
    if limit is None:
        tokens = usual_micro_batch(torch.device(machine.kind), config.model)
    most = max(1, min(share, tokens // length))
    if limit is None:
        return most

    def fits(number: int) -> bool:
        return _memory(config, machine, model, number, num_masked).total <= limit * SHARE_OF_FREE

    # By itself: without accumulation, FSDP takes less of gradients.
    if fits(most):
        return most
    fitting = bisect_left(range(1, most), True, key=lambda number: not fits(number))
    return max(1, fitting)


def _memory(
    config: PretrainConfig, machine: Machine, model: Encoder, number: int, num_masked: int
) -> Memory:
    training, vocab_size = config.training, model.vocab_size
    architecture = architecture_of(config.model.architecture)
    dtype = compute_dtype(torch.device(machine.kind), training.precision)
    batch = MicroBatch(
        num_sequences=number,
        length=config.data.max_length,
        num_masked=num_masked,
        device_type=machine.kind,
        is_half=dtype == torch.bfloat16,
    )
    weights = bytes_of_parameters(model)
    is_spread = training.parallel == "fsdp" and machine.devices > 1
    parts = machine.devices if is_spread else 1
    # FSDP scatters gradients with the last micro-batch of a step, and has them whole until then.
    accumulates = number < math.ceil(training.largest_batch / machine.devices)
    activations = architecture.activation_bytes(
        config.model, vocab_size, batch, recomputes=training.recompute
    )
    working = architecture.working_bytes(config.model, vocab_size, batch)
    working += int(_BETWEEN[machine.kind] * activations)
    if is_spread:  # one layer, and what is no layer's, are whole while they are at work
        layer = bytes_of_parameters(model.layers[0])
        working += 2 * layer + weights - layer * len(model.layers)
    libraries = 0
    if machine.kind == "cpu":
        libraries = _libraries() + (_OF_ONEDNN if batch.is_half else 0)
    return Memory(
        weights=weights // parts,
        gradients=weights if accumulates else weights // parts,
        optimizer=bytes_of_optimizer(model, training) // parts,
        activations=activations,
        working=working,
        libraries=libraries,
    )


_OF_ONEDNN = 80 * 10**6
"""Of its kernels for bfloat16 and their buffers: 60 to 130 MB with `tiny` to `small`."""


@cache
def _libraries() -> int:
    """Bytes of a process that has trained something tiny: much of PyTorch is loaded on first use.

    What draws the curves is loaded by a run, too.
    """
    import bertsmith.training.pretrain

    if is_installed("curves"):
        import bertsmith.reporting.curves  # noqa: F401

    config = resolve(
        preset="tiny",
        overrides={"num_hidden_layers": 1, "max_length": 8, "batch_size": 2, "device": "cpu"},
    )
    cpu = torch.device("cpu")
    measured_rate(config, vocab_size=100, num_sequences=2, device=cpu, at_least=0.0)
    return resident_bytes()


def _memory_here(machine: Machine) -> int | None:
    """Bytes that each process of a training here could take; None if that is not known."""
    if machine.kind == "cuda" and not torch.cuda.is_available():
        return None
    free = free_memory(torch.device(machine.kind))
    if free is None or machine.kind != "cpu":
        return free
    return (free + _libraries()) // machine.devices


def _steps(config: PretrainConfig, tokens_a_step: int, seconds: float | None) -> int | None:
    training = config.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return math.ceil(training.tokens / tokens_a_step)
    if training.pairs is not None:
        return math.ceil(training.pairs / training.mean_batch)
    if training.minutes is not None and seconds:
        return math.ceil(60 * training.minutes / seconds)
    return None


def advice(config: PretrainConfig, machine: Machine) -> list[str]:
    """Flags with which it would fit, where it does not; the first is the cheapest."""
    ways: list[tuple[str, Mapping[str, Any]]] = [("--recompute", {"recompute": True})]
    if machine.devices > 1:
        ways += [
            ("--parallel fsdp", {"parallel": "fsdp"}),
            ("--parallel fsdp --recompute", {"parallel": "fsdp", "recompute": True}),
        ]
    return [
        flags
        for flags, changes in ways
        if estimate(
            replace(config, training=replace(config.training, **changes)),
            replace(machine, flops_per_second=1.0),
        ).fits
    ]
