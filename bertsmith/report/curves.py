"""Both losses of a run over its steps, as a picture, from metrics.jsonl alone."""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertsmith.errors import printable
from bertsmith.report.metrics_file import read_metrics

_TRAINING, _VALIDATION = "#4c78a8", "#e45756"
_POINTS = 5000  # several for each dot of the picture's width
_PANELS = {
    "mlm_loss": "Masked language modelling",
    "nsp_loss": "Next sentence prediction",
}


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


def draw_curves(run: Path) -> Figure:
    """The figure: MLM loss, and of pairs NSP loss beside it; training and validation in each."""
    lines = read_metrics(run, about=_POINTS)
    panels = {name: title for name, title in _PANELS.items() if any(name in line for line in lines)}
    panels = panels or _PANELS
    figure = Figure(figsize=(4.5 * len(panels), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    name = printable(run.resolve().name)  # as it is: a dollar in it begins no formula
    figure.suptitle(name, fontsize=10, color="#555555", parse_math=False)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, title) in zip(grid, panels.items(), strict=True):
        _draw_panel(axes, lines, name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "nsp_loss":
            axes.axhline(math.log(2), color="#888888", linewidth=1, linestyle=":", label="chance")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    return figure


def save_curves(run: Path) -> None:
    """Write curves.png and curves.svg into the run's folder; a reader never meets a half one."""
    figure = draw_curves(run)
    for suffix in ("png", "svg"):
        part = run / f".curves.{suffix}.part"
        _write(figure, part, suffix)
        os.replace(part, run / f"curves.{suffix}")


def curves_png(run: Path) -> bytes:
    """The picture as PNG, for a notebook."""
    stream = io.BytesIO()
    _write(draw_curves(run), stream, "png")
    return stream.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, suffix: str) -> None:
    with warnings.catch_warnings():
        # A name in Chinese is a row of boxes, and no reason to say more.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(target, format=suffix)


def _draw_panel(axes: Axes, lines: list[dict[str, Any]], name: str) -> None:
    training = [
        (line["step"], line[name])
        for line in lines
        if "learning_rate" in line and line.get(name) is not None
    ]
    validation = [
        # The closing figures are of all pairs, those on the way of some: not a next point.
        (line["step"], line[f"validation_{name}"])
        for line in lines
        if line.get(f"validation_{name}") is not None and "finished" not in line
    ]
    if training:
        steps, values = map(list, zip(*training, strict=True))
        axes.plot(steps, values, color=_TRAINING, alpha=0.25, linewidth=0.8)
        smoothed = smooth(values, len(values) / 25)
        axes.plot(steps, smoothed, color=_TRAINING, linewidth=1.8, label="training (smoothed)")
        # The first steps fall from ln V; let the part that is still moving fill the picture.
        later = sorted(values[len(values) // 20 :] + [value for _, value in validation])
        low, high = later[0], later[-1]
        margin = 0.06 * (high - low) + 0.01
        axes.set_ylim(low - margin, high + margin)
    if validation:
        steps, values = map(list, zip(*validation, strict=True))
        axes.plot(steps, values, "o-", color=_VALIDATION, markersize=4, label="validation")
