"""Figures of predictions, from scikit-learn and SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertsmith.errors import ConfigError
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


def metrics_of(predictions: Targets, targets: Targets, task: Task) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation of classes; Spearman's and Pearson's of scores.

    F1 is that of the second class where there are two, and else the mean over the classes.
    A correlation with what is constant is 0.
    """
    from scipy import stats
    from sklearn import metrics

    if task.is_regression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            found = {
                "spearman": stats.spearmanr(predictions, targets).statistic,
                "pearson": stats.pearsonr(predictions, targets).statistic,
            }
        return {name: float(np.nan_to_num(value)) for name, value in found.items()}
    labels: dict[str, Any] = {"labels": list(range(len(task.classes))), "average": "macro"}
    if len(task.classes) == 2:
        labels = {"pos_label": 1, "average": "binary"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows of one class alone are no mistake here
        return {
            "accuracy": float(metrics.accuracy_score(targets, predictions)),
            "f1": float(metrics.f1_score(targets, predictions, zero_division=0.0, **labels)),
            "matthews": float(metrics.matthews_corrcoef(targets, predictions)),
        }


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None of one value) and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": list(values)}


def majority_accuracy(targets: Targets) -> float:
    """What the most frequent class, given for all rows, would reach."""
    return float(np.bincount(targets.astype(np.int64)).max() / len(targets))
