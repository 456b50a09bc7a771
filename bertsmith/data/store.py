"""The token store: a corpus as flat ids, with the places where sentences and documents begin."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertsmith.corpus import Document
from bertsmith.data.random_bits import Int64
from bertsmith.tokenizer import Tokenizer

_SENTENCES_AT_ONCE = 8192  # what the tokenizer's threads share out at a time


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """All tokens of a split, end to end; S sentences in P paragraphs in D documents.

    Neighbouring sentences of a document are neighbours in `ids` too, so that any run of sentences
    is one slice.
    """

    ids: npt.NDArray[np.unsignedinteger]
    """uint16 or uint32 [N]; without special tokens."""
    sentence_offsets: Int64
    """[S + 1]; sentence s is `ids[sentence_offsets[s] : sentence_offsets[s + 1]]`."""
    paragraph_offsets: Int64
    """[P + 1]; the first sentence of each paragraph."""
    document_offsets: Int64
    """[D + 1]; the first sentence of each document."""

    @property
    def num_sentences(self) -> int:
        """Sentences in all."""
        return len(self.sentence_offsets) - 1

    def sha256(self) -> str:
        """A digest of all of it."""
        digest = hashlib.sha256()
        for array in (
            self.ids,
            self.sentence_offsets,
            self.paragraph_offsets,
            self.document_offsets,
        ):
            digest.update(f"{array.dtype.str} {len(array)} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def build_store(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    progress: Callable[[int], None] = lambda num_sentences: None,
) -> tuple[TokenStore, Counter[str]]:
    """Tokenize `documents`.

    Args:
        documents: a split of a corpus.
        tokenizer: whose ids are stored.
        progress: told the number of sentences done, now and then.

    Returns:
        The store, and counts: `documents`, `paragraphs`, `sentences`, `tokens`, `unknown_tokens`,
        `empty_sentences` (no token left of them; not in the store).
    """
    build = _StoreBuilder(tokenizer)
    for document in documents:
        build.add(document)
        progress(len(build.lengths))
    return build.finish()


def log_frequencies(store: TokenStore, tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Log of each entry's share of the words in `store`, float32 [vocab_size].

    Half a count is added to each, which keeps unseen ones finite; special tokens, never a word to
    predict, count as unseen.
    """
    counts = np.bincount(store.ids, minlength=tokenizer.vocab_size).astype(np.float64)
    counts[tokenizer.special_ids] = 0
    counts += 0.5
    return np.log(counts / counts.sum()).astype(np.float32)


class _StoreBuilder:
    """Gathers sentences until there are enough for the tokenizer's threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        self.waiting: list[tuple[str, bool, bool]] = []  # with: begins a paragraph, a document
        self.pieces: list[npt.NDArray[np.unsignedinteger]] = []
        self.lengths: list[int] = []  # tokens of each sentence kept
        self.paragraphs: list[int] = []
        self.documents: list[int] = []
        self.counts: Counter[str] = Counter()

    def add(self, document: Document) -> None:
        for p, paragraph in enumerate(document):
            for s, sentence in enumerate(paragraph):
                self.waiting.append((sentence, s == 0, s == 0 and p == 0))
        if len(self.waiting) >= _SENTENCES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        rows = self.tokenizer.encode_text([sentence for sentence, _, _ in self.waiting])
        for row, (_, begins_paragraph, begins_document) in zip(rows, self.waiting, strict=True):
            if begins_paragraph:
                self.paragraphs.append(len(self.lengths))
            if begins_document:
                self.documents.append(len(self.lengths))
            if row:
                self.lengths.append(len(row))
            else:
                self.counts["empty_sentences"] += 1
        self.pieces.append(np.array([token for row in rows for token in row], dtype=self.dtype))
        self.waiting = []

    def finish(self) -> tuple[TokenStore, Counter[str]]:
        self.flush()
        ids = np.concatenate(self.pieces)
        num_sentences = len(self.lengths)
        store = TokenStore(
            ids=ids,
            sentence_offsets=np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]),
            paragraph_offsets=_offsets(self.paragraphs, num_sentences),
            document_offsets=_offsets(self.documents, num_sentences),
        )
        self.counts["documents"] = len(store.document_offsets) - 1
        self.counts["paragraphs"] = len(store.paragraph_offsets) - 1
        self.counts["sentences"] = num_sentences
        self.counts["tokens"] = len(ids)
        self.counts["unknown_tokens"] = int(np.count_nonzero(ids == self.tokenizer.unk_id))
        return store, self.counts


def _offsets(starts: list[int], end: int) -> Int64:
    """Starts and the end, without those that hold nothing (their sentences were all empty)."""
    return np.unique(np.array([*starts, end], dtype=np.int64)) if end else np.zeros(1, np.int64)
