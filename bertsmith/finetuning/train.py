"""One training of a classifier: from labelled rows to the weights of its best moment.

Legend: N = rows; B = those of a step; K = outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.config import FinetuneConfig, TrainingConfig
from bertsmith.errors import DivergenceError
from bertsmith.finetuning.classifier import SequenceClassifier
from bertsmith.finetuning.labels import Targets, Task
from bertsmith.finetuning.metrics import main_metric, metrics_of, predictions_of
from bertsmith.nn.layout import PackedInput
from bertsmith.random_bits import Stream, permute, random_bits
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import (
    kept_places,
    say_what_is_unknown,
    say_what_was_cut,
)
from bertsmith.training.optimizer import make_optimizers, rate_share
from bertsmith.training.step import clip_and_update

_TOKENS_AT_ONCE = 2**14
_RATE_OF_BASE, _WIDTH_OF_BASE = 3e-5, 768  # the original's, of BERT_BASE


class Row(NamedTuple):
    """A text or pair, cut to length."""

    ids: list[int]
    segments: list[int]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The moment of a training with the best figures on the validation rows."""

    model: SequenceClassifier
    """With the weights of that moment."""
    value: float
    """Of the metric that it is the best by."""
    metrics: dict[str, float | None]
    outputs: npt.NDArray[np.float32]
    """[N, K]; of the validation rows."""
    epoch: float
    """When it was."""
    epochs: float
    """When training ended."""


def tokenize(
    texts: Sequence[tuple[str, str | None]], tokenizer: Tokenizer, *, source: str = ""
) -> tuple[list[Row], int]:
    """Rows of at most the tokenizer's `max_length` tokens, and how many were longer.

    Those that are cut or hold no known word are said, as of `source`.
    """
    rows, lengths = [], []
    num_cut = num_unknown = 0
    special = frozenset(tokenizer.special_ids.tolist())
    for ids, segments in tokenizer.encode_many(texts):
        kept = kept_places(segments, tokenizer.max_length)
        lengths.append(len(ids))
        num_cut += len(kept) < len(ids)
        num_unknown += tokenizer.unk_id in ids and special.issuperset(ids)
        rows.append(Row([ids[i] for i in kept], [segments[i] for i in kept]))
    say_what_is_unknown(num_unknown, len(rows), source=source)
    say_what_was_cut(lengths, tokenizer.max_length, source=source)
    return rows, num_cut


def default_learning_rate(hidden_size: int) -> float:
    """3e-5 for BERT_BASE's width, and more for narrower networks: by the power 1.5 of the ratio."""
    return _RATE_OF_BASE * (_WIDTH_OF_BASE / hidden_size) ** 1.5


def train_classifier(
    model: SequenceClassifier,
    train: tuple[Sequence[Row], Targets],
    validation: tuple[Sequence[Row], Targets],
    task: Task,
    config: FinetuneConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Best:
    """Train `model` and keep the moment that is best on `validation`.

    Args:
        model: on `device`, its head drawn.
        train, validation: rows and their targets.
        task: what the targets are.
        config: how.
        seed: of order and dropout.
        device: where the model is.
        progress: told the steps done and in all.

    Raises:
        DivergenceError: the loss is not a finite number.
    """
    rows, targets = train
    scale = _Scale.of(targets, task)
    weights = class_weights(targets, task, config, device)
    training = _as_training(config, model.bert.config.hidden_size)
    optimizers = make_optimizers(model, training)
    steps_per_epoch = math.ceil(len(rows) / config.batch_size)
    total = config.epochs * steps_per_epoch
    judge = _Judge(validation, task, main_metric(config.metric, task), scale, device)
    model.train()
    for step in range(total):
        epoch, within = divmod(step, steps_per_epoch)
        places = np.arange(within * config.batch_size, (within + 1) * config.batch_size)
        places = permute(places[places < len(rows)], len(rows), seed, epoch)  # int64 [B]
        key = int(random_bits(seed, Stream.DROPOUT, step)[0]) if config.dropout_prob else None
        outputs = model(PackedInput.of([rows[i] for i in places.tolist()], device), key)
        loss = _loss(outputs, scale.scaled(targets[places]), task, weights)
        loss.backward()
        optimizers.set_rate(rate_share(training, (step + 0.5) / total))
        clip_and_update(model, optimizers, loss.detach(), config.max_grad_norm)
        optimizers.zero_grad()
        progress(step + 1, total)
        if not _is_due(within + 1, steps_per_epoch, config.evaluations_per_epoch):
            continue
        if not math.isfinite(loss.item()):
            raise DivergenceError(
                f"At step {step + 1} the loss is not a finite number; lower --learning-rate."
            )
        judge.look_at(model, epochs=(step + 1) / steps_per_epoch)
        if config.patience and judge.waited >= config.patience:
            break
    best = judge.best
    assert best is not None  # the last step of an epoch is always judged
    scale.into(best.model)
    return replace(best, epochs=(step + 1) / steps_per_epoch)


@dataclass
class _Judge:
    """Keeps the moment of a training that is best on the validation rows.

    Args:
        validation: rows and their targets.
        task: what the targets are.
        wanted: the metric that decides.
        scale: of the model's outputs.
        device: where the model is.
    """

    validation: tuple[Sequence[Row], Targets]
    task: Task
    wanted: str
    scale: _Scale
    device: torch.device
    best: Best | None = None
    waited: int = 0
    """Evaluations since the best one."""

    def look_at(self, model: SequenceClassifier, epochs: float) -> None:
        """Evaluate `model` as it is after so many epochs."""
        rows, targets = self.validation
        found = self.scale.back(predict(model, rows, self.device))
        metrics = metrics_of(predictions_of(found, self.task), targets, self.task)
        self.waited += 1
        value = metrics[self.wanted]
        assert value is not None  # `refuse_alike`
        if self.best is None or value > self.best.value:
            self.waited = 0
            self.best = Best(
                model=copy.deepcopy(model),
                value=value,
                metrics=metrics,
                outputs=found,
                epoch=epochs,
                epochs=0.0,
            )


@torch.inference_mode()
def predict(
    model: SequenceClassifier, rows: Sequence[Row], device: torch.device
) -> npt.NDArray[np.float32]:
    """Outputs of the rows, in their order: float32 [N, K].

    Raises:
        DivergenceError: one is not a finite number; as a class it would be taken for one.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    found = np.empty((len(rows), model.classifier.out_features), dtype=np.float32)
    done = 0
    while done < len(order):
        longest = len(rows[order[done]].ids)
        group = order[done : done + max(1, _TOKENS_AT_ONCE // longest)]
        found[group] = model(PackedInput.of([rows[i] for i in group], device)).float().cpu().numpy()
        done += len(group)
    if not np.isfinite(found).all():
        raise DivergenceError("The outputs are not finite numbers; lower --learning-rate.")
    return found


@dataclass(frozen=True)
class _Scale:
    """Scores are learnt with mean 0 and deviation 1, whatever unit they come in."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: Targets, task: Task) -> _Scale:
        if not task.is_regression:
            return cls()
        values = targets.astype(np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def scaled(self, targets: Targets) -> Targets:
        if self == _Scale():
            return targets
        return ((targets - self.mean) / self.deviation).astype(np.float32)

    def back(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return (outputs * self.deviation + self.mean).astype(np.float32)

    def into(self, model: SequenceClassifier) -> None:
        """Let the model's outputs be in the unit of the scores."""
        with torch.no_grad():
            model.classifier.weight.mul_(self.deviation)
            model.classifier.bias.mul_(self.deviation).add_(self.mean)


def _loss(outputs: Tensor, targets: Targets, task: Task, weights: Tensor | None) -> Tensor:
    """The mean over B rows: squared error of scores, cross entropy of classes."""
    wanted = torch.from_numpy(targets).to(outputs.device)
    if task.is_regression:
        return F.mse_loss(outputs[:, 0], wanted)
    return F.cross_entropy(outputs, wanted, weight=weights)


def class_weights(
    targets: Targets, task: Task, config: FinetuneConfig, device: torch.device
) -> Tensor | None:
    """N / (K · rows of the class), float32 [K] (scikit-learn's "balanced"); None: all alike."""
    if task.is_regression or config.class_weights == "none":
        return None
    counts = np.bincount(targets.astype(np.int64), minlength=len(task.classes))
    weights = (len(targets) / (len(counts) * counts)).astype(np.float32)
    return torch.from_numpy(weights).to(device)


def _as_training(config: FinetuneConfig, hidden_size: int) -> TrainingConfig:
    """The settings of the optimizer and the schedule, which are those of pretraining."""
    return TrainingConfig(
        optimizer="adamw",
        learning_rate=config.learning_rate or default_learning_rate(hidden_size),
        adam_beta2=0.999,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        warmup_ratio=config.warmup_ratio,
    )


def _is_due(step: int, steps_per_epoch: int, times: int) -> bool:
    """Whether rows are judged after this step of an epoch (from 1); after its last one always."""
    return step * times // steps_per_epoch > (step - 1) * times // steps_per_epoch
