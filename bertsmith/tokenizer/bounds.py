"""Texts in pieces of bounded length, so that what is in memory or in one word is bounded too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_RUN = 1000
"""Characters without a space that a vocabulary is learned from as one; the work for a run grows
with its square. A sentence of Chinese or Thai has fewer."""

LONGEST_PIECE = 2**16
"""Characters that are made into tokens at once."""

_CHARACTERS_AT_ONCE = 2**19

_RUN = re.compile(r"\S+")


def count_long_runs(text: str) -> int:
    """Runs of over `LONGEST_RUN` characters without a space."""
    if len(text) <= LONGEST_RUN:
        return 0
    return sum(run.end() - run.start() > LONGEST_RUN for run in _RUN.finditer(text))


def part_long_runs(text: str) -> str:
    """`text` with spaces put into runs that are too long; most texts stay as they are."""
    if not count_long_runs(text):
        return text
    return _RUN.sub(lambda run: " ".join(_cut(run[0], LONGEST_RUN)), text)


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most `LONGEST_PIECE` characters, cut before spaces if there are any.

    The tokens of the pieces are those of the text, but for those at a cut inside a run of
    characters that is longer than a piece.
    """
    begin = 0
    while len(text) - begin > LONGEST_PIECE:
        end = text.rfind(" ", begin + 1, begin + LONGEST_PIECE)
        end = end if end > 0 else begin + LONGEST_PIECE
        yield text[begin:end]
        begin = end
    yield text[begin:]


def batches(texts: Iterable[str], most: int) -> Iterator[list[str]]:
    """Texts, at most so many at a time, and fewer if they are long."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= most or size >= _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cut(text: str, length: int) -> list[str]:
    return [text[begin : begin + length] for begin in range(0, len(text), length)]
