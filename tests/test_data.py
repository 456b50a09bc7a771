"""The token store, pairs, masks and batches."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bertsmith.batch import Batch
from bertsmith.corpus import Document
from bertsmith.data.deal import deal
from bertsmith.data.examples import lay_out
from bertsmith.data.masking import (
    choose_positions,
    choose_spans,
    choose_words,
    replace_tokens,
    words_of,
)
from bertsmith.data.pairs import AdjacentPairs, FilledPairs
from bertsmith.data.store import Shard, TokenStore, build_store, log_shares, word_counts
from bertsmith.random_bits import Stream, random_bits
from bertsmith.tokenizer import Tokenizer, train
from bertsmith.tokenizer.truncation import truncated_lengths
from tests.support.stores import make_batches
from tests.support.texts import SPACED, make_documents, sentences_of

LETTERS = st.text("abc", min_size=1, max_size=6).map(" ".join)
DOCUMENTS = st.lists(
    st.lists(st.lists(LETTERS, min_size=1, max_size=5), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


def letters() -> Tokenizer:
    return train([[["a b c"]]], kind="word", spelling=SPACED, min_frequency=1)


def adjacent(store: TokenStore, seed: int = 0) -> AdjacentPairs:
    return AdjacentPairs(store, lay_out(store, "adjacent", 32), seed=seed)


def filled(store: TokenStore, num_tokens: int, short: float = 0.1, seed: int = 0) -> FilledPairs:
    return FilledPairs(
        store,
        lay_out(store, "filled", num_tokens + 3),
        seed=seed,
        num_tokens=num_tokens,
        short_pair_probability=short,
    )


def only(store: TokenStore) -> Shard:
    """The shard of a store in memory."""
    return store.shard(0)


def sequences(batch: Batch) -> list[list[int]]:
    """The true token ids of each sequence, masks undone."""
    ids = batch.input_ids.clone()
    ids[batch.masked_positions] = batch.masked_labels
    return [ids[a:b].tolist() for a, b in pairwise(batch.cu_seqlens.tolist())]


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS)
def test_a_store_gives_the_sentences_back(documents: list[Document]) -> None:
    tokenizer = letters()
    store, counts = build_store(documents, tokenizer)
    shard = only(store)
    ids, lengths = tokenizer.encode_text(sentences_of(documents))
    assert shard.ids.tolist() == ids.tolist()
    assert np.diff(shard.sentence_offsets).tolist() == lengths.tolist()
    assert counts["tokens"] == store.num_tokens == len(ids)
    assert np.diff(shard.paragraph_offsets).tolist() == [len(p) for d in documents for p in d]
    assert np.diff(shard.document_offsets).tolist() == [len(d) for d in documents]
    assert np.diff(shard.document_starts()).tolist() == [sum(map(len, d)) for d in documents]


def test_sentences_without_a_token_are_counted_and_not_kept() -> None:
    store, counts = build_store([[["a", " ", "b"], [" "]], [["\t"]], [["c"]]], letters())
    assert counts["empty_sentences"] == 3
    assert (counts["sentences"], counts["paragraphs"], counts["documents"]) == (3, 2, 2)
    assert store.num_sentences == 3


def test_an_empty_corpus_is_an_empty_store() -> None:
    store, counts = build_store([], letters())
    assert (store.num_sentences, counts["documents"]) == (0, 0)
    assert make_batches(store, letters()).num_examples == 0
    assert make_batches(store, letters(), pairing="filled").num_examples == 0
    assert make_batches(store, letters(), objective="mlm").num_examples == 0


def test_log_frequencies_are_those_of_the_words() -> None:
    tokenizer = letters()
    store, _ = build_store([[["a a a b x"]]], tokenizer)
    shares = np.exp(log_shares(word_counts(store, tokenizer)))
    assert shares.sum() == pytest.approx(1)
    a, b = (tokenizer.encode(letter).ids[1] for letter in "ab")
    assert shares[a] / shares[b] == pytest.approx(3.5 / 1.5)
    assert shares[tokenizer.unk_id] == shares.min()


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, seed=st.integers(0, 99))
def test_adjacent_pairs_are_neighbours_or_not_the_next(
    documents: list[Document], seed: int
) -> None:
    store, _ = build_store(documents, letters())
    pairing = adjacent(store, seed)
    assert pairing.num_examples == sum(len(p) - 1 for d in documents for p in d)
    numbers = np.arange(pairing.num_examples)
    spans = pairing.draw(numbers, np.zeros_like(numbers))
    offsets, text = only(store).sentence_offsets, only(store).ids
    for i in numbers:
        a = int(np.flatnonzero(offsets == spans.a_start[i])[0])
        true_next = text[offsets[a + 1] : offsets[a + 2]].tolist()
        b = text[spans.b_start[i] : spans.b_end[i]].tolist()
        assert (b != true_next) == spans.is_random[i]
        assert spans.a_end[i] == offsets[a + 1]


def test_half_of_the_pairs_are_random_and_new_in_each_epoch() -> None:
    store, _ = build_store(make_documents(400), letters_of_words())
    for pairing in (
        adjacent(store),
        filled(store, 29),
    ):
        numbers = np.arange(pairing.num_examples)
        first, second = (pairing.draw(numbers, np.full_like(numbers, e)) for e in (0, 1))
        assert abs(first.is_random.mean() - 0.5) < 0.05
        assert abs((first.is_random == second.is_random).mean() - 0.5) < 0.05
        both = first.is_random & second.is_random
        assert (first.b_start[both] != second.b_start[both]).mean() > 0.95


def letters_of_words() -> Tokenizer:
    return train(make_documents(5), kind="word", spelling=SPACED, min_frequency=1)


def test_no_length_tells_the_label_of_filled_pairs() -> None:
    store, _ = build_store(make_documents(3000), letters_of_words())
    pairing = filled(store, 61)
    numbers = np.arange(pairing.num_examples)
    spans = pairing.draw(numbers, np.zeros_like(numbers))
    length_b = spans.b_end - spans.b_start
    for length in (length_b, length_b + spans.a_end - spans.a_start):
        judged = [
            max(((length > t) == spans.is_random).mean(), ((length <= t) == spans.is_random).mean())
            for t in np.quantile(length, np.linspace(0.05, 0.95, 19))
        ]
        assert max(judged) < 0.55


def test_a_random_sentence_of_a_single_document_is_not_of_its_chunk() -> None:
    lines = [[sentence] for sentence in sentences_of(make_documents(60))]
    store, _ = build_store([lines], letters_of_words())
    pairing = filled(store, 40, short=0.0)
    numbers = np.arange(pairing.num_examples)
    spans = pairing.draw(numbers, np.zeros_like(numbers))
    assert spans.is_random.any()
    overlap = (spans.b_start < spans.a_end) & (spans.b_end > spans.a_start)
    assert not (overlap & spans.is_random).any()
    assert spans.is_random.mean() > 0.3


def test_one_repeated_sentence_makes_no_random_pair() -> None:
    store, _ = build_store([[["a b"] * 10]], letters())
    numbers = np.arange(9)
    assert not adjacent(store).draw(numbers, numbers).is_random.any()


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, seed=st.integers(0, 99), num_tokens=st.integers(5, 40))
def test_filled_pairs_hold_whole_neighbouring_sentences(
    documents: list[Document], seed: int, num_tokens: int
) -> None:
    store, _ = build_store(documents, letters())
    pairing = filled(store, num_tokens, seed=seed)
    numbers = np.arange(pairing.num_examples)
    spans = pairing.draw(numbers, np.zeros_like(numbers))
    offsets = only(store).sentence_offsets
    document = offsets[only(store).document_starts()]
    covered = np.zeros(store.num_tokens, dtype=bool)
    for i in numbers:
        runs = ((spans.a_start[i], spans.a_end[i]), (spans.b_start[i], spans.b_end[i]))
        for start, end in runs:
            assert start < end
            assert {int(start), int(end)} <= set(offsets.tolist())
            assert np.searchsorted(document, start, "right") == np.searchsorted(document, end)
        if not spans.is_random[i]:
            assert spans.b_start[i] == spans.a_end[i]
        covered[spans.a_start[i] : spans.a_end[i]] = True
    assert (pairing.num_examples > 0) == any(sum(map(len, d)) > 1 for d in documents)


def test_chunks_cover_every_document_of_two_sentences_or_more() -> None:
    store, _ = build_store(make_documents(100), letters_of_words())
    pairing = filled(store, 40, short=0.0)
    seen = np.zeros(store.num_sentences, dtype=bool)
    for start, end in pairing._examples.rows:
        seen[start:end] = True
    lengths = np.diff(only(store).document_starts())
    single = np.repeat(lengths == 1, lengths)
    assert (seen | single).all()


def test_filled_pairs_fill_the_length_and_a_tenth_are_short() -> None:
    store, _ = build_store(make_documents(600), letters_of_words())
    batches = make_batches(
        store, letters_of_words(), pairing="filled", max_length=64, batch_size=300
    )
    lengths = np.array(batches.batch(0).lengths)
    assert lengths.max() == 64
    full = make_batches(store, letters_of_words(), max_length=64, batch_size=300).batch(0)
    assert np.mean(lengths) > 1.5 * np.mean(full.lengths)
    spans = filled(store, 61, short=1.0).draw(np.arange(300), np.zeros(300, dtype=np.int64))
    short = (spans.a_end - spans.a_start) + (spans.b_end - spans.b_start)
    assert short.mean() < 0.75 * (lengths.mean() - 3)


@settings(max_examples=300, deadline=None)
@given(a=st.integers(1, 60), b=st.integers(1, 60), room=st.integers(5, 70))
def test_cutting_takes_from_the_longer(a: int, b: int, room: int) -> None:
    expected_a, expected_b = a, b
    while expected_a + expected_b > room:
        if expected_a > expected_b or (expected_a == expected_b and a <= b):
            expected_a -= 1
        else:
            expected_b -= 1
    found = truncated_lengths(np.array([a]), np.array([b]), room)
    assert [int(x[0]) for x in found] == [expected_a, expected_b]


@pytest.mark.parametrize(("a", "b"), [(40, 3), (3, 40), (20, 21), (21, 20), (30, 30), (5, 5)])
def test_cutting_is_the_longest_first_of_transformers(
    a: int, b: int, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)(
        " ".join(["crane"] * a),
        " ".join(["bird"] * b),
        truncation="longest_first",
        max_length=24,
    )
    kept_a, kept_b = (int(x[0]) for x in truncated_lengths(np.array([a]), np.array([b]), 21))
    assert theirs["token_type_ids"].count(1) == kept_b + 1
    assert theirs["token_type_ids"].count(0) == kept_a + 2


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    probability=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_each_sequence_has_its_share_of_masks(
    lengths: list[int], probability: float, seed: int
) -> None:
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    bits = random_bits(seed, Stream.MASK_POSITION, np.arange(len(sequence)))
    maskable = random_bits(seed, Stream.ORDER, np.arange(len(sequence))) % np.uint64(4) > 0
    found = choose_positions(maskable, sequence, bits, probability)
    assert maskable[found].all()
    assert (np.diff(found) > 0).all()
    for i in range(len(lengths)):
        there = int(maskable[sequence == i].sum())
        wanted = min(there, max(1, round(probability * there)))
        assert np.count_nonzero(sequence[found] == i) == wanted


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    num_values=st.integers(1, 2**40),
)
def test_the_chosen_have_the_smallest_bits_of_their_sequence(
    lengths: list[int], seed: int, num_values: int
) -> None:
    draw = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    maskable = draw.random(len(sequence)) < 0.8
    # Of few values, many are equal: the first ones are taken.
    bits = draw.integers(0, num_values, len(sequence), dtype=np.uint64) << np.uint64(24)
    found = choose_positions(maskable, sequence, bits, 0.4).tolist()
    expected = []
    for number in range(len(lengths)):
        places = np.flatnonzero(maskable & (sequence == number)).tolist()
        count = max(round(0.4 * len(places)), 1)
        expected += sorted(sorted(places, key=lambda place: int(bits[place]))[:count])
    assert found == expected


def test_masks_are_80_10_10_and_random_words_are_words() -> None:
    regular = np.array([5, 6, 7, 9])
    tokens = np.full(40_000, 6)
    bits = random_bits(0, Stream.MASK_ACTION, np.arange(len(tokens)))
    seen = replace_tokens(tokens, bits, 4, regular)
    shares = {int(i): float(np.mean(seen == i)) for i in np.unique(seen)}
    assert set(shares) == {4, 5, 6, 7, 9}
    assert shares[4] == pytest.approx(0.8, abs=0.01)
    assert shares[6] == pytest.approx(0.1 + 0.025, abs=0.01)
    assert shares[5] == pytest.approx(0.025, abs=0.005)


@pytest.mark.parametrize("pairing", ["adjacent", "filled"])
def test_a_batch_is_laid_out_as_bert_reads_it(
    pairing: str, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer, pairing=pairing).batch(3)
    assert batch.input_ids.dtype == batch.masked_labels.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32
    assert list(batch.lengths) == sorted(batch.lengths, reverse=True)
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *batch.lengths]).tolist()
    special = set(tokenizer.special_ids.tolist())
    assert not special & set(batch.masked_labels.tolist())
    for ids, start in zip(sequences(batch), batch.cu_seqlens.tolist(), strict=False):
        end = start + len(ids)
        assert batch.position_ids[start:end].tolist() == list(range(len(ids)))
        assert ids[0] == tokenizer.cls_id
        assert ids[-1] == tokenizer.sep_id
        assert ids.count(tokenizer.sep_id) == 2
        first_b = ids.index(tokenizer.sep_id) + 1
        expected = [0] * first_b + [1] * (len(ids) - first_b)
        assert batch.token_type_ids[start:end].tolist() == expected


def test_a_batch_depends_on_nothing_but_seed_and_step(
    store: TokenStore, tokenizer: Tokenizer
) -> None:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        return [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]

    batches = make_batches(store, tokenizer)
    batches.batch(7)
    again = make_batches(store, tokenizer).batch(2)
    assert all(map(torch.equal, tensors(batches.batch(2)), tensors(again)))
    other = make_batches(store, tokenizer, seed=1).batch(2)
    assert other.lengths != again.lengths


def test_batches_are_what_they_have_always_been(store: TokenStore, tokenizer: Tokenizer) -> None:
    digest = hashlib.sha256()
    shapes: list[dict[str, object]] = [
        {"pairing": "adjacent"},
        {"pairing": "filled"},
        {"pairing": "filled", "masking": "whole-word"},
        {"pairing": "filled", "masking": "span"},
        {"objective": "mlm"},
    ]
    for shape in shapes:
        batches = make_batches(store, tokenizer, seed=5, **shape)
        for step in (0, 1, 2, 1000):
            for name, value in vars(batches.batch(step)).items():
                digest.update(name.replace("sequence_labels", "next_sentence_labels").encode())
                is_tensor = isinstance(value, torch.Tensor)
                digest.update(value.numpy().tobytes() if is_tensor else repr(value).encode())
    # A run that is resumed by a newer version goes on with the same batches.
    assert digest.hexdigest() == "1b51d8be551b7d25e879d9f4804b499b094950cffadbdb683b3fb079e05118ea"


def test_the_examples_do_not_depend_on_the_batch_size(
    store: TokenStore, tokenizer: Tokenizer
) -> None:
    whole = make_batches(store, tokenizer, batch_size=12).batch(0)
    parts = [make_batches(store, tokenizer, batch_size=4).batch(step) for step in range(3)]
    assert sorted(sequences(whole)) == sorted(row for part in parts for row in sequences(part))
    assert whole.num_masked == sum(part.num_masked for part in parts)


def test_an_epoch_has_every_pair_once_and_new_masks(
    store: TokenStore, tokenizer: Tokenizer
) -> None:
    batches = make_batches(store, tokenizer, max_length=64)
    n = batches.num_examples
    first, second = (batches.examples(np.arange(e * n, (e + 1) * n)) for e in (0, 1))
    heads = [
        sorted(row[: row.index(tokenizer.sep_id)] for row in sequences(batch))
        for batch in (first, second)
    ]
    assert heads[0] == heads[1]
    assert not torch.equal(first.masked_labels, second.masked_labels)


def test_what_is_cut_is_counted(store: TokenStore, tokenizer: Tokenizer) -> None:
    whole, cut = (
        make_batches(store, tokenizer, max_length=length, batch_size=64).batch(0)
        for length in (64, 12)
    )
    assert (whole.num_cut_pairs, whole.num_cut_tokens) == (0, 0)
    assert cut.num_cut_tokens == whole.num_tokens - cut.num_tokens > 0
    assert cut.num_cut_pairs == sum(length > 12 for length in whole.lengths)


@pytest.mark.parametrize("most_tokens", [1, 50, 200, 10_000])
def test_micro_batches_are_the_batch(
    most_tokens: int, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    parts = batch.split(most_tokens)
    assert [row for part in parts for row in sequences(part)] == sequences(batch)
    assert sum(part.num_masked for part in parts) == batch.num_masked
    assert torch.equal(torch.cat([part.sequence_labels for part in parts]), batch.sequence_labels)
    assert all(part.num_tokens <= most_tokens or part.num_sequences == 1 for part in parts)
    assert sum((part.starts for part in parts), ()) == batch.starts
    assert batch.starts == tuple(batch.cu_seqlens[:-1].tolist())


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_the_parts_of_ranks_are_the_batch(
    num_ranks: int, store: TokenStore, tokenizer: Tokenizer
) -> None:
    whole = make_batches(store, tokenizer, batch_size=20)
    parts = [
        make_batches(store, tokenizer, batch_size=20, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    for step in (0, 5):
        batch, shares = whole.batch(step), [part.batch(step) for part in parts]
        found = [
            (start, row)
            for share in shares
            for start, row in zip(share.starts, sequences(share), strict=True)
        ]
        assert [row for _, row in sorted(found, key=lambda pair: pair[0])] == sequences(batch)
        totals = [sum(numbers) for numbers in zip(*(s.sizes for s in shares), strict=True)]
        assert totals == list(batch.sizes)
        assert all(share.num_sequences for share in shares)


@given(
    lengths=st.lists(st.integers(5, 512), min_size=256, max_size=300),
    num_ranks=st.integers(1, 8),
)
def test_ranks_get_equally_many_tokens(lengths: list[int], num_ranks: int) -> None:
    lengths = sorted(lengths, reverse=True)
    tokens = np.bincount(deal(lengths, num_ranks), lengths, num_ranks)
    assert tokens.max() <= 1.03 * tokens.mean()
    assert tokens.min() >= 0.97 * tokens.mean()


def in_shards(documents: list[Document], tokenizer: Tokenizer, size: int) -> TokenStore:
    """A store with so many documents a shard."""
    shards = [
        build_store(documents[first : first + size], tokenizer)[0].shard(0)
        for first in range(0, len(documents), size)
    ]
    return TokenStore([shard.size for shard in shards], lambda number: shards[number])


KINDS: list[dict[str, object]] = [
    {"pairing": "adjacent"},
    {"pairing": "filled"},
    {"objective": "mlm"},
    {"objective": "mlm", "masking": "whole-word"},
    {"pairing": "filled", "masking": "span"},
]


@settings(max_examples=10, deadline=None)
@given(documents=DOCUMENTS, size=st.integers(1, 3), max_length=st.integers(8, 40))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_shards_change_nothing(
    kind: dict[str, object], documents: list[Document], size: int, max_length: int
) -> None:
    tokenizer = letters()
    whole, _ = build_store(documents, tokenizer)
    parted = in_shards(documents, tokenizer, size)
    assert (whole.num_tokens, whole.num_documents) == (parted.num_tokens, parted.num_documents)
    if not make_batches(whole, tokenizer, max_length=max_length, **kind).num_examples:
        return
    left, right = (
        make_batches(store, tokenizer, max_length=max_length, **kind).batch(2)
        for store in (whole, parted)
    )
    for name, value in vars(left).items():
        other = getattr(right, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, max_length=st.integers(8, 20))
def test_segments_hold_every_token_once(documents: list[Document], max_length: int) -> None:
    tokenizer = letters()
    store, _ = build_store(documents, tokenizer)
    batches = make_batches(store, tokenizer, objective="mlm", max_length=max_length)
    batch = batches.examples(np.arange(batches.num_examples))
    assert max(batch.lengths) <= max_length
    assert batch.num_pairs == batch.num_cut_tokens == 0
    assert not batch.token_type_ids.any()
    kept = sorted(i for row in sequences(batch) for i in row[1:-1])
    assert kept == sorted(only(store).ids.tolist())
    lengths = np.diff(only(store).sentence_offsets[only(store).document_starts()])
    assert batches.num_examples == sum(-(-n // (max_length - 2)) for n in lengths.tolist())


def test_segments_of_8192_tokens() -> None:
    tokenizer = letters_of_words()
    long = [[sentence] for sentence in sentences_of(make_documents(1110))]
    store, _ = build_store([long, *make_documents(3)], tokenizer)
    batches = make_batches(store, tokenizer, objective="mlm", max_length=8192, batch_size=8)
    lengths = [length for step in range(3) for length in batches.batch(step).lengths]
    assert 6000 < max(lengths) <= 8192
    assert batches.counts["documents_over_max_length"] == 1


def test_examples_of_a_large_store_are_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_shards(make_documents(50), letters_of_words(), 7)
    for kind in ("adjacent", "filled", "segments"):
        inside = lay_out(store, kind, 24)
        with monkeypatch.context() as patch:
            patch.setattr("bertsmith.data.examples._MOST_IN_MEMORY", 0)
            made, found = lay_out(store, kind, 24), lay_out(store, kind, 24)
        assert isinstance(found.rows.base, np.memmap)
        for examples in (made, found):
            assert np.array_equal(examples.rows, inside.rows)
            assert examples.counts == inside.counts


def test_many_documents_and_few_are_laid_out_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = build_store(make_documents(100), letters_of_words())
    rows = []
    for few in (0, 7, 10**6):
        monkeypatch.setattr("bertsmith.data.examples._FEW_DOCUMENTS", few)
        rows.append(lay_out(store, "filled", 24).rows)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


WORDS = st.lists(st.lists(st.integers(1, 12), max_size=12), min_size=1, max_size=8)
"""Tokens of each word of each sequence."""


def lay_words(words: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each token can be masked, whether it goes on with a word, and its sequence."""
    maskable, continues, sequence = [], [], []
    for number, lengths in enumerate(words):
        for length in [0, *lengths, 0]:  # a special token at both ends
            maskable += [length > 0] * max(length, 1)
            continues += [False, *[True] * (length - 1)]
            sequence += [number] * max(length, 1)
    return np.array(maskable), np.array(continues), np.array(sequence)


@settings(max_examples=60, deadline=None)
@given(words=WORDS, probability=st.floats(0.05, 0.6), seed=st.integers(0, 99))
def test_whole_words_are_masked_as_far_as_they_fit(
    words: list[list[int]], probability: float, seed: int
) -> None:
    maskable, continues, sequence = lay_words(words)
    firsts = words_of(maskable, continues)
    bits = random_bits(seed, Stream.MASK_POSITION, np.arange(len(sequence)))
    found = choose_words(maskable, firsts, sequence, bits, probability)
    assert (np.diff(found) > 0).all()
    assert maskable[found].all()
    for number in range(len(words)):
        own = [int(f) for f in firsts if sequence[f] == number]
        ends = [*own[1:], int(np.flatnonzero(sequence == number)[-1])][: len(own)]
        total = sum(words[number])
        room = min(total, max(1, round(probability * total)))
        # One word after the other in the order of their bits, each if it fits.
        expected: set[int] = set()
        order = sorted(zip(own, ends, strict=True), key=lambda w: int(bits[w[0]] >> np.uint64(24)))
        for first, end in order:
            if end - first <= room:
                expected |= set(range(first, end))
                room -= end - first
        if order and not expected:
            expected = set(range(*order[0]))
        assert set(found[sequence[found] == number].tolist()) == expected


@settings(max_examples=60, deadline=None)
@given(words=WORDS, probability=st.floats(0.05, 0.6), seed=st.integers(0, 99))
def test_spans_are_runs_of_whole_words(
    words: list[list[int]], probability: float, seed: int
) -> None:
    maskable, continues, sequence = lay_words(words)
    firsts = words_of(maskable, continues)
    bits = random_bits(seed, Stream.MASK_POSITION, np.arange(len(words)))
    found, run = choose_spans(maskable, firsts, sequence, bits, probability)
    assert (np.diff(found) > 0).all()
    chosen = np.zeros(len(sequence), dtype=bool)
    chosen[found] = True
    assert maskable[found].all()
    starts = np.searchsorted(firsts, found, side="right") - 1
    for word in np.unique(starts):  # whole words, all of one run
        end = firsts[word + 1] if word + 1 < len(firsts) else len(sequence)
        tokens = np.arange(firsts[word], end)
        tokens = tokens[(sequence[tokens] == sequence[firsts[word]]) & maskable[tokens]]
        assert chosen[tokens].all()
        assert len(set(run[np.isin(found, tokens)].tolist())) == 1
    for number, lengths in enumerate(words):
        total = sum(lengths)
        wanted = min(total, max(1, round(probability * total)))
        count = int(chosen[sequence == number].sum())
        assert count <= max(wanted, 8)
        assert count > 0 or not total


def test_spans_meet_the_share_and_are_as_long_as_spanberts() -> None:
    sequence = np.repeat(np.arange(64), 514)
    maskable = np.tile(np.r_[False, np.ones(512, dtype=bool), False], 64)
    firsts = words_of(maskable, np.zeros(len(sequence), dtype=bool))
    bits = random_bits(1, Stream.MASK_POSITION, np.arange(64))
    found, run = choose_spans(maskable, firsts, sequence, bits, 0.15)
    assert len(found) == 64 * 77
    lengths = np.unique(run, return_counts=True)[1]
    assert lengths.max() <= 10
    assert 3.3 < lengths.mean() < 3.9  # 3.8, less what the end of the share and of the text cut


def test_a_run_of_words_fares_alike(store: TokenStore, tokenizer: Tokenizer) -> None:
    batch = make_batches(store, tokenizer, masking="span", batch_size=200).batch(0)
    seen = batch.input_ids[batch.masked_positions]
    is_mask = (seen == tokenizer.mask_id).numpy()
    assert 0.7 < is_mask.mean() < 0.9
    neighbours = np.diff(batch.masked_positions.numpy()) == 1
    assert (is_mask[1:] == is_mask[:-1])[neighbours].mean() > 0.9
    special = set(tokenizer.special_ids.tolist()) - {tokenizer.mask_id}
    assert not special & set(seen.tolist())


def test_where_nothing_parts_words_a_word_has_eight_tokens() -> None:
    maskable = np.r_[False, np.ones(20, dtype=bool), False]
    firsts = words_of(maskable, np.ones(22, dtype=bool))
    assert firsts.tolist() == [1, 9, 17]
