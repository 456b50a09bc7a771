"""What labels mean: classes by name, or scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertsmith.config import LabelledConfig, nearest
from bertsmith.errors import DataError
from bertsmith.finetuning.tables import Label, LabelledTexts

Targets = npt.NDArray[np.int64] | npt.NDArray[np.float32]
"""[N]; numbers of classes, or scores."""

_MOST_CLASSES = 1000
_FEW = 0.1  # share of labels that are no numbers, among those that are
_LARGEST_SCORE = 1e15
_FEWEST_SCORES = 2


@dataclass(frozen=True, kw_only=True)
class Task:
    """Classification among named classes, or regression of scores."""

    classes: tuple[str, ...]
    """By number; empty: labels are scores."""
    spellings: tuple[str, ...] = ()
    """How the classes are written in the tables, if they have other names."""

    @property
    def is_regression(self) -> bool:
        """Whether labels are scores."""
        return not self.classes

    @property
    def num_outputs(self) -> int:
        """Numbers that a model gives for a row."""
        return max(1, len(self.classes))

    def targets(self, table: LabelledTexts) -> Targets:
        """The labels of a table as numbers: int64 [N] of classes, float32 [N] of scores.

        Raises:
            DataError: a label is not among the classes, or is no number.
        """
        assert table.labels is not None
        if self.is_regression:
            if len(table) < _FEWEST_SCORES:
                raise DataError(
                    f"{table.path} must have {_FEWEST_SCORES} rows or more to correlate their "
                    f"scores; it has {len(table)}."
                )
            return np.array(
                [_score(label, table, i) for i, label in enumerate(table.labels)], dtype=np.float32
            )
        numbers = {name: number for number, name in enumerate(self.spellings or self.classes)}
        for row, label in enumerate(table.labels):
            if str(label) not in numbers:
                raise DataError(
                    f"{table.path}, line {table.lines[row]}: the label must be one of those in the "
                    f"training rows; got {str(label)!r}. {nearest(str(label), numbers)}"
                )
        return np.array([numbers[str(label)] for label in table.labels], dtype=np.int64)


def task_of(table: LabelledTexts, config: LabelledConfig) -> Task:
    """What the labels of the training rows are.

    Raises:
        DataError: they are all the same, or too many to be classes.
    """
    assert table.labels is not None
    if config.task == "scores" or (config.task == "auto" and _are_scores(table)):
        if config.label_names:
            raise DataError("`label_names` are for classes; the labels are scores.")
        task = Task(classes=())
        if len(set(task.targets(table).tolist())) < 2:
            raise DataError(f"{table.path} must have different scores; all are {table.labels[0]}.")
        return task
    spellings = _sorted({str(label) for label in table.labels})
    if len(spellings) < 2:
        raise DataError(
            f"{table.path} must have two classes or more; all of its {len(table):,} rows have the "
            f"label {spellings[0]!r}. Name another column with --label-column, or add rows."
        )
    if len(spellings) > _MOST_CLASSES:
        raise DataError(
            f"{table.path} must have at most {_MOST_CLASSES:,} classes; it has {len(spellings):,} "
            "different labels. Name another column with --label-column, or say --task scores."
        )
    if not config.label_names:
        return Task(classes=spellings)
    if spellings != tuple(map(str, range(len(config.label_names)))):
        raise DataError(
            f"`label_names` needs labels from 0 to {len(config.label_names) - 1}, each there; "
            f"got {', '.join(spellings[:10])}."
        )
    return Task(classes=config.label_names, spellings=spellings)


def _are_scores(table: LabelledTexts) -> bool:
    """Whether all labels are numbers, and one of them is written with a decimal point.

    Raises:
        DataError: nearly all are; which is not is said, since one bad label must not turn scores
            into classes.
    """
    labels = table.labels or []
    others = [row for row, label in enumerate(labels) if _number(label) is None]
    have_point = any(_number(label) is not None and not _is_whole(label) for label in labels)
    if have_point and others and len(others) <= _FEW * len(labels):
        row = others[0]
        raise DataError(
            f"{table.path}, line {table.lines[row]}: the label must be a number, as nearly all "
            f"others are; got {labels[row]!r}. Mend it, or say --task classes."
        )
    return have_point and not others


def _is_whole(label: Label) -> bool:
    return isinstance(label, int) or (isinstance(label, str) and _whole(label) is not None)


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _number(label: Label) -> float | None:
    """A label as a number that arithmetic can bear; None: it is none."""
    if isinstance(label, bool):
        return None
    try:
        value = float(label)
    except (ValueError, OverflowError):
        return None
    return value if abs(value) <= _LARGEST_SCORE else None  # NaN is not


def _score(label: Label, table: LabelledTexts, row: int) -> float:
    value = _number(label)
    if value is None:
        shown = repr(label) if len(str(label)) < 40 else f"{str(label)[:40]}…"
        raise DataError(
            f"{table.path}, line {table.lines[row]}: the label must be a number of at most "
            f"{_LARGEST_SCORE:g}, as scores are; got {shown}."
        )
    return value


def _sorted(names: set[str]) -> tuple[str, ...]:
    """By number if all are whole numbers, else by letter."""
    if all(_whole(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
