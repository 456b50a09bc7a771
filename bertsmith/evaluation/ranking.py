"""How well documents are ranked for queries, where it is known which are relevant.

Legend: Q = queries; D = documents; K = documents that are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertsmith.random_bits import Int64

DEPTH = 100
"""K: documents of a query that figures look at."""

_SCORES_AT_ONCE = 2**24

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Figures of rankings: the mean over all queries."""

    ndcg_at_10: float
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002) of the first ten, with
    the judgement itself as gain, as trec_eval's ndcg_cut."""
    mrr_at_10: float
    """One over the rank of the first relevant document, 0 if it is beyond the tenth."""
    recall_at_100: float
    """Share of the relevant documents that are among the first hundred."""


def nearest(queries: Float32, documents: Float32, depth: int = DEPTH) -> tuple[Int64, Float32]:
    """The documents with the largest products, exactly.

    Args:
        queries: [Q, H].
        documents: [D, H].
        depth: K, at most D are given.

    Returns:
        Numbers of documents, int64 [Q, K], best first, and their scores, float32 [Q, K]. Of equal
        ones the first document comes first.
    """
    depth = min(depth, len(documents))
    numbers = np.empty((len(queries), depth), dtype=np.int64)
    scores = np.empty((len(queries), depth), dtype=np.float32)
    rows = max(1, _SCORES_AT_ONCE // max(len(documents), 1))
    for first in range(0, len(queries), rows):
        found = queries[first : first + rows] @ documents.T
        numbers[first : first + rows], scores[first : first + rows] = best(found, depth)
    return numbers, scores


def best(scores: Float32, depth: int) -> tuple[Int64, Float32]:
    """The places of the largest scores of each row, [Q, K], best first, and these."""
    edge = np.partition(scores, -depth, axis=1)[:, -depth]  # the K-th largest
    numbers = np.empty((len(scores), depth), dtype=np.int64)
    for row, least in enumerate(edge):
        some = np.flatnonzero(scores[row] >= least)
        numbers[row] = some[np.argsort(-scores[row, some], kind="stable")][:depth]
    return numbers, np.take_along_axis(scores, numbers, axis=1)


def judge(
    ranked: Iterable[Sequence[int] | Int64], relevant: Sequence[Mapping[int, float]]
) -> Ranking:
    """Figures of some rankings.

    Args:
        ranked: of each query numbers of documents, best first.
        relevant: of each query the judgements over 0, by number of document; one at least.
    """
    ndcg, mrr, recall = [], [], []
    discounts = 1 / np.log2(np.arange(2, 12))
    for found, gains in zip(ranked, relevant, strict=True):
        gained = np.array([gains.get(int(number), 0.0) for number in found[:DEPTH]])
        ideal = np.sort(np.array(list(gains.values())))[::-1][:10]
        first_ten = gained[:10]
        ndcg.append(
            float(first_ten @ discounts[: len(first_ten)] / (ideal @ discounts[: len(ideal)]))
        )
        hits = np.flatnonzero(first_ten)
        mrr.append(1 / (1 + int(hits[0])) if len(hits) else 0.0)
        recall.append(np.count_nonzero(gained) / len(gains))
    return Ranking(
        ndcg_at_10=float(np.mean(ndcg)),
        mrr_at_10=float(np.mean(mrr)),
        recall_at_100=float(np.mean(recall)),
    )
