"""Sentence vectors: texts that belong together are brought near, by contrast with the others.

Legend: P = rows of a batch; N = texts of a row; B = N · P sequences; H = hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.objectives.base import Scores, Term, VectorObjective
from bertsmith.objectives.rows import sequence_vectors

Pooling = Literal["mean", "cls"]


class _Texts(NamedTuple):
    """The texts of a batch in order."""

    vectors: Tensor
    """[N, P, H]; of the first text of each row, of the second, …"""
    labels: Tensor
    """[N, P]; the last column of the labels."""


class _OfRows(VectorObjective):
    """Rows of `num_texts` texts; a loss for each size that vectors may be cut to.

    Args:
        num_texts: N.
        pooling: the mean over the tokens of a text, [CLS] and [SEP] counted (as
            sentence-transformers takes it), or the vector of [CLS].
        temperature: that cosines are divided by.
        sizes: Matryoshka sizes (Kusupati et al. 2022): the loss is the mean of those of the first
            so many numbers of each vector. Empty: of all of them alone.
    """

    heads = frozenset()

    def __init__(
        self,
        *,
        num_texts: int = 2,
        pooling: Pooling = "mean",
        temperature: float = 0.05,
        sizes: Sequence[int] = (),
    ) -> None:
        self.num_texts, self.pooling = num_texts, pooling
        self.temperature, self.sizes = temperature, tuple(sizes)
        self.terms = (
            Term(
                name=self.name,
                title="Contrast",
                count=lambda sizes: sizes.num_sequences // num_texts,
            ),
        )

    def vectors(self, model: Encoder, batch: Batch, dropout_key: int | None = None) -> Tensor:
        found = sequence_vectors(model, batch, dropout_key, of_all=self.pooling == "mean")
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def losses_of(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        texts = self._in_order(vectors, labels)
        losses = [
            self._loss(F.normalize(texts.vectors[..., :size], dim=2), texts.labels)
            for size in self.sizes or vectors.shape[1:]
        ]
        return (torch.stack(losses).mean(),)

    @torch.no_grad()
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        (loss,) = self.losses(model, batch)
        num_rows = batch.num_sequences // self.num_texts
        return {self.name: Scores((loss / num_rows).expand(num_rows))}

    def _in_order(self, vectors: Tensor, labels: Tensor) -> _Texts:
        order = labels[:, 0].argsort()
        shape = self.num_texts, len(vectors) // self.num_texts
        return _Texts(vectors[order].view(*shape, -1), labels[order, 1].view(shape))

    @abstractmethod
    def _loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """The sum over rows: float [].

        Args:
            vectors: [N, P, H] of length 1.
            labels: [N, P].
        """


class Contrast(_OfRows):
    """Which of all documents of the batch is a query's own, and the other way round.

    Cross entropy over cosines divided by the temperature (InfoNCE; van den Oord et al. 2018), with
    in-batch negatives (Henderson et al. 2017, 4.4), the mean of both directions. A row is a query,
    its document and maybe documents that are wrong for it, which all other queries are held against
    too. A document with the text of a query's own, or of the query itself, or whose own query has
    the same text, is not counted among its negatives.

    Its batches have labels int64 [B, 2]: which text of which row a sequence is (text · P + row),
    and a number that equal texts share.
    """

    name = "contrast"

    def _loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        queries, documents = vectors[0], vectors[1:].flatten(0, 1)
        of_query, of_document = labels[0], labels[1:].flatten()
        cosines = queries @ documents.T / self.temperature
        num_rows = len(queries)
        row = torch.arange(num_rows, device=cosines.device)
        is_same = of_document[:num_rows, None] == of_document[None, :]
        is_same[:, :num_rows] |= of_query[:, None] == of_query[None, :]
        is_same |= of_query[:, None] == of_document[None, :]  # a text is no answer to itself
        is_same[row, row] = False
        cosines = cosines.masked_fill(is_same, -torch.inf)
        to_document = F.cross_entropy(cosines, row, reduction="sum")
        to_query = F.cross_entropy(cosines[:, :num_rows].T, row, reduction="sum")
        return (to_document + to_query) / 2


class ScoredContrast(_OfRows):
    """Pairs of texts in the order of their scores (CoSENT): of two pairs, the one with the higher
    score shall have the higher cosine.

    P · log(1 + Σ exp((cosine of i − cosine of j) / temperature)) over all i, j with a lower score
    of i. Its batches have labels float32 [B, 2]: as `Contrast`'s, and the score.
    """

    name = "scored"

    def _loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        cosines = (vectors[0] * vectors[1]).sum(dim=1) / self.temperature
        is_lower = labels[0][:, None] < labels[0][None, :]
        differences = (cosines[:, None] - cosines[None, :]).masked_fill(~is_lower, -torch.inf)
        return len(cosines) * F.pad(differences.flatten(), (0, 1)).logsumexp(dim=0)
