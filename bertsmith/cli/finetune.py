"""`bertsmith finetune` and `bertsmith probe`: what a pretrained encoder is good for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from bertsmith.cli.arguments import Flag, RunPath
from bertsmith.config import FinetuneConfig, LabelledConfig, ProbeConfig, SimilarityConfig
from bertsmith.display import Display, show, show_json
from bertsmith.errors import printable
from bertsmith.ranks import rank


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a classifier or regressor on a pretrained encoder, or the vectors of texts."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    train: Path | None = None
    """Labelled texts to train on: .tsv, .csv or .jsonl; for --task similarity texts that belong
    together, or without it the neighbouring sentences of the run's own text."""
    validation: Path | None = None
    """Labelled texts to judge by; the best moment of a training is kept."""
    test: Path | None = None
    """Texts to predict, with labels or without."""
    output: Path
    """The folder to make: a Hugging Face model, results.json, predictions."""
    baseline: bool = True
    """Do the same from random weights, to see what pretraining gave."""
    overwrite: Flag = False
    """Replace an earlier fine-tuning in the output folder, or one that was not finished."""
    resume: Flag = False
    """Go on with a fine-tuning that was stopped or killed: the same command, with this beside."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print the results as one JSON object."""
    labels: tyro.conf.OmitArgPrefixes[LabelledConfig] = field(default_factory=LabelledConfig)
    training: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)
    similarity: tyro.conf.OmitArgPrefixes[SimilarityConfig] = field(
        default_factory=SimilarityConfig
    )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Fit a linear model to the frozen vectors of a pretrained encoder, cross-validated."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    train: Path
    """Labelled texts to cross-validate on: .tsv, .csv or .jsonl."""
    validation: Path | None = None
    """Labelled texts to judge the model of all training rows by."""
    baseline: bool = True
    """Do the same with a random encoder, to see what pretraining gave."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print the results as one JSON object."""
    labels: tyro.conf.OmitArgPrefixes[LabelledConfig] = field(default_factory=LabelledConfig)
    probing: tyro.conf.OmitArgPrefixes[ProbeConfig] = field(default_factory=ProbeConfig)


def finetune(command: Finetune) -> None:
    """Fine-tune, and print the figures beside those from random weights."""
    from bertsmith.finetuning.finetune import finetune_folder

    with _told_once():
        found = finetune_folder(
            command.run,
            train=command.train,
            validation=command.validation,
            test=command.test,
            output=command.output,
            labelled=command.labels,
            config=command.training,
            similarity=command.similarity,
            baseline=command.baseline,
            overwrite=command.overwrite,
            resume=command.resume,
            display=Display(quiet=command.quiet),
        )
    if rank():  # the first one shows what all have
        return
    results = found.results
    if command.json:
        show_json(results)
        return
    seeds = results["seeds"]
    show("\n".join(_lines(results, f"{len(seeds)} seed{'s' * (len(seeds) > 1)}")))
    best = f"seed {results['best_seed']}, best by {results['metric']}"
    show(f"model: {printable(str(found.output))} ({best})")


def probe(command: Probe) -> None:
    """Probe, and print the figures beside those of a random encoder."""
    from bertsmith.probing import probe_folder

    with _told_once():
        results = probe_folder(
            command.run,
            train=command.train,
            validation=command.validation,
            labelled=command.labels,
            config=command.probing,
            baseline=command.baseline,
            display=Display(quiet=command.quiet),
        )
    if command.json:
        show_json(results)
        return
    show("\n".join(_lines(results, f"{results['folds']} folds")))


def _lines(results: Mapping[str, Any], over: str) -> Iterator[str]:
    """A table of the metrics: mean and deviation, and what pretraining gave."""
    kinds = [kind for kind in ("pretrained", "random") if kind in results]
    header = ["", "pretrained", *(["random weights", "gain"] if len(kinds) > 1 else [])]
    rows = [header]
    for name in _metrics(results["pretrained"]):
        means = [results[kind][name]["mean"] for kind in kinds]
        cells = [_cell(name, **results[kind][name]) for kind in kinds]
        rows.append([name, *cells, *_gain(name, means)])
    judged = [results[kind].get("validation") for kind in kinds]
    if all(judged):
        for name in judged[0]:
            means = [one[name] for one in judged]
            cells = [_figure(name, mean) for mean in means]
            rows.append([f"{name}, validation", *cells, *_gain(name, means)])
    if "untrained" in results:
        for row, (name, value) in zip(
            rows, [("", "untrained"), *results["untrained"].items()], strict=True
        ):
            row.append(value if not name else _figure(name, value))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield f"{results['rows']['train']:,} training rows; mean ± deviation over {over}"
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()
    for name, where in (
        ("majority_accuracy", ""),
        ("validation_majority_accuracy", "validation: "),
    ):
        if name in results:
            yield f"{where}the most frequent class alone: accuracy {results[name]:.1%}"
    for what, about in (("left_out", "rows left out"), ("cut", "texts cut to the longest length")):
        counts = {
            table: results["rows"].get(f"{table}_{what}", 0)
            for table in ("train", "validation", "test")
        }
        if any(counts.values()):
            parts = (f"{count:,} ({table})" for table, count in counts.items() if count)
            yield f"{about}: {', '.join(parts)}"


def _metrics(summary: Mapping[str, Any]) -> Sequence[str]:
    return [name for name, value in summary.items() if isinstance(value, dict) and "mean" in value]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if name in ("accuracy", "f1") else f"{value:.3f}"


def _cell(name: str, mean: float | None, std: float | None, values: Sequence[object]) -> str:
    figure = _figure(name, mean)
    return figure if std is None else f"{figure} ± {_figure(name, std)}"


def _gain(name: str, means: Sequence[float | None]) -> list[str]:
    if len(means) < 2:
        return []
    if means[0] is None or means[1] is None:
        return ["–"]
    gain = means[0] - means[1]
    return [f"{100 * gain:+.1f} points" if name in ("accuracy", "f1") else f"{gain:+.3f}"]


@contextmanager
def _told_once() -> Iterator[None]:
    """Warnings about rows that were left out come each time, not once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        yield
