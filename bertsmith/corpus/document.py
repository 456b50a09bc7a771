"""What every reader gives: documents, and how they are asked for by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Document = list[list[str]]
"""A document is a list of paragraphs; a paragraph is a list of sentences, none of them empty."""

Reader = Callable[[Counter[str]], Iterator[Document]]
"""Reads one split from its beginning, counting what it leaves out, by reason, in the counter."""

UNKNOWN_WORD = "[UNK]"
"""How a corpus writes a word that its makers took out (`<unk>` in WikiText)."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A named text with its splits; nothing is read before `read` is called."""

    name: str
    """As the user wrote it."""
    pretokenized: bool
    """Whether spaces already part words from punctuation, as in WikiText."""
    splits: Mapping[str, Reader]
    """A reader for each split; every corpus has `train`."""

    def read(self, split: str, left_out: Counter[str] | None = None) -> Iterator[Document]:
        """The documents of `split`, in the corpus's order, each time anew."""
        return self.splits[split](Counter() if left_out is None else left_out)
