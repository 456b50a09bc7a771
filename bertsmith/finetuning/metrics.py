"""Figures of predictions, from scikit-learn and SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertsmith.errors import ConfigError, DataError
from bertsmith.finetuning.labels import Targets, Task

_OF_CLASSES = ("accuracy", "f1", "matthews")
_OF_SCORES = ("spearman", "pearson")


def main_metric(asked: str, task: Task) -> str:
    """The metric that says which moment is the best. Raises: `ConfigError` if it does not fit."""
    fitting = _OF_SCORES if task.is_regression else _OF_CLASSES
    if asked == "auto":
        return fitting[0]
    if asked not in fitting:
        kind = "scores" if task.is_regression else "classes"
        raise ConfigError(f"`metric` must be {' or '.join(fitting)} for {kind}; got {asked!r}.")
    return asked


def predictions_of(outputs: npt.NDArray[np.float32], task: Task) -> Targets:
    """The class with the highest output, int64 [N]; of scores the output itself, float32 [N]."""
    return outputs[:, 0] if task.is_regression else outputs.argmax(1)


def metrics_of(predictions: Targets, targets: Targets, task: Task) -> dict[str, float | None]:
    """Accuracy, F1 and Matthews' correlation of classes; Spearman's and Pearson's of scores.

    F1 is that of the second class where there are two, and else the mean over the classes.
    Predictions that are all the same have a correlation of 0. Where the targets are all the same
    no predictions could have one: it is None, as is F1 where no row is of the second class.
    """
    from scipy import stats
    from sklearn import metrics

    if task.is_regression:
        if len(np.unique(targets)) < 2:
            return dict.fromkeys(_OF_SCORES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            by_scipy = {
                "spearman": stats.spearmanr(predictions, targets).statistic,
                "pearson": stats.pearsonr(predictions, targets).statistic,
            }
        return {name: float(np.nan_to_num(value)) for name, value in by_scipy.items()}
    labels: dict[str, Any] = {"labels": list(range(len(task.classes))), "average": "macro"}
    if len(task.classes) == 2:
        labels = {"pos_label": 1, "average": "binary"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows of one class alone are no mistake here
        found: dict[str, float | None] = {
            "accuracy": float(metrics.accuracy_score(targets, predictions)),
            "f1": float(metrics.f1_score(targets, predictions, zero_division=0.0, **labels)),
            "matthews": float(metrics.matthews_corrcoef(targets, predictions)),
        }
    if len(task.classes) == 2 and not np.any(targets == 1):
        found["f1"] = None
    if len(np.unique(targets)) < 2:
        found["matthews"] = None
    return found


def refuse_alike(path: Path, targets: Targets, task: Task, metric: str) -> None:
    """Raise `DataError` if the rows' labels are such that `metric` can tell nothing of them."""
    if metrics_of(targets, targets, task)[metric] is not None:
        return
    what = "scores" if task.is_regression else "classes"
    value = targets[0].item() if task.is_regression else task.classes[int(targets[0])]
    raise DataError(
        f"{path} must have rows of different {what} to be judged by `metric` {metric}; all "
        f"{len(targets):,} are {value!r}. Add rows, or choose another --metric."
    )


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation of the values that are not None, and the values themselves.

    The mean of none is None, and so is the deviation of less than two.
    """
    known = [value for value in values if value is not None]
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    mean = float(np.mean(known)) if known else None
    return {"mean": mean, "std": deviation, "values": list(values)}


def majority_accuracy(targets: Targets) -> float:
    """What the most frequent class, given for all rows, would reach."""
    return float(np.bincount(targets.astype(np.int64)).max() / len(targets))
