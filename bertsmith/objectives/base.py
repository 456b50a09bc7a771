"""What a pretraining objective is: named terms of a loss, from the network's output on a batch.

Legend: T = tokens of a batch; N = what a term scores in it (masked tokens, pairs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch, Sizes


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the loss: a sum over what it scores, divided by how much that is."""

    name: str
    """`mlm`: metrics.jsonl then has `mlm_loss`, and an evaluation `validation_mlm_loss`."""
    title: str
    """Over its curve: "Masked language modelling"."""
    count: Callable[[Sizes], int]
    """N of a global batch: what its mean is over."""
    predicts_masked_tokens: bool = False
    """Whether it scores the batch's masked tokens, in their order. Evaluations then have its
    perplexity, its floor by word frequencies, and figures by length and by frequency."""
    chance_loss: float | None = None
    """What guessing gives, in nats; drawn as the floor of its curve."""


class Scores(NamedTuple):
    """How what a term scores fares, without dropout."""

    losses: Tensor
    """float32 [N]; in nats."""
    correct: Tensor | None = None
    """bool [N]; whether the first guess is right; None: it has no guesses."""
    labels: Tensor | None = None
    """int64 [N], 0 or 1; for the accuracy of the more frequent answer; None: it has not two."""


class Objective(ABC):
    """A loss and what is scored in evaluations. It has no state: weights are the network's.

    Attributes:
        name: in settings: `--objective`.
        terms: of the loss, in the order of `losses`.
        heads: that the network must have: keys of its architecture's `heads`.
    """

    name: ClassVar[str]
    terms: tuple[Term, ...]
    heads: ClassVar[frozenset[str]]

    @abstractmethod
    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        """The sum of each term over a batch, with gradients: float32 [] each, in nats.

        The losses of a batch are the sums of those of its micro-batches, on whatever ranks; a loss
        that compares the sequences of a batch is a `VectorObjective`.

        Args:
            model: the network; call its methods, not itself (`Encoder.call` says why).
            batch: a batch or a micro-batch, on the model's device.
            dropout_key: random bits of the step, for the dropout; None: no dropout.
        """

    @abstractmethod
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        """How what each term scores fares, by the term's name, without dropout or gradients.

        Evaluations score a batch part by part, and add up.
        """

    def of_part(self, model: Encoder, batch: Batch, dropout_key: int) -> tuple[Tensor, ...]:
        """What a step asks of a micro-batch: its losses."""
        return self.losses(model, batch, dropout_key)

    def denominators(self, sizes: Sizes) -> list[int]:
        """What the sums of the terms are divided by: the counts of the global batch."""
        return [max(term.count(sizes), 1) for term in self.terms]

    def loss(self, sums: Sequence[Any], sizes: Sizes) -> Any:
        """The loss of a step: the sum of the terms' true means (invariant 3).

        Args:
            sums: of the terms, over a part of the global batch; tensors [], or numbers.
            sizes: of the global batch.
        """
        means = [total / count for total, count in zip(sums, self.denominators(sizes), strict=True)]
        return sum(means[1:], start=means[0])


class VectorObjective(Objective):
    """A loss of a vector of each sequence, which compares those of the whole global batch.

    However large that is, a micro-batch is in memory at once (`training/gradient_cache.py`), and
    ranks compare the sequences of all of them.
    """

    @abstractmethod
    def vectors(self, model: Encoder, batch: Batch, dropout_key: int | None = None) -> Tensor:
        """One of each sequence, in at least float32: [B, H].

        Args:
            model, batch, dropout_key: as of `losses`.
        """

    @abstractmethod
    def losses_of(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """The sum of each term over a global batch: float32 [] each.

        Args:
            vectors: [B, H], of all its sequences, in no order that is known.
            labels: [B, …], the sequences' labels in the same order.
        """

    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        return self.losses_of(self.vectors(model, batch, dropout_key), batch.sequence_labels)

    def of_part(self, model: Encoder, batch: Batch, dropout_key: int) -> tuple[Tensor, ...]:
        """What a step asks of a micro-batch: its vectors."""
        return (self.vectors(model, batch, dropout_key),)


def terms_in(figures: Iterable[str]) -> list[str]:
    """Names of the terms whose losses are in a line of metrics or in an evaluation: `mlm`, `nsp`.

    Args:
        figures: names of figures; of `mlm_loss` comes `mlm`.
    """
    beside = ("validation_", "unigram_")
    losses = (name for name in figures if name.endswith("_loss") and not name.startswith(beside))
    return [name.removesuffix("_loss") for name in losses]
