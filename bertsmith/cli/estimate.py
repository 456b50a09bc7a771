"""`bertsmith estimate`: what a training would take, from the flags that would begin it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertsmith.cli.arguments import Flag
from bertsmith.cli.settings import Settings
from bertsmith.config import PretrainConfig
from bertsmith.display import result_console, show, show_json
from bertsmith.training.settings import Layers

if TYPE_CHECKING:
    from bertsmith.training.estimate import Estimate, Machine


@dataclass(frozen=True, kw_only=True)
class EstimateCommand(Settings):
    """Say what a training would take: parameters, arithmetic, memory by part, messages, time."""

    devices: int = 1
    """GPUs (or processes) that share the work."""
    device_memory: str | None = None
    """Memory of each, as 80GB; without it, what this machine has."""
    flops_per_second: float | None = None
    """FLOP/s that each sustains in training, as 4e14; without it, this machine is measured."""
    json: Flag = False
    """Print one JSON object."""


def estimate(command: EstimateCommand, layers: Layers, asked: Mapping[str, Any]) -> None:
    """Print the table, or the JSON."""
    # What counts memory loads torch, which takes seconds.
    from bertsmith.training import estimate as counted

    config = counted.config_of(layers, asked)
    machine = counted.Machine.of(
        config.training.device,
        devices=command.devices,
        memory=command.device_memory,
        flops_per_second=command.flops_per_second,
    )
    found = counted.estimate(config, machine)
    if command.json:
        show_json(found.to_json())
        return
    _print_table(found, config, machine)
    if not found.fits:
        ways = counted.advice(config, machine)
        show(f"It does not fit; {' or '.join(ways) if ways else 'more devices or less length'}.")


def _print_table(found: Estimate, config: PretrainConfig, machine: Machine) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    memory = found.memory
    is_spread = config.training.parallel == "fsdp" and found.devices > 1
    limit = found.memory_of_device
    pieces = f"{found.accumulation} of {found.micro_batch:,} tokens on each device"
    rows = [
        ("parameters", f"{found.parameters:,}", f"{found.vocab_size:,} vocabulary entries"),
        (
            "the largest step" if config.lays_out_batches else "a step",
            f"{found.tokens_a_step:,} tokens",
            f"{found.sequences_a_step:,} sequences of {config.data.max_length}, all full",
        ),
        ("", _flops(found.flops_a_step), "forward and backward, real tokens"),
        ("micro-batches", str(found.accumulation), pieces),
        ("", "", ""),
        ("memory a device", _size(memory.total), "at most" if limit is None else _of(limit)),
        ("  weights", _size(memory.weights), "float32" + (", a part of them" * is_spread)),
        ("  gradients", _size(memory.gradients), ""),
        ("  optimizer", _size(memory.optimizer), config.training.optimizer),
        (
            "  activations",
            _size(memory.activations),
            "layers done twice" if config.training.recompute else "kept for the backward pass",
        ),
        ("  working", _size(memory.working), "for a moment"),
    ]
    if memory.libraries:
        rows.append(("  libraries", _size(memory.libraries), "PyTorch and this process"))
    if found.devices > 1:
        rows.append(
            ("sent a step", _size(found.sent_a_step), f"by each device, {config.training.parallel}")
        )
    rows.append(("", "", ""))
    if found.flops_per_second and found.seconds_a_step and found.tokens_per_second:
        how = "stated" if machine.flops_per_second else "measured here"
        rows += [
            ("rate", f"{_flops(found.flops_per_second)}/s", f"each device, {how}"),
            ("", f"{found.tokens_per_second:,.0f} tokens/s", "messages between devices left out"),
            ("time a step", _time(found.seconds_a_step), ""),
        ]
    else:
        rows.append(("rate", "not known", "state it with --flops-per-second"))
    if found.steps is not None and found.tokens is not None:
        rows.append(("budget", f"{found.steps:,} steps", f"{found.tokens:,} tokens"))
    if found.seconds is not None:
        rows.append(("", _time(found.seconds), ""))
    for row in rows:
        table.add_row(*row)
    result_console(soft_wrap=True).print(table)


def _of(limit: int) -> str:
    return f"of {_size(limit)}"


def _size(number: float) -> str:
    """Bytes as a person reads them: 1.3 GB."""
    return _scaled(number / 1e3, ("kB", "MB", "GB", "TB", "PB"))


def _flops(number: float) -> str:
    return _scaled(number / 1e6, ("MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    """Three digits, in the unit in which they are under a thousand."""
    place = 0
    while number >= 999.5 and place + 1 < len(units):
        number, place = number / 1000, place + 1
    return f"{number:.3g} {units[place]}"


def _time(seconds: float) -> str:
    """As 0.21 s, 3.4 min, 5.1 h or 12 days."""
    for unit, size, below in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 2 * 86400)):
        if seconds < below:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.2g} days"
