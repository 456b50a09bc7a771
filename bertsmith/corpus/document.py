"""What every reader gives: documents, and how they are asked for by split and by part."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from bertsmith.corpus.bad import FEWEST_TO_JUDGE, refuse_bad, without_totals

Document = list[list[str]]
"""A document is a list of paragraphs; a paragraph is a list of sentences, none of them empty."""

Reader = Callable[[Counter[str]], Iterator[Document]]
"""Reads some documents from their beginning, counting what it leaves out, by reason.

It can be sent to another process. Where it begins and ends depends on the text alone.
"""

UNKNOWN_WORD = "[UNK]"
"""How a corpus writes a word that its makers took out (`<unk>` in WikiText)."""

HoldOut = Callable[[Document], Iterator[tuple[bool, Document]]]
"""Parts what is held out for validation (True) from the rest; of a document most often all."""


@dataclass(frozen=True)
class Part:
    """Some documents of a corpus that are read one after the other. It can be sent to a process."""

    reader: Reader
    split: str = "train"
    """Of its documents."""
    hold_out: Callable[[], HoldOut] | None = None
    """Made anew for each reading; what it holds out is of the split validation instead."""
    size: int = 0
    """Bytes of text, about; 0: it is not known."""

    def read(self, left_out: Counter[str]) -> Iterator[tuple[str, Document]]:
        """The documents, each with its split; `left_out` counts what the reader leaves out."""
        if self.hold_out is None:
            for document in self.reader(left_out):
                yield self.split, document
            return
        hold_out = self.hold_out()
        for document in self.reader(left_out):
            for is_held_out, piece in hold_out(document):
                yield ("validation" if is_held_out else self.split), piece


def labelled(label: str, digest: Callable[[], str] = str) -> str:
    """A digest with what it is of."""
    return f"{label}: {digest()}"


@contextmanager
def unwarned() -> Iterator[None]:
    """Readers do not warn inside: what is only looked at is told of when it is read in earnest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A named text with its splits; nothing is read before its parts are asked for."""

    name: str
    """As the user wrote it."""
    pretokenized: bool
    """Whether spaces already part words from punctuation, as in WikiText."""
    splits: tuple[str, ...]
    """Their names; `train` is always there."""
    find_parts: Callable[[], Sequence[Part]]
    """Finds out how the text is parted, which may take a look at it."""
    has_tables: bool = False
    """Whether some of it is read by rows, so that columns matter."""
    max_bad_rows: float = 1.0
    """Largest share of its rows, lines and files that may be unreadable."""
    content: tuple[Callable[[], str], ...] = ()
    """Each gives a digest of some of what is read, and of how; together they stand for all that is
    read, in its order."""

    @cached_property
    def parts(self) -> Sequence[Part]:
        """All parts, in the corpus's order; they depend on the text alone. Raises: CorpusError."""
        return self.find_parts()

    def read(self, split: str, left_out: Counter[str] | None = None) -> Iterator[Document]:
        """The documents of `split`, in the corpus's order, each time anew.

        Args:
            split: one of `splits`.
            left_out: counts what is left out of parts that hold something of this split.

        Raises:
            CorpusError: a file cannot be read, or too much of the corpus cannot.
        """
        counted: Counter[str] = Counter()
        for part in self.parts:
            if part.split == split or (part.hold_out and split == "validation"):
                for found, document in part.read(counted):
                    if found == split:
                        yield document
                refuse_bad(self.name, counted, self.max_bad_rows, fewest=FEWEST_TO_JUDGE)
        refuse_bad(self.name, counted, self.max_bad_rows)
        if left_out is not None:
            left_out.update(without_totals(counted))
