"""A finished run, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertsmith.objectives import terms_in
from bertsmith.training.phases import describe


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    output: Path
    """Its folder."""
    metrics: dict[str, Any] = field(repr=False)
    """The closing figures, as in the last line of metrics.jsonl."""

    @property
    def sentence_pairs_per_second(self) -> float:
        """Wall clock with the making of batches in it, without the first step."""
        return float(self.metrics["sentence_pairs_per_second"])

    def closing_lines(self) -> list[str]:
        """The figures as the textbook prints them, the validation figures under them."""
        m = self.metrics
        has_pairs = "sentence_pairs_per_second" in m
        has_memory = "peak_memory_bytes" in m  # not of a run that an older version finished
        rate = m["sentence_pairs_per_second" if has_pairs else "segments_per_second"]
        names = terms_in(m)
        lines = [
            ", ".join(f"{name.upper()} loss {_number(m[f'{name}_loss'])}" for name in names),
            f"{rate:.1f} {'sentence pairs' if has_pairs else 'segments'}/sec on {m['device']}",
            f"{m['tokens_per_second']:,.0f} tokens/sec, {_share(m)}"
            + (f"; {m['peak_memory_bytes'] / 1e9:.1f} GB of memory at most" if has_memory else ""),
        ]
        if f"validation_{names[0]}_loss" in m:
            lines.append("validation: " + ", ".join(_validation(m, name) for name in names))
        if at_words := m.get("checkpoints_at_words"):
            steps = ", ".join(f"{words}: step-{step:08d}" for words, step in at_words.items())
            lines.append(f"checkpoints at numbers of words: {steps}")
        if "phase_seconds" in m:
            lines += describe(m["phase_seconds"])
        return lines


def _validation(metrics: Mapping[str, Any], name: str) -> str:
    """Loss and accuracy of a term on the validation split."""
    loss = metrics[f"validation_{name}_loss"]
    if loss is None:
        return "no masked token, since every word is unknown"
    accuracy = metrics.get(f"validation_{name}_accuracy")
    shown = f"{name.upper()} loss {loss:.3f}"
    return shown if accuracy is None else f"{shown}, {name.upper()} accuracy {accuracy:.1%}"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _share(metrics: dict[str, Any]) -> str:
    """How the steps did beside the machine's matrix products."""
    peak = f"{metrics['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    if metrics["share_of_peak"] is None:
        return f"more than matrix products did here ({peak}), which other work must have slowed"
    share = f"{metrics['share_of_peak']:.0%}"
    return f"{share} of what matrix products alone would allow here ({peak})"
