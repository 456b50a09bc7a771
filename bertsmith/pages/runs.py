"""What a page shows of runs: figures beside floors, curves, settings, text. Plain data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bertsmith.architectures import MLM_HEAD
from bertsmith.config import (
    RUN_CONFIG_FILE,
    PretrainConfig,
    resolve,
    settings_by_name,
)
from bertsmith.display import Display
from bertsmith.durable import read_small
from bertsmith.errors import ModelError, RunError
from bertsmith.evaluation.fills import fills
from bertsmith.evaluation.of_folder import held_out_text
from bertsmith.objectives import term_of, terms_in
from bertsmith.preparation.report import describe_text, describe_vocabulary
from bertsmith.reporting.metrics_file import METRICS_FILE, read_metrics
from bertsmith.reporting.points import floor_of, smooth, training_lines, validation_lines
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import find_run_config, read_newest

_MOST_POINTS = 1500  # of a curve: a few for each dot of a page's width
_MOST_REPORT_BYTES = 2**20
_WORDS = ("device", "finished")  # of a line of metrics.jsonl, which are no numbers

Row = tuple[str, list[str], str]
"""A name, a cell for each run, and what takes no model."""


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run's folder, read.

    Args:
        name: by which it is called on the page.
        path: its folder.
        config: all settings.
        lines: of metrics.jsonl, some of those of training.
        corpus: what corpus.json says; empty if it is not there.
    """

    name: str
    path: Path
    config: PretrainConfig
    lines: list[dict[str, Any]]
    corpus: dict[str, Any]

    @staticmethod
    def read(path: Path, name: str) -> ShownRun:
        """The run that `path` is or lies in.

        Raises:
            BertsmithError: it is none, or its settings cannot be read.
        """
        found = find_run_config(path)
        if found is None:
            raise RunError(f"{path} must be a run's folder, with {RUN_CONFIG_FILE}; it is not.")
        folder = found.parent
        lines = [_sound(line) for line in read_metrics(folder, about=_MOST_POINTS)]
        if not lines:
            raise RunError(f"The run {folder} has no figures yet: {METRICS_FILE} is empty.")
        try:
            corpus = msgspec.json.decode(
                read_small(folder / "corpus.json", _MOST_REPORT_BYTES), type=dict[str, Any]
            )
        except (OSError, msgspec.MsgspecError):
            corpus = {}
        return ShownRun(
            name=name, path=folder, config=resolve(file=found), lines=lines, corpus=corpus
        )

    @property
    def is_finished(self) -> bool:
        """Whether its budget is spent."""
        return self.lines[-1].get("finished") is True

    @property
    def last(self) -> dict[str, Any]:
        """The closing figures; of a run that is not finished what was last said of each."""
        if self.is_finished:
            return self.lines[-1]
        return {name: value for line in self.lines for name, value in line.items()}


def _sound(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line without what no run writes: figures are numbers."""
    return {
        name: value
        for name, value in line.items()
        if name in _WORDS or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def read_runs(paths: Sequence[Path]) -> list[ShownRun]:
    """Runs by the names of their folders, a number behind those that two have."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return [ShownRun.read(path, name) for path, name in zip(paths, names, strict=True)]


def figures(runs: Sequence[ShownRun]) -> list[Row]:
    """The closing figures of runs, and their floors."""
    last = [run.last for run in runs]
    rows: list[Row] = []
    for term in [term_of(name) for name in _terms(runs)]:
        label, name = term.name.upper(), term.name
        floors = [floor_of(run.lines, term) for run in runs]
        what = "word frequencies" if term.chance_loss is None else "chance"
        rows.append(
            _row(f"{label} loss, validation", last, f"validation_{name}_loss", _nats, floors, what)
        )
        known = [line.get(f"validation_unigram_{name}_accuracy") for line in last]
        what = "the most frequent word"
        if not any(known):
            known = [line.get(f"validation_{name}_majority_accuracy") for line in last]
            what = "the more frequent answer"
        rows.append(
            _row(
                f"{label} accuracy, validation",
                last,
                f"validation_{name}_accuracy",
                _share,
                known,
                what,
            )
        )
        rows.append(_row(f"{label} loss, training", last, f"{name}_loss", _nats))
    others: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("steps", "steps", _count),
        ("tokens", "tokens", _count),
        ("minutes", "seconds", lambda value: f"{value / 60:.1f}"),
        ("tokens a second", "tokens_per_second", _count),
        ("share of what matrix products alone would allow", "share_of_peak", _share),
        ("memory at most", "peak_memory_bytes", lambda value: f"{value / 1e9:.2f} GB"),
        ("parameters", "parameters", _count),
        ("vocabulary", "vocabulary_entries", _count),
        ("times that the loss diverged", "rollbacks", _count),
        ("device", "device", str),
    )
    rows += [_row(label, last, name, form) for label, name, form in others]
    return [row for row in rows if any(cell != "–" for cell in row[1])]


def _terms(runs: Sequence[ShownRun]) -> list[str]:
    """The names of the objectives' terms, of all runs."""
    return list(dict.fromkeys(name for run in runs for name in terms_in(run.last)))


def _row(
    label: str,
    last: Sequence[Mapping[str, Any]],
    name: str,
    form: Callable[[Any], str],
    floors: Sequence[float | None] = (),
    what: str = "",
) -> Row:
    cells = ["–" if (value := line.get(name)) is None else form(value) for line in last]
    known = sorted({form(floor) for floor in floors if floor is not None})
    return label, cells, f"{' or '.join(known)} ({what})" if known else ""


def _nats(value: float) -> str:
    return f"{value:.3f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def panels(runs: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """The curves: a panel each with `title`, `unit`, `floors` and `series`.

    A series has `run` (its number), `kind` (training, smoothed, validation, measured), `y`, and for
    the three ways to lay it out `step`, `tokens` and `minutes`.
    """
    found = []
    for term in [term_of(name) for name in _terms(runs)]:
        name = f"{term.name}_loss"
        series, floors = [], {}
        for number, run in enumerate(runs):
            training = training_lines(run.lines, name)
            values = [line[name] for line in training]
            series.append(_series(number, "training", training, values))
            series.append(_series(number, "smoothed", training, smooth(values, len(values) / 25)))
            judged = validation_lines(run.lines, name)
            values = [line[f"validation_{name}"] for line in judged]
            series.append(_series(number, "validation", judged, values))
            if (floor := floor_of(run.lines, term)) is not None:
                floors[round(floor, 4)] = (
                    "chance" if term.chance_loss is not None else "word frequencies"
                )
        found.append(
            {
                "title": f"{term.title} ({term.name.upper()} loss)",
                "unit": "loss (nats)",
                "floors": [{"y": y, "label": label} for y, label in floors.items()],
                "series": [one for one in series if one["y"]],
            }
        )
    for title, name, unit in (
        ("Learning rate", "learning_rate", "rate"),
        ("Gradient norm, before clipping", "grad_norm", "norm"),
        ("Throughput", "tokens_per_second", "tokens a second"),
    ):
        series = []
        for number, run in enumerate(runs):
            lines = training_lines(run.lines, name)
            series.append(_series(number, "measured", lines, [line[name] for line in lines]))
        series = [one for one in series if one["y"]]
        if series:
            found.append({"title": title, "unit": unit, "floors": [], "series": series})
    return found


def _series(
    run: int, kind: str, lines: Sequence[Mapping[str, Any]], values: Sequence[float]
) -> dict[str, Any]:
    return {
        "run": run,
        "kind": kind,
        "y": [float(f"{value:.5g}") for value in values],
        "step": [line["step"] for line in lines],
        "tokens": [line.get("tokens") for line in lines],
        "minutes": [
            round(line["seconds"] / 60, 3) if "seconds" in line else None for line in lines
        ],
    }


def settings(runs: Sequence[ShownRun]) -> tuple[list[Row], list[Row]]:
    """The settings in which runs differ, and those that are the same."""
    found = [
        {"preset": run.config.preset, "recipe": run.config.recipe, **settings_by_name(run.config)}
        for run in runs
    ]
    differing: list[Row] = []
    same: list[Row] = []
    for name in dict.fromkeys(name for one in found for name in one):
        cells = [_shown(one.get(name)) for one in found]
        (same if len(set(cells)) == 1 else differing).append((name, cells, ""))
    return differing, same


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def text_of(run: ShownRun) -> list[str]:
    """What was read, cut and left out, and how the vocabulary fits, in lines."""
    try:
        return [
            *describe_text(run.corpus, run.config.data),
            *(describe_vocabulary(run.corpus) if "vocabulary" in run.corpus else ()),
        ]
    except (KeyError, TypeError, AttributeError, ValueError):
        return ["corpus.json is not there, or is not as a run writes it."]


def commands(run: ShownRun) -> list[str]:
    """What repeats it, judges it, and asks it."""
    folder = shlex.quote(str(run.path))
    config = shlex.quote(str(run.path / RUN_CONFIG_FILE))
    return [
        f"bertsmith pretrain --config {config} --output {shlex.quote(f'{run.path}-again')}",
        f"bertsmith evaluate {folder}",
        f'bertsmith fill {folder} "the [MASK] is …"',
    ]


def fills_of(run: ShownRun, number: int, display: Display) -> list[list[dict[str, Any]]]:
    """What a run's newest model fills into sentences that it held out; see `evaluation.fills`.

    Args:
        run: whose.
        number: of sentences.
        display: shows what goes on where the text is prepared anew.

    Raises:
        BertsmithError: there is no model, no MLM head or no held-out text.
    """
    folder, where = read_newest(run.path, lambda found: (load_model(found), found))
    if MLM_HEAD in folder.missing:
        raise ModelError(f"{where} has no MLM head.")
    text = held_out_text(run.path, where, folder.tokenizer, display)
    if text is None:
        raise ModelError(f"The text that {run.path} held out is not at hand, or there is none.")
    return fills(folder, text[0], number)
