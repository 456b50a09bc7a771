"""Which evaluation of a training was the best one, and when enough others were no better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertsmith.training.progress import BestMoment, Progress


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The checkpoint of the best evaluation is kept, and training may end early."""

    metric: str
    """The figure of an evaluation that is to be large."""
    patience: int
    """Evaluations without a better one after which training ends; 0: it never does."""

    def count(self, progress: Progress, figures: Mapping[str, float | None], epoch: float) -> None:
        """Note in `progress` whether an evaluation, made now, is better than the best one."""
        value, best = figures[self.metric], progress.best
        assert value is not None  # what selects has a value whatever the model gives
        least = None if best is None else best.figures[self.metric]
        progress.evaluations_since_best += 1
        if least is None or value > least:
            progress.best = BestMoment(step=progress.spent.step, epoch=epoch, figures={**figures})
            progress.evaluations_since_best = 0

    def ends(self, progress: Progress) -> bool:
        """Whether enough evaluations were no better."""
        return 0 < self.patience <= progress.evaluations_since_best
