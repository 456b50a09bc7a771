"""What validation on the way may take of a run whose budget is time."""

from __future__ import annotations

from dataclasses import dataclass

MOST_OF_THE_TIME = 0.1

_OF_A_STEP = 0.5
"""What a pair takes to be judged, by what it takes to be trained on; about, before one is timed."""


@dataclass(kw_only=True)
class ValidationTime:
    """The clock of the validations so far.

    Attributes:
        seconds: of all of them.
        last: of the last one; None: there was none.
    """

    seconds: float = 0.0
    last: float | None = None

    def add(self, seconds: float) -> None:
        """Count one."""
        self.seconds += seconds
        self.last = seconds

    def allows_another(self, elapsed: float, *, pairs: int, seconds_a_pair: float) -> bool:
        """Whether another leaves all of them within a tenth of the time.

        Args:
            elapsed: seconds since training began, those of validation counted.
            pairs: that it would judge.
            seconds_a_pair: that training takes.
        """
        next_one = _OF_A_STEP * pairs * seconds_a_pair if self.last is None else self.last
        return self.seconds + next_one <= MOST_OF_THE_TIME * (elapsed + next_one)
