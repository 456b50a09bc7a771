"""Fine-tuning from files to a folder: several seeds, and the same from random weights beside.

The folder is a Hugging Face `BertForSequenceClassification` (the best seed's), and with it:

results.json                  all figures
finetune.toml                 the settings
predictions-validation.tsv    of the best seed
predictions-test.tsv          the same, if there is a test file
"""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
import torch
from filelock import FileLock, Timeout

from bertsmith.architectures import Encoder
from bertsmith.config import FinetuneConfig, LabelledConfig
from bertsmith.display import Display
from bertsmith.durable import make_folder, whole_folder
from bertsmith.errors import InputError, RunError
from bertsmith.extras import require
from bertsmith.finetuning.classifier import SequenceClassifier, snapshot, with_dropout
from bertsmith.finetuning.labels import Targets, Task, task_of
from bertsmith.finetuning.metrics import (
    main_metric,
    majority_accuracy,
    predictions_of,
    refuse_alike,
    spread_of,
)
from bertsmith.finetuning.tables import read_labelled, refuse_other_kind
from bertsmith.finetuning.train import Best, Row, predict, tokenize, train_classifier
from bertsmith.hardware.device import choose_device, keep_freed_memory
from bertsmith.saved.hugging_face import CONFIG_FILE, ModelFolder, load_model
from bertsmith.saved.locate import read_newest
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import warn

RESULTS_FILE = "results.json"
SETTINGS_FILE = "finetune.toml"


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A finished fine-tuning."""

    output: Path
    """The model's folder."""
    results: dict[str, Any] = field(repr=False)
    """What results.json holds."""


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Rows of the files, in tokens."""

    train: tuple[list[Row], Targets]
    validation: tuple[list[Row], Targets]
    test: list[Row] | None
    lines: dict[str, list[int]]
    """Where the rows of each table stand in its file."""
    task: Task
    has_pairs: bool
    sizes: dict[str, int]
    """Counts of rows of each table: used, left out, cut."""


def finetune_folder(
    path: Path,
    *,
    train: Path,
    validation: Path,
    output: Path,
    test: Path | None = None,
    labelled: LabelledConfig | None = None,
    config: FinetuneConfig | None = None,
    baseline: bool = True,
    overwrite: bool = False,
    display: Display | None = None,
) -> Finetuned:
    """Train a classifier or regressor on the encoder in `path`.

    Args:
        path: a run, a checkpoint, or a Hugging Face BERT folder.
        train, validation: tables of labelled texts; see `read_labelled`.
        output: the folder that is made; nothing is in it before all is done.
        test: a table of texts to predict; labels in it are not looked at.
        labelled: what the tables mean.
        config: how it is learnt.
        baseline: whether the same is done from random weights, to see what pretraining gave.
        overwrite: replace an earlier fine-tuning in `output`.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: a file, a label, a setting or the output does not suit.
    """
    require("finetune", "Fine-tuning")
    labelled, config = labelled or LabelledConfig(), config or FinetuneConfig()
    display = display or Display(quiet=True)
    device = choose_device(config.device)
    _check_output(output, overwrite=overwrite)
    folder = read_newest(path, load_model)
    tokenizer = _of_length(folder, config)
    with display.stage("Reading the tables"):
        tables = _read(train, validation, test, labelled, tokenizer)
    if tables.has_pairs and folder.model.config.type_vocab_size < 2:
        raise InputError("The model has one segment; it cannot take pairs of texts.")
    metric = main_metric(config.metric, tables.task)
    refuse_alike(validation, tables.validation[1], tables.task, metric)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        # Made before the work begins: what cannot be written is said at once.
        with _taken(output, overwrite=overwrite), whole_folder(output.resolve()) as part:
            best, results = _train_all(folder.model, tables, config, device, baseline, display)
            snapshot(best.model, tokenizer, tables.task).write(part)
            _write_all_predictions(part, best, tables, device)
            settings = {
                "labels": _without_none(asdict(labelled)),
                "finetuning": _without_none(asdict(config)),
            }
            (part / SETTINGS_FILE).write_text(tomli_w.dumps(settings), encoding="utf-8")
            (part / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"Cannot write to {output}: {error.strerror or error}.") from error
    return Finetuned(output=output, results={**results, "output": str(output)})


def _write_all_predictions(folder: Path, best: Best, tables: _Tables, device: torch.device) -> None:
    """Of the validation rows, and of the test rows if there are any."""
    path, lines = folder / "predictions-validation.tsv", tables.lines
    _write_predictions(path, best.outputs, tables.task, lines["validation"], tables.validation[1])
    if tables.test is not None:
        outputs = predict(best.model, tables.test, device)
        path = folder / "predictions-test.tsv"
        _write_predictions(path, outputs, tables.task, lines["test"], None)


def _train_all(
    pretrained: Encoder,
    tables: _Tables,
    config: FinetuneConfig,
    device: torch.device,
    baseline: bool,
    display: Display,
) -> tuple[Best, dict[str, Any]]:
    """Every seed, from both kinds of weights; the best one of the pretrained, and all figures."""
    wanted = main_metric(config.metric, tables.task)
    kinds = ("pretrained", "random") if baseline else ("pretrained",)
    best: Best | None = None
    best_seed = config.seeds[0]
    summaries = {}
    for kind in kinds:
        summary = _Summary()
        for seed in config.seeds:
            found = _train(kind, pretrained, tables, config, seed, device, display)
            summary.add(found)
            if kind == "pretrained" and (best is None or found.value > best.value):
                best, best_seed = found, seed
        summaries[kind] = summary.to_json()
    assert best is not None
    results: dict[str, Any] = {
        "task": "scores" if tables.task.is_regression else "classes",
        "classes": list(tables.task.classes),
        "metric": wanted,
        "seeds": list(config.seeds),
        "best_seed": best_seed,
        **summaries,
        "rows": tables.sizes,
    }
    if not tables.task.is_regression:
        results["majority_accuracy"] = majority_accuracy(tables.validation[1])
    return best, results


def _train(
    kind: str,
    pretrained: Encoder,
    tables: _Tables,
    config: FinetuneConfig,
    seed: int,
    device: torch.device,
    display: Display,
) -> Best:
    bert = with_dropout(pretrained, config.dropout_prob)
    if kind == "random":
        bert.initialize(seed)
    model = SequenceClassifier(bert, tables.task.num_outputs)
    model.initialize_head(seed)
    weights = "pretrained" if kind == "pretrained" else "random"
    with display.stage(f"Training from {weights} weights, seed {seed}") as progress:
        return train_classifier(
            model.to(device),
            tables.train,
            tables.validation,
            tables.task,
            config,
            seed=seed,
            device=device,
            progress=progress,
        )


def _read(
    train: Path,
    validation: Path,
    test: Path | None,
    labelled: LabelledConfig,
    tokenizer: Tokenizer,
) -> _Tables:
    tables = {
        "train": read_labelled(train, labelled),
        "validation": read_labelled(validation, labelled),
    }
    if test is not None:
        tables["test"] = read_labelled(test, labelled, needs_labels=False)
    task = task_of(tables["train"], labelled)
    rows: dict[str, list[Row]] = {}
    sizes: dict[str, int] = {}
    for name, table in tables.items():
        refuse_other_kind(tables["train"], table)
        rows[name], num_cut = tokenize(table.texts, tokenizer, source=str(table.path))
        sizes |= {name: len(table), f"{name}_left_out": table.num_left_out, f"{name}_cut": num_cut}
    return _Tables(
        train=(rows["train"], task.targets(tables["train"])),
        validation=(rows["validation"], task.targets(tables["validation"])),
        test=rows.get("test"),
        lines={name: table.lines for name, table in tables.items()},
        task=task,
        has_pairs=tables["train"].has_pairs,
        sizes=sizes,
    )


def _of_length(folder: ModelFolder, config: FinetuneConfig) -> Tokenizer:
    """The tokenizer with the longest length that is trained on, which is saved with the model."""
    most = folder.model.config.max_position_embeddings
    asked = config.max_length or min(folder.tokenizer.max_length, most)
    if not 3 < asked <= most:
        raise InputError(
            f"`max_length` must be from 4 to the model's {most} positions; got {asked}."
        )
    if asked > folder.tokenizer.max_length:
        warn(
            f"The model was trained on {folder.tokenizer.max_length} tokens: what its positions "
            f"up to {asked} mean it learns from the labelled rows alone."
        )
    tokenizer = copy.copy(folder.tokenizer)
    tokenizer.max_length = asked
    return tokenizer


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but an earlier fine-tuning, and over that unless asked to."""
    if output.exists() and not output.is_dir():
        raise RunError(f"The output {output} must be a folder; it is a file.")
    if not output.exists() or not any(output.iterdir()):
        return
    is_ours = (output / RESULTS_FILE).is_file() and (output / CONFIG_FILE).is_file()
    if not is_ours:
        raise RunError(
            f"The output folder {output} must be new, empty or an earlier fine-tuning; it has "
            "other files. Name another with --output."
        )
    if not overwrite:
        raise RunError(
            f"The output folder {output} already holds a fine-tuned model; name another with "
            "--output, or replace it with --overwrite."
        )


@contextmanager
def _taken(output: Path, *, overwrite: bool) -> Iterator[None]:
    """The output for one process at a time; what another one has put there meanwhile is seen.

    The lock lies beside the folder, which is replaced as a whole, and is removed at the end.

    Raises:
        RunError: another process has it, or what is there may not be replaced.
    """
    path = output.resolve()
    make_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"The output folder {output} is in use by another fine-tuning; wait for it, or name "
            "another with --output."
        ) from error
    try:
        _check_output(output, overwrite=overwrite)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class _Summary:
    """Figures of several trainings."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, float | None]] = []
        self._epochs: list[tuple[float, float]] = []

    def add(self, found: Best) -> None:
        """Count one; its weights are let go."""
        self._metrics.append(found.metrics)
        self._epochs.append((found.epoch, found.epochs))

    def to_json(self) -> dict[str, Any]:
        """Each metric's mean, deviation and values; when the best moments were, and the ends."""
        summary: dict[str, Any] = {
            name: spread_of([metrics[name] for metrics in self._metrics])
            for name in self._metrics[0]
        }
        summary["best_epochs"] = [best for best, _ in self._epochs]
        summary["epochs"] = [end for _, end in self._epochs]
        return summary


def _write_predictions(
    path: Path,
    outputs: npt.NDArray[np.float32],
    task: Task,
    lines: Sequence[int],
    targets: Targets | None,
) -> None:
    """A row for each row of the table: where it ends there, the prediction, the label if known.

    Of classes, each one's probability follows.
    """
    header = ["line", "prediction", *([] if targets is None else ["label"]), *task.classes]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(_prediction_rows(outputs, task, lines, targets))


def _prediction_rows(
    outputs: npt.NDArray[np.float32], task: Task, lines: Sequence[int], targets: Targets | None
) -> Iterable[list[str]]:
    shares = torch.from_numpy(outputs).softmax(-1).numpy()
    for number, prediction in enumerate(predictions_of(outputs, task).tolist()):
        row = [str(lines[number])]
        if task.is_regression:
            row += [f"{prediction:.9g}"]
            row += [] if targets is None else [f"{targets[number]:.9g}"]
        else:
            row += [task.classes[prediction]]
            row += [] if targets is None else [task.classes[targets[number]]]
            row += [f"{share:.6f}" for share in shares[number]]
        yield row


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}
