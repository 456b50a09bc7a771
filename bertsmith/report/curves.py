"""Both losses of a run over its steps, as a picture, from metrics.jsonl alone."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertsmith.durable import whole_file
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


def draw_curves(run: Path, closing: Mapping[str, Any] | None = None) -> Figure:
    """The figure: MLM loss, and of pairs NSP loss beside it; training and validation in each.

    Args:
        run: its folder.
        closing: the closing figures and their step, while metrics.jsonl does not have them yet.
    """
    lines = read_metrics(run, about=_POINTS)
    if closing is not None:
        lines.append({**closing, "finished": True})
    panels = {name: title for name, title in _PANELS.items() if any(name in line for line in lines)}
    panels = panels or _PANELS
    figure = Figure(figsize=(4.5 * len(panels), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    name = printable(run.resolve().name)  # as it is: a dollar in it begins no formula
    figure.suptitle(name, fontsize=10, color="#555555", parse_math=False)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, title) in zip(grid, panels.items(), strict=True):
        floor = _floor(lines, name)
        _draw_panel(axes, lines, name, floor)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if floor is not None:
            label = {"mlm_loss": "word frequencies", "nsp_loss": "chance"}[name]
            axes.axhline(floor, color="#888888", linewidth=1, linestyle=":", label=label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    return figure


def save_curves(run: Path, closing: Mapping[str, Any] | None = None) -> None:
    """Write curves.png and curves.svg into the run's folder; a reader never meets a half one.

    Args:
        run, closing: as in `draw_curves`.
    """
    figure = draw_curves(run, closing)
    for suffix in ("png", "svg"):
        with whole_file(run / f"curves.{suffix}", flushed=False) as part:
            _write(figure, part, suffix)


def curves_png(run: Path, closing: Mapping[str, Any] | None = None) -> bytes:
    """The picture as PNG, for a notebook.

    Args:
        run, closing: as in `draw_curves`.
    """
    stream = io.BytesIO()
    _write(draw_curves(run, closing), stream, "png")
    return stream.getvalue()


def _write(figure: Figure, target: Path | io.BytesIO, suffix: str) -> None:
    with warnings.catch_warnings():
        # A name in Chinese is a row of boxes, and no reason to say more.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(target, format=suffix)


def _floor(lines: list[dict[str, Any]], name: str) -> float | None:
    """The loss of what takes no model: word frequencies on the validation text, or a coin."""
    if name == "nsp_loss":
        return math.log(2)
    known = (line.get("validation_unigram_mlm_loss") for line in reversed(lines))
    return next((floor for floor in known if isinstance(floor, float)), None)


def _draw_panel(axes: Axes, lines: list[dict[str, Any]], name: str, floor: float | None) -> None:
    training = [
        (line["step"], line[name])
        for line in lines
        if "learning_rate" in line and line.get(name) is not None
    ]
    judged = [line for line in lines if line.get(f"validation_{name}") is not None]
    # The closing figures are of all pairs, those on the way of some: not a next point. A short run
    # may have had no time for one on the way.
    judged = [line for line in judged if "finished" not in line] or judged
    validation = [(line["step"], line[f"validation_{name}"]) for line in judged]
    if training:
        steps, values = map(list, zip(*training, strict=True))
        axes.plot(steps, values, color=_TRAINING, alpha=0.25, linewidth=0.8)
        smoothed = smooth(values, len(values) / 25)
        axes.plot(steps, smoothed, color=_TRAINING, linewidth=1.8, label="training (smoothed)")
        # The first steps fall from ln V; let the part that is still moving fill the picture.
        later = values[len(values) // 20 :] + [value for _, value in validation]
        later += [] if floor is None else [floor]
        low, high = min(later), max(later)
        margin = 0.06 * (high - low) + 0.01
        axes.set_ylim(low - margin, high + margin)
    if validation:
        steps, values = map(list, zip(*validation, strict=True))
        axes.plot(steps, values, "o-", color=_VALIDATION, markersize=4, label="validation")
