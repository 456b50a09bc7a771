"""A validation split for a corpus that has none: a share of its documents, always the same ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain

from bertsmith.corpus.document import Corpus, Document, HoldOut, Part, unwarned


def with_validation(corpus: Corpus, fraction: float) -> Corpus:
    """`corpus` with `train` parted into `train` and `validation`, if it has no validation split.

    Documents are held out by a hash of their text, so that the choice does not change when a corpus
    grows or its files are renamed. A corpus of too few documents gives its end instead: the last
    `fraction` of its paragraphs, at least one.

    Args:
        corpus: any corpus.
        fraction: share held out, 0 to 1; 0 leaves the corpus without validation.
    """
    if fraction == 0 or "validation" in corpus.splits:
        return corpus
    return replace(
        corpus,
        splits=("train", "validation", *(name for name in corpus.splits if name != "train")),
        find_parts=lambda: _parts(corpus, fraction),
    )


def digest(document: Document) -> bytes:
    """16 bytes that stand for a document's text."""
    found = hashlib.blake2b(digest_size=16)
    for paragraph in document:
        found.update("\n".join(paragraph).encode())
        found.update(b"\n\n")
    return found.digest()


def _parts(corpus: Corpus, fraction: float) -> list[Part]:
    training = [part for part in corpus.parts if part.split == "train"]
    with unwarned():
        rule = iter(_rules(training, fraction))
    return [
        replace(part, hold_out=next(rule)) if part.split == "train" else part
        for part in corpus.parts
    ]


def _rules(training: Sequence[Part], fraction: float) -> list[Callable[[], HoldOut]]:
    """For each part, what of it is held out."""
    if _any_chosen(training, fraction):
        return [partial(_by_hash, fraction)] * len(training)
    counts = [sum(map(len, part.reader(Counter()))) for part in training]
    total = sum(counts)
    cut = total - (max(1, round(fraction * total)) if total > 1 else 0)
    return [partial(_Tail, cut - before) for before in accumulate([0, *counts[:-1]])]


def _by_hash(fraction: float) -> HoldOut:
    def hold_out(document: Document) -> Iterator[tuple[bool, Document]]:
        yield _is_chosen(document, fraction), document

    return hold_out


class _Tail:
    """Holds out what stands behind a paragraph.

    Args:
        cut: its number, counted from the part's beginning.
    """

    def __init__(self, cut: int) -> None:
        self.cut = cut

    def __call__(self, document: Document) -> Iterator[tuple[bool, Document]]:
        inside = min(max(self.cut, 0), len(document))
        self.cut -= len(document)
        for is_held_out, piece in ((False, document[:inside]), (True, document[inside:])):
            if piece:
                yield is_held_out, piece


def _any_chosen(parts: Sequence[Part], fraction: float) -> bool:
    """Whether hashing holds out something, and not all, of a corpus with documents enough."""
    chosen = 0
    documents = chain.from_iterable(part.reader(Counter()) for part in parts)
    for number, document in enumerate(documents, start=1):
        chosen += _is_chosen(document, fraction)
        if 0 < chosen < number and number * fraction >= 1:
            return True
    return False


def _is_chosen(document: Document, fraction: float) -> bool:
    return int.from_bytes(digest(document)[:8], "big") < fraction * 2**64
