"""First word embeddings, from which tokens stand near each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertsmith import pretrain
from bertsmith.config import PRESETS, resolve
from bertsmith.data.store import Shard, TokenStore
from bertsmith.display import Display
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import find_model
from bertsmith.training import cooccurrence
from bertsmith.training.cooccurrence import (
    Counts,
    cooccurrences,
    ppmi,
    truncated_svd,
    word_embeddings,
)
from bertsmith.training.prepare import prepare
from bertsmith.training.run import Run
from tests.support.runs import STILL, TINY_RUN

VOCABULARY = 12
WEIGHTS = {1: 2, 2: 1}  # by distance

Paragraphs = list[list[list[int]]]
"""Sentences of ids."""

TEXTS = st.lists(
    st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5), min_size=1),
    min_size=1,
    max_size=8,
)


def shard_of(paragraphs: Paragraphs) -> Shard:
    """One document."""
    sentences = [sentence for paragraph in paragraphs for sentence in paragraph]

    def offsets(sizes: list[int]) -> Any:
        return np.cumsum([0, *sizes]).astype(np.int32)

    return Shard(
        ids=np.array([number for sentence in sentences for number in sentence], dtype=np.uint16),
        sentence_offsets=offsets([len(sentence) for sentence in sentences]),
        paragraph_offsets=offsets([len(paragraph) for paragraph in paragraphs]),
        document_offsets=offsets([len(paragraphs)]),
    )


def store_of(*shards: Paragraphs) -> TokenStore:
    made = [shard_of(paragraphs) for paragraphs in shards]
    return TokenStore([shard.size for shard in made], made.__getitem__)


def counted(*shards: Paragraphs) -> Tensor:
    """Token by token, as the definition has it."""
    total = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    for paragraphs in shards:
        for paragraph in paragraphs:
            ids = [number for sentence in paragraph for number in sentence]
            for left, one in enumerate(ids):
                for distance, weight in WEIGHTS.items():
                    for other in ids[left + distance : left + distance + 1]:
                        total[one, other] += weight
                        total[other, one] += weight
    return total


def dense_of(counts: Counts) -> Tensor:
    assert (np.diff(counts.keys) > 0).all()
    total = torch.zeros(VOCABULARY**2, dtype=torch.float64)
    total[torch.from_numpy(counts.keys)] = torch.from_numpy(counts.numbers).double()
    return total.view(VOCABULARY, VOCABULARY)


@given(TEXTS, TEXTS, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_definition(
    first: Paragraphs, second: Paragraphs, pairs_at_once: int
) -> None:
    """Across sentences, not across paragraphs or shards, however many are counted at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "_PAIRS_AT_ONCE", pairs_at_once)
        found = cooccurrences(store_of(first, second), VOCABULARY)
    assert torch.equal(dense_of(found), counted(first, second))


def test_of_a_larger_text_the_first_part_of_each_shard_is_counted() -> None:
    first, second = [[[1, 2, 3, 4, 5, 6, 7, 8]]], [[[8, 7], [6, 5]]]
    told: list[tuple[int, int]] = []
    found = cooccurrences(
        store_of(first, second),
        VOCABULARY,
        most_tokens=6,
        progress=lambda done, total: told.append((done, total)),
    )
    assert torch.equal(dense_of(found), counted([[[1, 2, 3, 4]]], [[[8, 7]]]))
    assert told == [(4, 6), (6, 6)]


def test_mutual_information_is_that_of_the_definition() -> None:
    counts = cooccurrences(store_of([[[1, 2, 1, 3, 2, 4, 4, 1, 5]]]), VOCABULARY)
    dense = dense_of(counts)
    frequency = dense.sum(1)
    smoothed = frequency**0.75
    found = ppmi(counts, VOCABULARY).to_dense()
    for token in range(VOCABULARY):
        for context in range(VOCABULARY):
            wanted = 0.0
            if dense[token, context]:
                share = float(dense[token, context] / dense.sum())
                by_chance = float(frequency[token] / dense.sum() * smoothed[context])
                wanted = max(0.0, math.log(share / (by_chance / float(smoothed.sum()))))
            assert found[token, context] == pytest.approx(wanted, abs=1e-6)


def sparse(matrix: Tensor) -> Tensor:
    return matrix.to_sparse_coo().coalesce()


def test_vectors_are_those_of_the_dense_decomposition() -> None:
    """U √S: its inner products are the root of M Mᵀ, to the rank that is asked for."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(60, 60, generator=generator).relu()
    left, singular, _ = torch.linalg.svd(matrix)
    found = truncated_svd(sparse(matrix), 60, seed=0)
    torch.testing.assert_close(found @ found.T, left * singular @ left.T, rtol=0, atol=1e-4)
    low_rank = (left[:, :5] * singular[:5]) @ left[:, :5].T
    found = truncated_svd(sparse(low_rank), 5, seed=1)
    wanted = (left[:, :5] * singular[:5]) @ left[:, :5].T
    torch.testing.assert_close(found @ found.T, wanted, rtol=0, atol=1e-4)


def test_a_vocabulary_smaller_than_the_network_is_wide_will_do() -> None:
    matrix = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    found = truncated_svd(sparse(matrix), 16, seed=0)
    assert found.shape == (6, 16)
    assert not found[:, 6:].any()
    vectors = word_embeddings(store_of([[[1, 2, 3, 1, 2]]]), (6, 16), deviation=0.02, seed=0)
    assert torch.isfinite(vectors).all()


def test_words_of_the_same_places_begin_alike() -> None:
    """1 and 2 stand between 3 and 4; 5 and 6 between 7 and 8."""
    generator = torch.Generator().manual_seed(0)
    text = []
    for one, two in torch.randint(2, (400, 2), generator=generator).tolist():
        text += [[[3, 1 + one, 4]], [[7, 5 + two, 8]]]
    vectors = word_embeddings(store_of(text), (VOCABULARY, 8), deviation=0.02, seed=0)
    unit = torch.nn.functional.normalize(vectors)
    assert unit[1] @ unit[2] > 0.9
    assert unit[5] @ unit[6] > 0.9
    assert abs(float(unit[1] @ unit[5])) < 0.1


def test_what_has_no_neighbours_is_drawn_and_the_rest_is_four_times_as_long() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (4000,), generator=generator).tolist()
    vectors = word_embeddings(store_of([[ids]]), (200, 32), deviation=0.02, seed=0)
    assert vectors.dtype == torch.float32
    assert float(vectors[5:].square().mean().sqrt()) == pytest.approx(0.08, rel=1e-5)
    assert float(vectors[:5].std()) == pytest.approx(0.02, rel=0.2)
    assert not torch.equal(vectors[0], vectors[1])
    # Turned: no dimension is much larger than another, as those of a decomposition are.
    by_dimension = vectors[5:].square().mean(0)
    assert float(by_dimension.max() / by_dimension.min()) < 4


def test_what_is_drawn_follows_from_the_seed_alone() -> None:
    store = store_of([[[1, 2, 3, 4, 5, 3, 2, 1, 4]]])

    def made(seed: int) -> Tensor:
        return word_embeddings(store, (VOCABULARY, 8), deviation=0.02, seed=seed)

    torch.manual_seed(1)
    first, state = made(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, made(0))
    assert not torch.equal(first, made(1))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # nobody else's numbers are drawn


@pytest.mark.parametrize("text", [[[[1]], [[2]]], [[[1, 1]]], []])
def test_a_text_without_two_tokens_that_go_together_leaves_all_drawn(text: Paragraphs) -> None:
    vectors = word_embeddings(store_of(text), (VOCABULARY, 8), deviation=0.02, seed=0)
    assert torch.isfinite(vectors).all()
    assert (vectors != 0).all()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("wish", ["cooccurrence", "normal"])
def test_a_run_begins_as_its_settings_say(
    wish: Literal["cooccurrence", "normal"], architecture: str, text_file: Path, tmp_path: Path
) -> None:
    own: dict[str, Any] = {"preset": "modern-tiny"} if architecture == "modernbert" else {}
    run = pretrain(text_file, output=tmp_path, embedding_init=wish, **own, **STILL, **TINY_RUN)
    saved = load_model(find_model(run.output))
    model, vectors = saved.model, saved.model.word_embedding.detach().clone()
    if wish == "normal":
        model.initialize(0, looks_near=own == {})
        wanted = model.word_embedding.detach()
    else:
        config = resolve(file=run.output / "config.toml")
        text = prepare(
            config.preparation, config.data, config.training, display=Display(quiet=True)
        )
        wanted = word_embeddings(text.batches.store, vectors.shape, deviation=0.02, seed=0)
    torch.testing.assert_close(vectors, wanted, rtol=0, atol=1e-6)


def test_a_run_that_goes_on_from_a_model_keeps_its_vectors(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    run = pretrain(text_file, output=tmp_path, init_from=str(finished_run.output), **STILL)
    assert resolve(file=run.output / "config.toml").training.embedding_init == "normal"
    before, after = (
        load_model(find_model(one.output)).model.word_embedding.detach()
        for one in (finished_run, run)
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_small_presets_begin_with_counts_and_the_others_and_the_chapter_do_not() -> None:
    small = {"textbook", "tiny", "mini", "small", "modern-tiny", "modern-mini"}
    found = {
        preset
        for preset in PRESETS
        if resolve(preset=preset).training.embedding_init == "cooccurrence"
    }
    assert small <= found
    assert not found & {"medium", "base", "large", "modern-base", "modern-large", "ettin-68m"}
    assert resolve(recipe="chapter").training.embedding_init == "normal"
