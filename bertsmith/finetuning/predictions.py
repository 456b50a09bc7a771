"""Predictions of a table's rows, as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.finetuning.labels import Targets, Task
from bertsmith.finetuning.metrics import predictions_of


def write_predictions(
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
