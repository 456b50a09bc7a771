"""How far a run is: all that going on needs beside weights and moments."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import read_json
from bertsmith.training.budget import Spent
from bertsmith.training.sums import Sums

_FORMAT = 4
_MAY_BE_NEGATIVE = ("losses", "mean_loss", "figures")
_MOST = 2**53  # beyond it a JSON number is not exact everywhere


@dataclass(kw_only=True)
class Totals:
    """What a run adds up for its closing lines."""

    closing: Sums = field(default_factory=Sums)
    """Over the last tenth of the budget."""
    timed: Sums = field(default_factory=Sums)
    """Over all steps but the first of each process, which also warms caches and kernels up."""
    first_step_seconds: float = 0.0
    cut_pairs: int = 0
    cut_tokens: int = 0


@dataclass(kw_only=True)
class BestMoment:
    """The evaluation with the best figures so far."""

    step: int
    epoch: float
    """Passes over the training examples before it."""
    figures: dict[str, float | None]
    """Of the evaluation, by name."""


@dataclass(kw_only=True)
class Progress:
    """The counts of a run; batches, masks and dropout follow from the seed and the step in them."""

    spent: Spent = field(default_factory=Spent)
    totals: Totals = field(default_factory=Totals)
    window: Sums = field(default_factory=Sums)
    """Steps since the last line of the log."""
    mean_loss: float | None = None
    """Running mean of the steps' losses, against which a spike is measured."""
    skipped: list[int] = field(default_factory=list)
    """Numbers of the batches that were left out because the loss diverged on them."""
    micro_batch: int = 0
    """Tokens at once that fitted after more had not; 0: all that was asked for did."""
    metrics_bytes: int = 0
    """How long metrics.jsonl was."""
    owes_validation: bool = False
    """Whether one was due and is not made yet, because there was no time or a signal came."""
    best: BestMoment | None = None
    """None: nothing is selected by, or there was no evaluation yet."""
    evaluations_since_best: int = 0
    checkpoints_at_words: dict[str, int] = field(default_factory=dict)
    """The step of each checkpoint that is kept for its number of words, by that number."""
    num_averaged: int = 0
    """Steps whose weights are in the running mean."""
    budget: str = ""
    """Whose last tenth `totals.closing` is of."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What observers keep from process to process, JSON by a name of their own."""
    held: dict[str, Any] = field(default_factory=dict)
    """The settings that say what is computed, as `config.reproducibility_settings` gives them."""

    @property
    def is_best(self) -> bool:
        """Whether the last step had the best evaluation."""
        return self.best is not None and self.best.step == self.spent.step

    @property
    def batch_number(self) -> int:
        """The number of the next step's batch: the step's own, but for the batches left out."""
        number = self.spent.step
        for skipped in sorted(self.skipped):
            number += skipped <= number
        return number

    @property
    def last_batch_number(self) -> int:
        """That of the step before; -1 if there is none."""
        number = self.batch_number - 1
        while number in self.skipped:
            number -= 1
        return number

    def to_json(self) -> dict[str, Any]:
        """As training_state.json holds it; Python writes floats so that they come back exactly."""
        return {"format": _FORMAT, **asdict(self)}

    @staticmethod
    def read(path: Path) -> Progress:
        """From training_state.json. Raises: `ModelError` if it is anything else."""
        found = read_json(path)
        version = found.pop("format", None)
        if version != _FORMAT:
            raise ModelError(
                f"{path} must be of format {_FORMAT}; it is of {version!r}: go on with the version "
                "of Bertsmith that wrote it, or begin another run."
            )
        try:
            progress = msgspec.convert(found, Progress)
        except msgspec.ValidationError as error:
            raise ModelError(f"{path} is not the state of a run: {error}.") from error
        if not all(low <= number <= _MOST for low, number in _numbers(found)):
            raise ModelError(f"{path} is not the state of a run: a number in it is impossible.")
        return progress


def _numbers(value: Any, least: float = 0.0) -> list[tuple[float, float]]:
    """All numbers in a JSON value, each after the least that it may be.

    What is no number, as NaN, comes out as infinite.
    """
    if isinstance(value, dict):
        return [
            found
            for name, part in value.items()
            for found in _numbers(part, -_MOST if name in _MAY_BE_NEGATIVE else least)
        ]
    if isinstance(value, list):
        return [found for part in value for found in _numbers(part, least)]
    if isinstance(value, int | float):
        return [(least, value if math.isfinite(value) else math.inf)]
    return []
