"""What validation on the way may take of a run whose budget is time."""

from __future__ import annotations

from dataclasses import dataclass

MOST_OF_THE_TIME = 0.1

_OF_A_STEP = 0.25
"""What a pair takes to be judged, by what it takes to be trained on; about, before one is timed."""


@dataclass(kw_only=True)
class ValidationTime:
    """The clock of the validations so far.

    Attributes:
        seconds: of all of them.
        last: of the last one; None: there was none.
        ended: when it was over, in seconds since training began.
    """

    seconds: float = 0.0
    last: float | None = None
    ended: float = 0.0

    def add(self, seconds: float, elapsed: float) -> None:
        """Count one that is over now."""
        self.seconds += seconds
        self.last, self.ended = seconds, elapsed

    def allows_another(self, elapsed: float, *, pairs: int, seconds_a_pair: float) -> bool:
        """Whether another leaves all of them within a tenth of the time.

        It must be a tenth of the time since the last one, too, or several would come in a row.

        Args:
            elapsed: seconds since training began, those of validation counted.
            pairs: that it would judge.
            seconds_a_pair: that training takes.
        """
        next_one = _OF_A_STEP * pairs * seconds_a_pair if self.last is None else self.last
        since = elapsed - self.ended
        return self.seconds + next_one <= MOST_OF_THE_TIME * (
            elapsed + next_one
        ) and next_one <= MOST_OF_THE_TIME * (since + next_one)
