"""Losses and gradients of a step are one process's, however many ranks share it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig, DataConfig, TrainingConfig
from bertsmith.data.batches import Batches
from bertsmith.data.pairs import make_drawing
from bertsmith.data.store import build_store
from bertsmith.hardware.device import autocast
from bertsmith.nn.shards import whole
from bertsmith.objectives import Objective
from bertsmith.objectives.contrast import Contrast
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.objectives.rows import RowObjective
from bertsmith.ranks import ALONE, Ranks, joined
from bertsmith.tokenizer import train
from bertsmith.training.compiled import CompiledEngine
from bertsmith.training.fixed import FixedShape, in_fixed_shape
from bertsmith.training.optimizer import Optimizers, make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import StepResult, train_step
from tests.ranks.job import run
from tests.support.kernels import flash_on_cpu
from tests.support.objective import OBJECTIVE, Losses, losses_of
from tests.support.texts import SPACED, make_documents

CPU = torch.device("cpu")
SLOW = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """What is trained on, and how."""

    kind: str
    """ddp, fsdp, or fixed: micro-batches of one shape, as compiled steps have them."""
    batch_size: int = 16
    micro_batch: int = 10_000
    dropout: float = 0.0
    recompute: bool = False
    unmasked_rank: int | None = None
    """A rank whose sequences have no masked token."""
    precision: str = "float32"
    room: int | None = None
    """Tokens at once for which the second rank has memory."""
    contrasts: bool = False
    """Whether the loss compares all sequences of the batch."""

    @property
    def objective(self) -> Objective:
        return Contrast(temperature=0.5) if self.contrasts else OBJECTIVE


class Recorded(Optimizers):
    """Keeps the gradients in the place of an update."""

    gradients: dict[str, Tensor]

    def __init__(self, model: Bert) -> None:
        super().__init__(*make_optimizers(model, TrainingConfig()).parts)
        self._model = model

    def step(self, found_inf: Tensor) -> None:
        assert not found_inf
        self.gradients = {
            name: whole(parameter.grad.detach()).clone()
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }


def without_masks(batch: Batch) -> Batch:
    """The same, with nothing to predict."""
    return replace(
        batch,
        masked_positions=batch.masked_positions[:0],
        masked_labels=batch.masked_labels[:0],
        num_masked_each=(0,) * batch.num_sequences,
    )


def part_of(case: Case, ranks: Ranks) -> tuple[Batch, int]:
    """This rank's part of the first batch, and the size of the vocabulary."""
    documents = make_documents()
    tokenizer = train(documents, kind="word", spelling=SPACED, min_frequency=2, max_length=32)
    store = build_store(documents, tokenizer)[0]
    batches = Batches(
        store,
        make_drawing(store, DataConfig(max_length=32), seed=0),
        tokenizer,
        batch_size=case.batch_size,
        max_length=32,
        mlm_probability=0.15,
        seed=0,
        rank=ranks.rank,
        num_ranks=ranks.size,
    )
    found = batches.batch(0)
    return (as_texts(found, case) if case.contrasts else found), tokenizer.vocab_size


def as_texts(batch: Batch, case: Case) -> Batch:
    """The same as queries and documents, told by their places in the global batch."""
    places = sorted(part_of(replace(case, contrasts=False), ALONE)[0].starts)
    labels = [[places.index(start), start // 40] for start in batch.starts]
    return replace(without_masks(batch), sequence_labels=torch.tensor(labels))


def record(case: Case, batch: Batch, vocab_size: int, ranks: Ranks) -> dict[str, Tensor]:
    """Losses, the norm and all gradients of one step."""
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        max_position_embeddings=32,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=0.0 if case.kind == "fixed" else case.dropout,
    )
    model = Bert(config, vocab_size, case.objective.heads)
    model.initialize(1)
    model.recomputes = case.recompute
    if case.room and ranks.rank == 1:
        leave_room(case.room)
    optimizers, step = Recorded(model), step_in_fixed_shape if case.kind == "fixed" else plain_step
    found = step(
        Parallel(model, case.objective, ranks, case.kind, CPU),
        optimizers,
        batch,
        micro_batch=case.micro_batch,
        max_grad_norm=0.0,
        device=CPU,
        autocast=lambda: autocast(CPU, case.precision),
    )
    sizes = torch.tensor(found.sizes)
    return {
        "losses": found.losses,
        "norm": found.grad_norm,
        "sizes": sizes,
        **optimizers.gradients,
    }


def plain_step(parallel: Parallel, optimizers: Optimizers, batch: Batch, **how: Any) -> StepResult:
    return train_step(parallel, optimizers, batch, dropout_key=7, **how)


def step_in_fixed_shape(
    parallel: Parallel, optimizers: Optimizers, batch: Batch, **how: Any
) -> StepResult:
    """The step that is compiled on a GPU, as it is without a compiler and CUDA graphs."""
    model, objective = parallel.model, parallel.objective
    assert isinstance(objective, RowObjective)
    shape = FixedShape.for_batches(
        [batch], most_tokens=how["micro_batch"], max_length=32, sites=model.dropout_sites
    )
    batches: Any = SimpleNamespace(batch=None, shape=shape)  # the step is given its batch
    with flash_on_cpu() as called:
        engine = CompiledEngine(
            model,
            objective,
            parallel.ranks,
            optimizers,
            batches,
            backend="eager",
            captures=False,
            **how,
        )
        engine.warm_up(0)
        found = engine.step(in_fixed_shape(batch, shape), dropout_key=7)
    assert called
    return found


def leave_room(most: int) -> None:
    """Run out of memory where there are more tokens at once."""

    def with_limit(model: Bert, batch: Batch, dropout_key: int | None = None) -> Losses:
        if batch.num_tokens > most:
            raise torch.OutOfMemoryError("no room")
        return losses_of(model, batch, dropout_key)

    def vectors(
        self: Contrast, model: Bert, batch: Batch, dropout_key: int | None = None
    ) -> Tensor:
        if batch.num_tokens > most:
            raise torch.OutOfMemoryError("no room")
        return plain(self, model, batch, dropout_key)

    plain = Contrast.vectors
    MaskedLMAndNextSentence.losses = staticmethod(with_limit)  # type: ignore[method-assign,assignment]
    Contrast.vectors = vectors  # type: ignore[method-assign,assignment]


def on_a_rank(case: Case, output: Path) -> None:
    with joined(uses_cuda=False) as ranks:
        batch, vocab_size = part_of(case, ranks)
        if ranks.rank == case.unmasked_rank:
            batch = without_masks(batch)
        found = record(case, batch, vocab_size, ranks)
        if ranks.is_first:
            torch.save(found, output)


def alone(case: Case, size: int) -> dict[str, Tensor]:
    """The same by one process."""
    whole_batch, vocab_size = part_of(case, ALONE)
    if case.unmasked_rank is None:
        return record(case, whole_batch, vocab_size, ALONE)
    starts = set(part_of(case, Ranks(case.unmasked_rank, size))[0].starts)
    spared = [start in starts for start in whole_batch.starts]
    keeps = torch.tensor(
        [
            not is_spared
            for is_spared, number in zip(spared, whole_batch.num_masked_each, strict=True)
            for _ in range(number)
        ]
    )
    counts = zip(spared, whole_batch.num_masked_each, strict=True)
    batch = replace(
        whole_batch,
        masked_positions=whole_batch.masked_positions[keeps],
        masked_labels=whole_batch.masked_labels[keeps],
        num_masked_each=tuple(0 if is_spared else number for is_spared, number in counts),
    )
    return record(case, batch, vocab_size, ALONE)


@pytest.mark.parametrize(
    ("size", "case"),
    [
        pytest.param(2, Case("ddp", dropout=0.2), id="ddp-2-dropout"),
        pytest.param(
            2,
            Case("fsdp", dropout=0.2, micro_batch=60, recompute=True),
            id="fsdp-2-recompute",
            marks=SLOW,
        ),
        pytest.param(2, Case("ddp", room=60), id="ddp-2-full"),
        pytest.param(2, Case("fixed", batch_size=15, dropout=0.2, micro_batch=120), id="fixed-2"),
        pytest.param(3, Case("fixed", unmasked_rank=1), id="fixed-3-unmasked", marks=SLOW),
        pytest.param(4, Case("ddp", batch_size=7, micro_batch=20), id="ddp-4-uneven", marks=SLOW),
        pytest.param(4, Case("fsdp", batch_size=7, micro_batch=20), id="fsdp-4-uneven", marks=SLOW),
        pytest.param(
            2,
            Case("ddp", unmasked_rank=1, recompute=True),
            id="ddp-2-unmasked",
            marks=SLOW,
        ),
        pytest.param(2, Case("fsdp", unmasked_rank=0), id="fsdp-2-unmasked"),
        pytest.param(2, Case("ddp", precision="bfloat16"), id="ddp-2-bfloat16", marks=SLOW),
        pytest.param(2, Case("fsdp", precision="bfloat16"), id="fsdp-2-bfloat16", marks=SLOW),
        pytest.param(3, Case("ddp", contrasts=True, dropout=0.2, micro_batch=40), id="contrast"),
        pytest.param(2, Case("ddp", contrasts=True, room=60), id="contrast-full", marks=SLOW),
        pytest.param(
            2, Case("fsdp", contrasts=True, micro_batch=40), id="fsdp-contrast", marks=SLOW
        ),
    ],
)
def test_gradients_are_those_of_one_process(size: int, case: Case, tmp_path: Path) -> None:
    run(size, on_a_rank, case, tmp_path / "found", logs=tmp_path / "logs")
    found = torch.load(tmp_path / "found", weights_only=True)
    expected = alone(case, size)
    assert list(found) == list(expected)
    assert torch.equal(found["sizes"], expected["sizes"])
    if case.precision == "bfloat16":  # products are; weights and their gradients are not
        assert {value.dtype for name, value in found.items() if name != "sizes"} == {torch.float32}
    digits = {"float32": 1e-6, "bfloat16": 2**-6}[case.precision]
    digits *= 100 if case.contrasts else 1  # of differences of vectors that are much alike
    for name, value in expected.items():
        difference = (found[name] - value).double().norm()
        # A gradient that is nothing but rounding, as that of a key's bias, has no digits to share.
        assert difference <= digits * max(float(value.double().norm()), 1e-3), name
