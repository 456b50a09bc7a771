"""Fine-tuning from files to a folder: several seeds, and the same from random weights beside.

The folder is a Hugging Face `BertForSequenceClassification` (the best seed's), and with it:

results.json                  all figures
config.toml                   the settings
predictions-validation.tsv    of the best seed
predictions-test.tsv          the same, if there is a test file
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
import torch

from bertsmith.config import FinetuneConfig, LabelledConfig
from bertsmith.display import Display
from bertsmith.durable import whole_folder
from bertsmith.errors import InputError, RunError
from bertsmith.finetuning.classifier import SequenceClassifier, snapshot, with_dropout
from bertsmith.finetuning.labels import Targets, Task, task_of
from bertsmith.finetuning.metrics import main_metric, majority_accuracy, predictions_of
from bertsmith.finetuning.tables import LabelledTexts, read_labelled
from bertsmith.finetuning.train import Best, Row, predict, tokenize, train_classifier
from bertsmith.model.bert import Bert
from bertsmith.model.device import choose_device, keep_freed_memory
from bertsmith.model.hugging_face import CONFIG_FILE, ModelFolder, load_model
from bertsmith.model.locate import find_model
from bertsmith.tokenizer import Tokenizer

RESULTS_FILE = "results.json"
SETTINGS_FILE = "config.toml"


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
    """Where the rows of validation and test stand in their files."""
    task: Task
    sizes: dict[str, int]
    """Counts of rows: of each file, left out, cut."""


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
    labelled, config = labelled or LabelledConfig(), config or FinetuneConfig()
    display = display or Display(quiet=True)
    device = choose_device(config.device)
    _check_output(output, overwrite=overwrite)
    folder = load_model(find_model(path))
    max_length = _max_length(config, folder)
    with display.stage("Reading the tables"):
        tables = _read(train, validation, test, labelled, folder.tokenizer, max_length)
    wanted = main_metric(config.metric, tables.task)
    if device.type == "cpu":
        keep_freed_memory()
    kinds = ("pretrained", "random") if baseline else ("pretrained",)
    trained = {
        kind: [
            _train(kind, folder.model, tables, config, seed, device, display)
            for seed in config.seeds
        ]
        for kind in kinds
    }
    figures = [best.metrics[wanted] for best in trained["pretrained"]]
    best_place = int(np.argmax(figures))
    best = trained["pretrained"][best_place]
    results: dict[str, Any] = {
        "task": "scores" if tables.task.is_regression else "classes",
        "classes": list(tables.task.classes),
        "metric": wanted,
        "seeds": list(config.seeds),
        "best_seed": config.seeds[best_place],
        **{kind: _summary(found) for kind, found in trained.items()},
        "rows": tables.sizes,
    }
    if not tables.task.is_regression:
        results["majority_accuracy"] = majority_accuracy(tables.validation[1])
    settings = {
        "labels": _without_none(asdict(labelled)),
        "finetuning": _without_none(asdict(config)),
    }
    try:
        with whole_folder(output) as part:
            snapshot(best.model, folder.tokenizer, tables.task).write(part)
            _write_predictions(
                part / "predictions-validation.tsv",
                best.outputs,
                tables.task,
                tables.lines["validation"],
                tables.validation[1],
            )
            if tables.test is not None:
                outputs = predict(best.model, tables.test, device)
                _write_predictions(
                    part / "predictions-test.tsv", outputs, tables.task, tables.lines["test"], None
                )
            (part / SETTINGS_FILE).write_text(tomli_w.dumps(settings), encoding="utf-8")
            (part / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"Cannot write to {output}: {error.strerror or error}.") from error
    return Finetuned(output=output, results={**results, "output": str(output)})


def _train(
    kind: str,
    pretrained: Bert,
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
    max_length: int,
) -> _Tables:
    of_train, of_validation = read_labelled(train, labelled), read_labelled(validation, labelled)
    _refuse_other_kind(of_train, of_validation)
    task = task_of(of_train, labelled)
    targets = task.targets(of_train), task.targets(of_validation)
    rows, num_cut = tokenize(of_train.texts, tokenizer, max_length)
    validation_rows, num_validation_cut = tokenize(of_validation.texts, tokenizer, max_length)
    sizes = {
        "train": len(of_train),
        "validation": len(of_validation),
        "train_left_out": of_train.num_left_out,
        "validation_left_out": of_validation.num_left_out,
        "train_cut": num_cut,
        "validation_cut": num_validation_cut,
    }
    lines = {"validation": of_validation.lines}
    test_rows = None
    if test is not None:
        of_test = read_labelled(test, labelled, needs_labels=False)
        _refuse_other_kind(of_train, of_test)
        test_rows, sizes["test_cut"] = tokenize(of_test.texts, tokenizer, max_length)
        sizes["test"] = len(of_test)
        lines["test"] = of_test.lines
    return _Tables(
        train=(rows, targets[0]),
        validation=(validation_rows, targets[1]),
        test=test_rows,
        lines=lines,
        task=task,
        sizes=sizes,
    )


def _refuse_other_kind(train: LabelledTexts, other: LabelledTexts) -> None:
    if train.has_pairs != other.has_pairs:
        kinds = ("pairs of texts", "single texts")
        mine, theirs = kinds if train.has_pairs else kinds[::-1]
        raise InputError(
            f"{other.path} must hold {mine}, as {train.path} does; it holds {theirs}. "
            "Name the columns with --text-column and --text-pair-column."
        )


def _max_length(config: FinetuneConfig, folder: ModelFolder) -> int:
    most = folder.model.config.max_position_embeddings
    asked = config.max_length or min(folder.tokenizer.max_length, most)
    if not 3 < asked <= most:
        raise InputError(
            f"`max_length` must be from 4 to the model's {most} positions; got {asked}."
        )
    return asked


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


def _summary(found: Sequence[Best]) -> dict[str, Any]:
    """Each metric's mean and deviation over the seeds, and its values; when the best ones were."""
    summary: dict[str, Any] = {}
    for name in found[0].metrics:
        values = [best.metrics[name] for best in found]
        summary[name] = {
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "values": values,
        }
    summary["best_epochs"] = [best.epoch for best in found]
    summary["epochs"] = [best.epochs for best in found]
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
            row += [f"{prediction:.6g}"]
            row += [] if targets is None else [f"{targets[number]:.6g}"]
        else:
            row += [task.classes[prediction]]
            row += [] if targets is None else [task.classes[targets[number]]]
            row += [f"{share:.6f}" for share in shares[number]]
        yield row


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}
