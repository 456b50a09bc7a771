"""When a preparation has met too many rows without a text."""

from __future__ import annotations

from collections import Counter

from bertsmith.corpus import BAD_ROW, FEWEST_TO_JUDGE, NUM_ROWS, Columns, refuse_bad_rows
from bertsmith.preparation.work import Piece


class RowJudge:
    """Ends a preparation that meets too many bad rows, whoever reads them in whatever order.

    Args:
        name: of the corpus.
        columns: how much may be bad.
        num_parts: of the corpus.
    """

    def __init__(self, name: str, columns: Columns, num_parts: int) -> None:
        self._name = name
        self._columns = columns
        self._waiting: dict[int, list[Piece]] = {}
        self._next = 0
        self._left_out: Counter[str] = Counter()

    def add(self, pieces: list[Piece]) -> None:
        """All pieces of a part. Raises: `CorpusError`, by what stands before the first gap."""
        self._waiting[pieces[0].part] = pieces
        while (found := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            for piece in found:
                self._left_out.update(piece.left_out)
            if self._left_out[NUM_ROWS] >= FEWEST_TO_JUDGE:
                self.end()

    def end(self) -> None:
        """Judge what there is. Raises: `CorpusError`."""
        bad = {
            reason.removeprefix(BAD_ROW): count
            for reason, count in self._left_out.items()
            if reason.startswith(BAD_ROW)
        }
        refuse_bad_rows(self._name, sum(bad.values()), self._left_out[NUM_ROWS], self._columns, bad)
