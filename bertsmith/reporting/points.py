"""What is drawn of a run's metrics: training and validation, smoothed, and floors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bertsmith.objectives import Term


def smooth(values: list[float], span: float) -> list[float]:
    """Exponential mean over about `span` values, without the pull towards 0 at the beginning."""
    keep = 1 - 1 / max(span, 1.0)
    total = weight = 0.0
    out = []
    for value in values:
        total = keep * total + value
        weight = keep * weight + 1
        out.append(total / weight)
    return out


def floor_of(lines: Sequence[dict[str, Any]], term: Term) -> float | None:
    """The loss of what takes no model: chance, or word frequencies on the validation text."""
    if term.chance_loss is not None:
        return term.chance_loss
    known = (line.get(f"validation_unigram_{term.name}_loss") for line in reversed(lines))
    return next((floor for floor in known if isinstance(floor, float)), None)


def training_lines(lines: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Those that have a figure of training."""
    return [line for line in lines if "learning_rate" in line and line.get(name) is not None]


def validation_lines(lines: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Those that have a figure of validation, `validation_` before its name.

    The closing figures are of all pairs, those on the way of some: not a next point. A short run
    may have had no time for one on the way.
    """
    judged = [line for line in lines if line.get(f"validation_{name}") is not None]
    return [line for line in judged if "finished" not in line] or judged
