"""The loss of sentence vectors, and that its gradient is the same whatever fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig
from bertsmith.data.store import TokenStore
from bertsmith.objectives.contrast import Contrast, ScoredContrast
from bertsmith.ranks import ALONE
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.gradient_cache import cached_forward_and_backward
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import unmeasured
from tests.support.stores import make_batches

CPU = torch.device("cpu")
ROWS = 5


def unit(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def labels_of(texts: Sequence[Sequence[int]], order: Tensor) -> Tensor:
    """Labels of texts whose equal ones have equal numbers."""
    numbers = torch.tensor(texts).flatten()
    return torch.stack([torch.arange(len(numbers)), numbers], dim=1)[order]


@pytest.mark.parametrize("num_texts", [2, 3])
@pytest.mark.parametrize("sizes", [(), (4, 8)])
def test_each_query_is_told_its_document_among_all(num_texts: int, sizes: tuple[int, ...]) -> None:
    vectors = unit(num_texts * ROWS, 8)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))
    texts = [list(range(n * 10, n * 10 + ROWS)) for n in range(num_texts)]
    objective = Contrast(num_texts=num_texts, temperature=0.2, sizes=sizes)
    (found,) = objective.losses_of(vectors[order], labels_of(texts, order))
    expected = 0.0
    for size in sizes or (8,):
        queries, documents = (
            F.normalize(part[:, :size], dim=1) for part in (vectors[:ROWS], vectors[ROWS:])
        )
        for row in range(ROWS):
            cosines = documents @ queries[row] / 0.2
            expected += float(cosines.logsumexp(0) - cosines[row]) / 2
            cosines = queries @ documents[row] / 0.2
            expected += float(cosines.logsumexp(0) - cosines[row]) / 2
    assert float(found) == pytest.approx(expected / len(sizes or (8,)), rel=1e-12)


def test_what_is_the_same_text_is_no_negative() -> None:
    vectors = unit(2 * ROWS, 8)
    everything = torch.arange(2 * ROWS)
    # Rows 0 and 1 have one document, rows 2 and 3 one query; the document of row 0 and 1 is the
    # query of row 4.
    texts = [[0, 1, 2, 2, 10], [10, 10, 12, 13, 14]]
    (found,) = Contrast(temperature=0.2).losses_of(vectors, labels_of(texts, everything))
    cosines = F.normalize(vectors[:ROWS], dim=1) @ F.normalize(vectors[ROWS:], dim=1).T / 0.2
    for one, other in ((0, 1), (2, 3)):
        cosines[one, other] = cosines[other, one] = -torch.inf
    cosines[4, 0] = cosines[4, 1] = -torch.inf
    expected = sum(
        float(one.logsumexp(1).sum() - cosines.trace()) / 2 for one in (cosines, cosines.T)
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_scores_are_learnt_as_an_order() -> None:
    vectors, scores = unit(2 * ROWS, 8), [0.0, 2.5, 2.5, 5.0, 1.0]
    labels = torch.stack([torch.arange(2.0 * ROWS), torch.tensor(scores * 2)], dim=1)
    (found,) = ScoredContrast(temperature=0.2).losses_of(vectors, labels)
    cosines = F.cosine_similarity(vectors[:ROWS], vectors[ROWS:]) / 0.2
    pairs = [(i, j) for i in range(ROWS) for j in range(ROWS) if scores[i] < scores[j]]
    total = 1 + sum(float((cosines[i] - cosines[j]).exp()) for i, j in pairs)
    assert float(found) == pytest.approx(ROWS * float(torch.tensor(total).log()), rel=1e-6)
    best = vectors.clone()
    best[ROWS:] = best[:ROWS] * torch.tensor(scores)[:, None].sub(2.5).sign()
    assert float(ScoredContrast(temperature=0.2).losses_of(best, labels)[0]) < float(found)


@pytest.fixture
def batch(store: TokenStore, tokenizer: Tokenizer) -> Batch:
    """Queries and documents in the order of their lengths."""
    found = make_batches(store, tokenizer, batch_size=16).batch(0)
    places = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    labels = torch.stack([places, places // 3], dim=1)
    nothing = found.masked_positions[:0]
    return replace(
        found,
        sequence_labels=labels,
        masked_positions=nothing,
        masked_labels=nothing,
        num_masked_each=(0,) * 16,
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_are_those_of_the_whole_batch(
    pooling: Any, dropout: float, batch: Batch, tiny_config: BertConfig, tokenizer: Tokenizer
) -> None:
    model = Bert(tiny_config.with_dropout(dropout), tokenizer.vocab_size, frozenset()).double()
    model.initialize(0)
    objective = Contrast(pooling=pooling)
    (loss,) = objective.losses(model, batch, 7)
    (loss / 8).backward()
    loss = loss.detach()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    calls: list[None] = []
    for most in (20, 60, 10_000):
        calls.clear()
        model.zero_grad()
        parts = batch.split(most)
        sums = cached_forward_and_backward(
            Parallel(model, objective, ALONE, "ddp", CPU),
            objective,
            parts,
            num_rounds=len(parts),
            sizes=batch.sizes,
            first_sequence=0,
            dropout_key=7,
            device=CPU,
            autocast=nullcontext,
            phase=unmeasured,
            before_micro_batch=lambda: calls.append(None),
        )
        assert float(sums) == pytest.approx(float(loss), rel=1e-12)
        assert len(calls) == (1 if len(parts) == 1 else 2 * len(parts))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter.grad, expected[name], rtol=1e-9, atol=1e-12, msg=name
            )
