"""How benchmarks write down figures, machines and versions."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def figures_of(module: str, *arguments: str, **variables: str) -> dict[str, Any]:
    """What `python -m module` prints in its last line, as JSON; in a process of its own.

    Args:
        variables: of its environment, beside those that are there.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def column(turns: list[dict[str, float]], name: str, form: str, scale: float = 1) -> str:
    """One figure over all turns."""
    return spread([turn[name] * scale for turn in turns], form)


def times(rounds: dict[str, list[dict[str, float]]], ours: str, side: str, name: str) -> str:
    """How many times our figure is theirs, turn by turn."""
    if side == ours or ours not in rounds:
        return "—"
    pairs = zip(rounds[ours], rounds[side], strict=True)
    return f"{spread([a[name] / b[name] for a, b in pairs], '{:.2f}')} ×"


def spread(values: list[float], form: str) -> str:
    """Median (lowest to highest)."""
    low, mid, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{mid} ({low} to {high})"


def processor() -> str:
    """Its name, its cores and what vectors it has."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = rows[0].split(":", 1)[1].strip() if rows else name
    return f"{name}, {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()})"


def versions() -> str:
    """Python and the libraries that matter."""
    names = ("torch", "transformers", "d2l", "tokenizers", "numpy")
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {_version(n)}" for n in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"
