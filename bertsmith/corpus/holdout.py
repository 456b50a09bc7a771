"""A validation split for a corpus that has none: a share of its documents, always the same ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from bertsmith.corpus.document import Corpus, Document, Reader


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
    whole = corpus.splits["train"]
    read = partial(_read_part, whole, fraction)
    splits = {"train": partial(read, False), "validation": partial(read, True)}
    return replace(corpus, splits={**corpus.splits, **splits})


def _read_part(
    whole: Reader, fraction: float, held_out: bool, left_out: Counter[str]
) -> Iterator[Document]:
    """The held-out part of `whole`, or the other one."""
    if _any_chosen(whole, fraction):
        for document in whole(left_out):
            if _is_chosen(document, fraction) == held_out:
                yield document
        return
    num_paragraphs = sum(map(len, whole(Counter())))
    num_held_out = max(1, round(fraction * num_paragraphs)) if num_paragraphs > 1 else 0
    cut = num_paragraphs - num_held_out  # counted down to where the held-out part begins
    for document in whole(left_out):
        inside = min(max(cut, 0), len(document))
        cut -= len(document)
        if part := document[inside:] if held_out else document[:inside]:
            yield part


def _any_chosen(whole: Reader, fraction: float) -> bool:
    """Whether hashing holds out something of a corpus that has documents enough to choose from."""
    chosen = 0
    for number, document in enumerate(whole(Counter()), start=1):
        chosen += _is_chosen(document, fraction)
        if chosen and number * fraction >= 1:
            return True
    return False


def _is_chosen(document: Document, fraction: float) -> bool:
    digest = hashlib.blake2b(digest_size=8)
    for paragraph in document:
        digest.update("\n".join(paragraph).encode())
    return int.from_bytes(digest.digest(), "big") < fraction * 2**64
