"""Both losses of a run over its steps, as a picture, from metrics.jsonl alone."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertsmith.durable import whole_file
from bertsmith.errors import printable
from bertsmith.objectives import term_of, terms_in
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.reporting.points import floor_of, smooth, training_lines, validation_lines

_TRAINING, _VALIDATION = "#4c78a8", "#e45756"
_POINTS = 5000  # several for each dot of the picture's width


def draw_curves(run: Path, closing: Mapping[str, Any] | None = None) -> Figure:
    """The figure: a panel for each loss; training and validation in it.

    Args:
        run: its folder.
        closing: the closing figures and their step, while metrics.jsonl does not have them yet.
    """
    lines = read_metrics(run, about=_POINTS)
    if closing is not None:
        lines.append({**closing, "finished": True})
    names = dict.fromkeys(name for line in lines for name in terms_in(line))
    terms = [term_of(name) for name in names or ("mlm", "nsp")]
    figure = Figure(figsize=(4.5 * len(terms), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    name = printable(run.resolve().name)  # as it is: a dollar in it begins no formula
    figure.suptitle(name, fontsize=10, color="#555555", parse_math=False)
    grid = figure.subplots(1, len(terms), squeeze=False)[0]
    for axes, term in zip(grid, terms, strict=True):
        floor = floor_of(lines, term)
        _draw_panel(axes, lines, f"{term.name}_loss", floor)
        axes.set_title(term.title, fontsize=11)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if floor is not None:
            label = "word frequencies" if term.chance_loss is None else "chance"
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


def _draw_panel(axes: Axes, lines: list[dict[str, Any]], name: str, floor: float | None) -> None:
    training = [(line["step"], line[name]) for line in training_lines(lines, name)]
    validation = [
        (line["step"], line[f"validation_{name}"]) for line in validation_lines(lines, name)
    ]
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
