"""A linear model on frozen vectors: what an encoder says of texts without being trained on them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith.config import LabelledConfig, ProbeConfig
from bertsmith.display import Display
from bertsmith.errors import DataError
from bertsmith.extras import require
from bertsmith.finetuning.labels import Targets, Task, task_of
from bertsmith.finetuning.metrics import majority_accuracy, metrics_of, spread_of
from bertsmith.finetuning.tables import LabelledTexts, read_labelled, refuse_other_kind
from bertsmith.inference.model import Float32, PretrainedModel, load

_PENALTIES = np.logspace(-3, 2, 6)
"""To choose from: inverse strengths of the classifier's penalty, strengths of the regressor's."""


def probe_folder(
    path: Path,
    *,
    train: Path,
    validation: Path | None = None,
    labelled: LabelledConfig | None = None,
    config: ProbeConfig | None = None,
    baseline: bool = True,
    display: Display | None = None,
) -> dict[str, Any]:
    """Fit a linear model to the vectors of the encoder in `path`.

    Logistic regression of classes, ridge regression of scores, on standardised vectors; the
    strength of the penalty is chosen by the cross-validation whose figures are given.

    Args:
        path: a run, a checkpoint, a Hugging Face folder, or hf:owner/name.
        train: a table of labelled texts, which is cross-validated; see `read_labelled`.
        validation: another, on which the model of all training rows is judged.
        labelled: what the tables mean.
        config: which vectors, how many folds.
        baseline: whether the same is done with the vectors of a random encoder.
        display: shows what goes on; default: a silent one.

    Returns:
        `pretrained` and `random`: of each metric `mean`, `std` and `values` over the folds, and
        `validation` if there is one.

    Raises:
        BertsmithError: a file, a label or a setting does not suit.
    """
    require("finetune", "Probing")
    labelled, config = labelled or LabelledConfig(), config or ProbeConfig()
    display = display or Display(quiet=True)
    model = load(path, device=config.device)
    of_train = read_labelled(train, labelled)
    task = task_of(of_train, labelled)
    targets = task.targets(of_train)
    _check_folds(of_train, targets, task, config.folds)
    of_validation = None if validation is None else read_labelled(validation, labelled)
    results = _about(task, config, of_train, of_validation)
    for kind in ("pretrained", "random") if baseline else ("pretrained",):
        if kind == "random":
            model.bert.initialize(config.seed)
        vectors, results["rows"]["train_cut"] = _encode(
            model, of_train, config.pooling, kind, display
        )
        with display.stage(f"Fitting to {kind} vectors"):
            fitted, results[kind] = _cross_validate(vectors, targets, task, config)
        if of_validation is not None:
            vectors, results["rows"]["validation_cut"] = _encode(
                model, of_validation, config.pooling, kind, display
            )
            guesses = fitted.predict(vectors).astype(targets.dtype)
            results[kind]["validation"] = metrics_of(guesses, task.targets(of_validation), task)
    return results


def _about(
    task: Task, config: ProbeConfig, train: LabelledTexts, validation: LabelledTexts | None
) -> dict[str, Any]:
    """What the figures are of, and what the most frequent class would reach.

    Raises:
        BertsmithError: the tables are of two kinds.
    """
    found: dict[str, Any] = {
        "task": "scores" if task.is_regression else "classes",
        "classes": list(task.classes),
        "pooling": config.pooling,
        "folds": config.folds,
        "rows": {"train": len(train), "train_left_out": train.num_left_out},
    }
    if not task.is_regression:
        found["majority_accuracy"] = majority_accuracy(task.targets(train))
    if validation is None:
        return found
    judged_on = task.targets(validation)
    refuse_other_kind(train, validation)
    found["rows"] |= {
        "validation": len(validation),
        "validation_left_out": validation.num_left_out,
    }
    if not task.is_regression:
        found["validation_majority_accuracy"] = majority_accuracy(judged_on)
    return found


def _encode(
    model: PretrainedModel,
    table: LabelledTexts,
    pooling: str,
    kind: str,
    display: Display,
) -> tuple[Float32, int]:
    """A vector of each text, [N, H]; and how many texts were longer than the model takes."""
    entries = (a if b is None else (a, b) for a, b in table.texts)
    rows = []
    num_cut = 0
    with warnings.catch_warnings(), display.stage(f"Encoding, {kind} weights") as progress:
        if kind == "random":
            warnings.simplefilter("ignore")  # said of the same texts before
        for one in model.encode_each(entries, source=str(table.path)):
            rows.append(one.pooled(pooling).copy())
            num_cut += one.num_cut_tokens > 0
            progress(len(rows), len(table))
    return np.stack(rows), num_cut


def _cross_validate(
    vectors: Float32, targets: Targets, task: Task, config: ProbeConfig
) -> tuple[Any, dict[str, Any]]:
    """The model of the best penalty, fitted to all rows, and its figures over the folds."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splitter = KFold if task.is_regression else StratifiedKFold
    folds = list(
        splitter(config.folds, shuffle=True, random_state=config.seed).split(vectors, targets)
    )
    name = "spearman" if task.is_regression else "accuracy"
    best: tuple[float, Any, list[dict[str, float | None]]] | None = None
    for penalty in _PENALTIES:
        linear = (
            Ridge(alpha=penalty * len(vectors))
            if task.is_regression
            else LogisticRegression(C=penalty, max_iter=2000)
        )
        model = make_pipeline(StandardScaler(), linear)
        found = []
        for fitted_on, judged_on in folds:
            model.fit(vectors[fitted_on], targets[fitted_on])
            guesses = model.predict(vectors[judged_on]).astype(targets.dtype)
            found.append(metrics_of(guesses, targets[judged_on], task))
        mean = spread_of([one[name] for one in found])["mean"]
        if mean is None:
            raise DataError(
                "A fold must have different scores to be judged by; each has one score alone. "
                "Change --folds or --seed, or add rows."
            )
        if best is None or mean > best[0]:
            best = mean, model, found
    assert best is not None
    _, model, found = best
    model.fit(vectors, targets)
    return model, {metric: spread_of([one[metric] for one in found]) for metric in found[0]}


def _check_folds(table: LabelledTexts, targets: Targets, task: Task, folds: int) -> None:
    least, what = len(table) // 2, "pairs of rows"  # a correlation needs two
    if not task.is_regression:
        counts = np.bincount(targets.astype(np.int64))
        least, what = int(counts.min()), f"rows of the class {task.classes[int(counts.argmin())]!r}"
    if least < folds:
        raise DataError(
            f"{table.path} must have a row for each of the {folds} folds; it has {least} {what}. "
            "Lower --folds, or add rows."
        )
