"""Classification and regression: labelled texts, a classifier on the encoder, predictions.

Legend: N = rows; K = outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.architectures import CLASSIFIER, Encoder
from bertsmith.config import FinetuneConfig, LabelledConfig
from bertsmith.errors import InputError
from bertsmith.finetuning.batches import Drawn
from bertsmith.finetuning.labels import Targets, Task
from bertsmith.finetuning.metrics import (
    main_metric,
    majority_accuracy,
    metrics_of,
    predictions_of,
    refuse_alike,
)
from bertsmith.finetuning.predictions import write_predictions
from bertsmith.finetuning.rows import Tables, read_tables
from bertsmith.finetuning.train import Files, How, Training
from bertsmith.objectives.classification import SequenceClassification
from bertsmith.random_bits import Int64
from bertsmith.ranks import ALONE, Ranks
from bertsmith.rows import Row, over_rows
from bertsmith.saved.hugging_face import ModelFolder, Snapshot, labels_config
from bertsmith.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SequenceTraining(Training):
    """How a classifier or regressor is trained.

    Args:
        tables: rows and their labels.
    """

    tables: Tables

    @property
    def task(self) -> Task:
        """What the labels are."""
        return self.tables.task

    @property
    def num_rows(self) -> int:
        return len(self.tables.train[0])

    @property
    def metric(self) -> str:
        return main_metric(self.config.metric, self.task)

    @property
    def scale(self) -> Scale:
        """Between the model's outputs and the labels."""
        return Scale.of(self.tables.train[1], self.task)

    @property
    def num_outputs(self) -> int:
        return self.task.num_outputs

    def objective(self) -> SequenceClassification:
        weights = class_weights(self.tables.train[1], self.task, self.config, self.device)
        return SequenceClassification(is_regression=self.task.is_regression, class_weights=weights)

    def drawing(self) -> Callable[[Int64], Drawn]:
        rows, targets = self.tables.train
        return partial(labelled_rows, rows, self.scale.scaled(targets))

    def evaluate(
        self, model: Encoder, progress: Callable[[int, int], None]
    ) -> dict[str, float | None]:
        rows, targets = self.tables.validation
        outputs = predict(
            model,
            rows,
            self.device,
            precision=self.config.precision,
            ranks=self.ranks,
            progress=progress,
        )
        return metrics_of(predictions_of(self.scale.back(outputs), self.task), targets, self.task)

    def digests(self) -> dict[str, str]:
        tables = self.tables
        return {
            "train": digest_of(*tables.train),
            "validation": digest_of(*tables.validation),
            "test": "" if tables.test is None else digest_of(tables.test, None),
        }

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "task": "scores" if self.task.is_regression else "classes",
            "classes": list(self.task.classes),
            "rows": self.tables.sizes,
        }
        if not self.task.is_regression:
            found["majority_accuracy"] = majority_accuracy(self.tables.validation[1])
        return found

    def write(self, model: Encoder, folder: Path) -> None:
        tables, scale = self.tables, self.scale
        for name, rows, targets in (
            ("validation", *tables.validation),
            ("test", tables.test, None),
        ):
            if rows is not None:
                outputs = predict(model, rows, self.device, precision=self.config.precision)
                path, lines = folder / f"predictions-{name}.tsv", tables.lines[name]
                write_predictions(path, scale.back(outputs), self.task, lines, targets)
        scale.into(model)
        snapshot(model, self.tokenizer, self.task).write(folder)


def labelled_rows(rows: Sequence[Row], targets: Targets, numbers: Int64) -> Drawn:
    """Some rows with their labels."""
    return Drawn([rows[number] for number in numbers.tolist()], targets[numbers])


def sequence_training(
    folder: ModelFolder, files: Files, labelled: LabelledConfig, **how: Unpack[How]
) -> SequenceTraining:
    """What is trained, and on what, held against each other.

    Raises:
        BertsmithError: a table, a label or a setting does not suit.
    """
    train, validation, test = files
    if train is None or validation is None:
        raise InputError(
            "Classification and regression must have tables to learn from and to be judged by; "
            "name --train and --validation."
        )
    with how["display"].stage("Reading the tables"):
        tables = read_tables(train, validation, test, labelled, how["tokenizer"])
    if tables.has_pairs and folder.model.config.num_segments == 1:
        raise InputError("The model has one segment; it cannot take pairs of texts.")
    training = SequenceTraining(pretrained=folder.model, tables=tables, **how)
    refuse_alike(validation, tables.validation[1], tables.task, training.metric)
    return training


def digest_of(rows: Sequence[Row], targets: Targets | None) -> str:
    """A digest of rows and their labels."""
    digest = hashlib.sha256(msgspec.json.encode(rows))
    digest.update(b"" if targets is None else targets.tobytes())
    return digest.hexdigest()


def class_weights(
    targets: Targets, task: Task, config: FinetuneConfig, device: torch.device
) -> Tensor | None:
    """N / (K · rows of the class), float32 [K] (scikit-learn's "balanced"); None: all alike."""
    if task.is_regression or config.class_weights == "none":
        return None
    counts = np.bincount(targets.astype(np.int64), minlength=len(task.classes))
    weights = (len(targets) / (len(counts) * counts)).astype(np.float32)
    return torch.from_numpy(weights).to(device)


def predict(
    model: Encoder,
    rows: Sequence[Row],
    device: torch.device,
    *,
    precision: str = "float32",
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """Outputs of the rows, in their order: float32 [N, K]; see `over_rows`."""
    outputs = SequenceClassification().outputs
    how: dict[str, Any] = {"precision": precision, "ranks": ranks, "progress": progress}
    return over_rows(lambda batch: outputs(model, batch), rows, model.num_labels, device, **how)


@dataclass(frozen=True)
class Scale:
    """Scores are learnt with mean 0 and deviation 1, whatever unit they come in."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: Targets, task: Task) -> Scale:
        """That of some labels; classes have none."""
        if not task.is_regression:
            return cls()
        values = targets.astype(np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def scaled(self, targets: Targets) -> Targets:
        """Labels in the model's unit."""
        if self == Scale():
            return targets
        return ((targets - self.mean) / self.deviation).astype(np.float32)

    def back(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Outputs in the unit of the labels."""
        return (outputs * self.deviation + self.mean).astype(np.float32)

    def into(self, model: Encoder) -> None:
        """Let the model's outputs be in the unit of the labels."""
        classifier = model.get_submodule(CLASSIFIER)
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                parameter.mul_(self.deviation)
                if name == "bias":
                    parameter.add_(self.mean)


def snapshot(model: Encoder, tokenizer: Tokenizer, task: Task) -> Snapshot:
    """A copy of the model as it is saved, with the names of the classes."""
    found = Snapshot.of(model, tokenizer)
    kind = "regression" if task.is_regression else "single_label_classification"
    labels = labels_config(task.classes or ["LABEL_0"])
    return replace(found, config={**found.config, "problem_type": kind, **labels})
