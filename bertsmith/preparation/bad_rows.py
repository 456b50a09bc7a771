"""When a preparation has met too much that cannot be read."""

from __future__ import annotations

from collections import Counter

from bertsmith.corpus import FEWEST_TO_JUDGE, Corpus, refuse_bad, unwarned
from bertsmith.preparation.work import Piece


class RowJudge:
    """Ends a preparation that meets too many bad rows, lines or files, whoever reads them.

    Args:
        corpus: what is read, in whatever order.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
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
            self.end(fewest=FEWEST_TO_JUDGE)

    def end(self, *, fewest: int = 0) -> None:
        """Judge what there is; units of which there are fewer, later. Raises: `CorpusError`."""
        corpus = self._corpus
        refuse_bad(corpus.name, self._left_out, corpus.max_bad_rows, fewest=fewest)


def refuse_unreadable(corpus: Corpus) -> None:
    """Raise `CorpusError` if too much of the training text cannot be read; all of it is read."""
    with unwarned():
        for _ in corpus.read("train"):
            pass
