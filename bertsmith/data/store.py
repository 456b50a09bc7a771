"""The token store: a corpus as flat ids, with the places where sentences and documents begin.

A store is a row of shards; a shard is opened when something in it is asked for. In memory it is
arrays; on disk an Arrow file that is mapped, not read (docs/data-format.md). Everything here takes
numbers that run over all shards, and takes many of them at once.

Legend: N = tokens; S = sentences; P = paragraphs; D = documents of a shard; Q = numbers asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.corpus import Document
from bertsmith.corpus.letters import count_mixed_words
from bertsmith.random_bits import Int64
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.bounds import count_long_runs

_SENTENCES_AT_ONCE = 8192  # what the tokenizer's threads share out at a time
_MOST_OPEN = 1024  # shards; their files stay mapped

Ids = npt.NDArray[np.unsignedinteger]
Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some documents, end to end: any run of neighbouring sentences is one slice of `ids`."""

    ids: Ids
    """uint16 or uint32 [N]; without special tokens."""
    sentence_offsets: Offsets
    """int32 [S + 1]; sentence s is `ids[sentence_offsets[s] : sentence_offsets[s + 1]]`."""
    paragraph_offsets: Offsets
    """int32 [P + 1]; the first sentence of each paragraph."""
    document_offsets: Offsets
    """int32 [D + 1]; the first paragraph of each document."""

    @property
    def size(self) -> Size:
        """How much is in it."""
        return Size(
            len(self.ids),
            len(self.sentence_offsets) - 1,
            len(self.paragraph_offsets) - 1,
            len(self.document_offsets) - 1,
        )

    def document_starts(self) -> Offsets:
        """The first sentence of each document, and the end: int32 [D + 1]."""
        return self.paragraph_offsets[self.document_offsets]

    def sha256(self) -> str:
        """A digest of all of it."""
        found = hashlib.sha256()
        for array in (
            self.ids,
            self.sentence_offsets,
            self.paragraph_offsets,
            self.document_offsets,
        ):
            found.update(f"{array.dtype.str} {len(array)} ".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


class Size(NamedTuple):
    """How much a shard or a store holds."""

    tokens: int
    sentences: int
    paragraphs: int
    documents: int


class TokenStore:
    """All tokens of a split. Numbers of tokens, sentences and so on run over all shards.

    Args:
        sizes: of each shard.
        open_shard: opens one, by its number.
        digest: that of the content; None: made of the shards' own.
        frequencies: how often each entry stands in it, int64 [vocab_size]; None: counted.

    Attributes:
        num_tokens, num_sentences, num_paragraphs, num_documents: in all.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        open_shard: Callable[[int], Shard],
        *,
        digest: str | None = None,
        frequencies: Int64 | None = None,
    ) -> None:
        self.num_shards = len(sizes)
        self._open_shard = open_shard
        self.shard: Callable[[int], Shard] = lru_cache(_MOST_OPEN)(open_shard)
        bounds = np.zeros((self.num_shards + 1, len(Size._fields)), dtype=np.int64)
        bounds[1:] = np.cumsum(np.array(sizes, dtype=np.int64).reshape(-1, 4), axis=0)
        self._tokens, self._sentences, self._paragraphs, self._documents = bounds.T.copy()
        self.num_tokens, self.num_sentences, self.num_paragraphs, self.num_documents = (
            int(total) for total in bounds[-1]
        )
        self._digest = digest
        self._frequencies = frequencies

    @staticmethod
    def of(shard: Shard) -> TokenStore:
        """A store of one shard that is in memory."""
        return TokenStore([shard.size], partial(_only, shard))

    def __getstate__(self) -> dict[str, Any]:
        """Without the shards that are open: another process opens them by itself."""
        return {name: value for name, value in vars(self).items() if name != "shard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.shard = lru_cache(_MOST_OPEN)(self._open_shard)

    def shards(self) -> Iterator[tuple[Shard, int, int]]:
        """Each shard with the numbers of its first sentence and its first token."""
        for number in range(self.num_shards):
            yield (
                self.shard(number),
                int(self._sentences[number]),
                int(self._tokens[number]),
            )

    def sha256(self) -> str:
        """A digest of all tokens and of what they are parted into."""
        if self._digest is None:
            self._digest = digest_of_shards(shard.sha256() for shard, *_ in self.shards())
        return self._digest

    def frequencies(self, vocab_size: int) -> Int64:
        """How often each entry stands in it: int64 [vocab_size]."""
        if self._frequencies is None:
            self._frequencies = np.zeros(vocab_size, dtype=np.int64)
            for shard, *_ in self.shards():
                self._frequencies += np.bincount(shard.ids, minlength=vocab_size)
        return self._frequencies

    def bounds(self, sentences: Int64) -> tuple[Int64, Int64]:
        """First token and end of each sentence, int64 [Q] each."""
        found = np.empty((2, len(sentences)), dtype=np.int64)
        for number, rows, local in self._by_shard(sentences, self._sentences):
            offsets = self.shard(number).sentence_offsets
            found[0, rows] = offsets[local] + self._tokens[number]
            found[1, rows] = offsets[local + 1] + self._tokens[number]
        return found[0], found[1]

    def start(self, sentences: Int64) -> Int64:
        """First token of each sentence, int64 [Q]; of `num_sentences`, the end of all tokens."""
        found = np.full(len(sentences), self.num_tokens, dtype=np.int64)
        inside = np.flatnonzero(sentences < self.num_sentences)
        found[inside] = self.bounds(sentences[inside])[0]
        return found

    def paragraphs_of(self, sentences: Int64) -> tuple[Int64, Int64]:
        """First sentence and end of the paragraph that each sentence stands in, int64 [Q] each."""
        found = np.empty((2, len(sentences)), dtype=np.int64)
        for number, rows, local in self._by_shard(sentences, self._sentences):
            offsets = self.shard(number).paragraph_offsets
            place = _place(offsets, local)
            found[0, rows] = offsets[place] + self._sentences[number]
            found[1, rows] = offsets[place + 1] + self._sentences[number]
        return found[0], found[1]

    def documents_of(self, sentences: Int64) -> tuple[Int64, Int64]:
        """First sentence and end of the document that each sentence stands in, int64 [Q] each."""
        found = np.empty((2, len(sentences)), dtype=np.int64)
        for number, rows, local in self._by_shard(sentences, self._sentences):
            shard = self.shard(number)
            paragraphs, documents = shard.paragraph_offsets, shard.document_offsets
            place = _place(documents, _place(paragraphs, local))
            found[0, rows] = paragraphs[documents[place]] + self._sentences[number]
            found[1, rows] = paragraphs[documents[place + 1]] + self._sentences[number]
        return found[0], found[1]

    def sentence_at(self, tokens: Int64) -> Int64:
        """The last sentence that begins at or before each token, int64 [Q].

        Behind the end of all tokens it is `num_sentences`.
        """
        found = np.full(len(tokens), self.num_sentences, dtype=np.int64)
        inside = np.flatnonzero(tokens < self.num_tokens)
        for number, rows, local in self._by_shard(tokens[inside], self._tokens):
            place = _place(self.shard(number).sentence_offsets, local)
            found[inside[rows]] = place + self._sentences[number]
        return found

    def tokens(self, starts: Int64, lengths: Int64) -> Int64:
        """The ids of runs of tokens, each inside one document, end to end: int64 [sum of lengths].

        Args:
            starts: int64 [Q].
            lengths: int64 [Q].
        """
        if self.num_shards == 1:
            return self.shard(0).ids[np.repeat(starts, lengths) + _ranges(lengths)].astype(np.int64)
        found = np.empty(int(lengths.sum()), dtype=np.int64)
        ends = np.cumsum(lengths)
        some = np.flatnonzero(lengths)  # an empty run may begin behind the last token
        for number, rows, local in self._by_shard(starts[some], self._tokens):
            rows = some[rows]
            targets = ends[rows] - lengths[rows]
            within = _ranges(lengths[rows])
            source = np.repeat(local, lengths[rows]) + within
            found[np.repeat(targets, lengths[rows]) + within] = self.shard(number).ids[source]
        return found

    def _by_shard(self, numbers: Int64, firsts: Int64) -> Iterator[tuple[int, Int64, Int64]]:
        """Each shard that is meant: its number, where in `numbers`, and the numbers inside it."""
        if not len(numbers):
            return
        if self.num_shards == 1:
            yield 0, np.arange(len(numbers)), numbers
            return
        of = np.searchsorted(firsts, numbers, side="right") - 1
        order = np.argsort(of, kind="stable")
        shards, cuts = np.unique(of[order], return_index=True)
        for number, rows in zip(shards.tolist(), np.split(order, cuts[1:]), strict=True):
            yield number, rows, numbers[rows] - firsts[number]


def _only(shard: Shard, number: int) -> Shard:
    return shard


def digest_of_shards(digests: Iterable[str]) -> str:
    """The digest of a store, from those of its shards in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def build_store(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    progress: Callable[[int], None] = lambda num_sentences: None,
) -> tuple[TokenStore, Counter[str]]:
    """Tokenize `documents` into a store in memory.

    Args:
        documents: a split of a corpus.
        tokenizer: whose ids are stored.
        progress: told the number of sentences done, now and then.

    Returns:
        The store, and the counts of `ShardBuilder.finish`.
    """
    build = ShardBuilder(tokenizer)
    for document in documents:
        build.add(document)
        progress(build.num_sentences)
    shard, counts = build.finish()
    return TokenStore.of(shard), counts


def word_counts(store: TokenStore, tokenizer: Tokenizer) -> Int64:
    """How often each entry stands in `store`, int64 [vocab_size]; 0 of special tokens, which are
    never a word to predict.
    """
    counts = store.frequencies(tokenizer.vocab_size).copy()
    counts[tokenizer.special_ids] = 0
    return counts


def log_shares(counts: Int64) -> npt.NDArray[np.float32]:
    """Log of each entry's share of the words, float32 [vocab_size], by `word_counts`.

    Half a count is added to each, which keeps unseen ones finite.
    """
    smoothed = counts + 0.5
    return np.log(smoothed / smoothed.sum()).astype(np.float32)


class ShardBuilder:
    """Tokenizes documents one after the other, some thousand sentences at a time.

    Attributes:
        num_sentences: kept so far, of those that were tokenized.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[str] = []
        self._begins: list[int] = []  # of each: 2 a document, 1 a paragraph, 0 neither
        self._ids: list[Ids] = []
        self._lengths: list[Int64] = []  # tokens of each sentence kept
        self._paragraphs: list[Int64] = []  # first sentences
        self._documents: list[Int64] = []  # first paragraphs
        self._num_paragraphs = 0
        self._num_words = 0
        self._num_empty = 0
        self._num_long_runs = 0
        self._num_mixed_words = 0
        self.num_sentences = 0

    def add(self, document: Document) -> None:
        """Take in a document."""
        first = 2
        for paragraph in document:
            for sentence in paragraph:
                self._begins.append(first)
                follows = first == 0 and self._tokenizer.joins_by_space
                self._waiting.append(f" {sentence}" if follows else sentence)
                first = 0
            first = first or 1
        if len(self._waiting) >= _SENTENCES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        ids, lengths = self._tokenizer.encode_text(self._waiting)
        self._num_words += sum(len(sentence.split()) for sentence in self._waiting)
        self._num_long_runs += sum(map(count_long_runs, self._waiting))
        self._num_mixed_words += count_mixed_words(self._waiting)
        begins = np.array(self._begins, dtype=np.int64)
        kept = lengths > 0
        self._num_empty += int(np.count_nonzero(~kept))
        # A paragraph begins at its first sentence that is kept, and so does a document.
        document = np.cumsum(begins == 2)
        paragraph = np.cumsum(begins > 0)[kept]
        is_new = np.diff(paragraph, prepend=0) > 0
        firsts = np.flatnonzero(is_new)
        of = document[kept][firsts]
        new_documents = np.diff(of, prepend=0) > 0
        self._paragraphs.append(firsts + self.num_sentences)
        self._documents.append(np.flatnonzero(new_documents) + self._num_paragraphs)
        self._ids.append(ids)
        self._lengths.append(lengths[kept])
        self.num_sentences += int(np.count_nonzero(kept))
        self._num_paragraphs += len(firsts)
        self._waiting, self._begins = [], []

    def finish(self) -> tuple[Shard, Counter[str]]:
        """The shard, and counts.

        Returns:
            The shard, and `documents`, `paragraphs`, `sentences`, `tokens`, `words` (runs between
            spaces), `unknown_tokens`, `empty_sentences` (no token left of them; not in the store),
            `paragraphs_of_one_sentence`, `documents_of_one_sentence`; and if there are any,
            `long_runs` (of over 1,000 characters without a space) and `mixed_words` (a Greek or
            Cyrillic letter beside a Latin one).
        """
        self._flush()
        ids = np.concatenate(self._ids)
        lengths = np.concatenate(self._lengths)
        shard = Shard(
            ids=ids,
            sentence_offsets=_offsets([np.cumsum(lengths)], prepend=0),
            paragraph_offsets=_offsets([*self._paragraphs, np.array([self.num_sentences])]),
            document_offsets=_offsets([*self._documents, np.array([self._num_paragraphs])]),
        )
        size = shard.size
        counts = Counter(
            documents=size.documents,
            paragraphs=size.paragraphs,
            sentences=size.sentences,
            tokens=size.tokens,
            words=self._num_words,
            unknown_tokens=int(np.count_nonzero(ids == self._tokenizer.unk_id)),
            empty_sentences=self._num_empty,
            paragraphs_of_one_sentence=int(np.sum(np.diff(shard.paragraph_offsets) == 1)),
            documents_of_one_sentence=int(np.sum(np.diff(shard.document_starts()) == 1)),
        )
        oddities = {"long_runs": self._num_long_runs, "mixed_words": self._num_mixed_words}
        counts.update({name: count for name, count in oddities.items() if count})
        return shard, counts


def _offsets(parts: list[Int64], prepend: int | None = None) -> Offsets:
    joined = np.concatenate([*([] if prepend is None else [np.array([prepend])]), *parts])
    return joined.astype(np.int32)


def _place(offsets: Offsets, numbers: Int64) -> Int64:
    """The last place of `offsets` that is not over each number; numbers are under the last."""
    # In the offsets' own type: numpy would otherwise copy all of them into the other one.
    return np.searchsorted(offsets, numbers.astype(offsets.dtype), side="right") - 1


def _ranges(lengths: Int64) -> Int64:
    """0, 1, … up to each length, end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
