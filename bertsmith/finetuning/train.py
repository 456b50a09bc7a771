"""One training of a classifier, by the engine of pretraining: from labelled rows to figures.

Legend: N = rows; K = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.architectures import CLASSIFIER, Encoder
from bertsmith.config import FinetuneConfig, TrainingConfig
from bertsmith.display import Display
from bertsmith.errors import DivergenceError
from bertsmith.finetuning.batches import LabelledBatches, packed
from bertsmith.finetuning.classifier import classifier_on
from bertsmith.finetuning.labels import Targets, Task
from bertsmith.finetuning.metrics import main_metric, metrics_of, predictions_of
from bertsmith.finetuning.rows import Row
from bertsmith.hardware.device import autocast, usual_micro_batch
from bertsmith.objectives.classification import SequenceClassification
from bertsmith.ranks import ALONE, Ranks
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.checkpoint import Checkpoints
from bertsmith.training.divergence import Diverged
from bertsmith.training.engine import EagerEngine
from bertsmith.training.evaluator import interruptible
from bertsmith.training.initial import FirstWeights
from bertsmith.training.observers import Observer, StepEvent
from bertsmith.training.parallel import Parallel
from bertsmith.training.selection import Selection
from bertsmith.training.stop import StopRequest
from bertsmith.training.sums import Sums
from bertsmith.training.trainer import Trainer

_TOKENS_AT_ONCE = 2**14
_RATE_OF_BASE, _WIDTH_OF_BASE = 3e-5, 768  # the original's, of BERT_BASE
_REPORTS = 200  # of progress, in a training

Rows = tuple[Sequence[Row], Targets]
"""N rows and their labels."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training."""

    metrics: dict[str, float | None]
    """On the validation rows, where they were best."""
    epoch: float
    """When that was."""
    epochs: float
    """When training ended."""
    step: int
    """Whose checkpoint has the weights of the best moment."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How classifiers are trained on the same rows.

    Args:
        pretrained: the encoder, on the host.
        train, validation: rows and their labels.
        task: what the labels are.
        tokenizer: saved with the checkpoints.
        config: with a precision other than auto.
        device: where.
        ranks: who trains.
        display: shows how far it is.
        stop: asked after each micro-batch whether to stop.
    """

    pretrained: Encoder
    train: Rows
    validation: Rows
    task: Task
    tokenizer: Tokenizer
    config: FinetuneConfig
    device: torch.device
    ranks: Ranks
    display: Display
    stop: StopRequest = field(default_factory=StopRequest)

    def run(self, kind: str, seed: int, folder: Path) -> Trained:
        """Train one, or the rest of it, with its checkpoints in `folder`.

        Args:
            kind: "pretrained" or "random": what it begins with.
            seed: of the classifier's first weights, order and dropout.
            folder: the training's own.

        Raises:
            DivergenceError: the loss is not a finite number.
            RunStopped: a signal came; a checkpoint of the last step is on disk.
            RunError: no checkpoint in `folder` is whole.
            OSError: a checkpoint cannot be written.
        """
        title = f"Training from {kind} weights, seed {seed}"
        checkpoints = Checkpoints(folder, keep=1, keep_every=None, ranks=self.ranks)
        newest = checkpoints.newest_whole(self.display.warn)
        with self.display.stage(title) as progress:
            trainer = self._trainer(kind, seed, checkpoints, progress)
            trainer.begin(newest)
            try:
                trainer.train()
            except DivergenceError as error:
                found = error.__cause__
                where = f"At step {found.step} {found}" if isinstance(found, Diverged) else title
                raise DivergenceError(f"{where}; lower --learning-rate.") from error
        best = trainer.progress.best
        assert best is not None  # the last step is always evaluated
        epochs = trainer.progress.spent.pairs / len(self.train[0])
        return Trained(metrics=best.figures, epoch=best.epoch, epochs=epochs, step=best.step)

    def model(self) -> Encoder:
        """A network with a classifier, on the device; its weights are drawn later."""
        num_labels = self.task.num_outputs
        return classifier_on(self.pretrained, self.config.dropout_prob, num_labels).to(self.device)

    @property
    def scale(self) -> Scale:
        """Between the model's outputs and the labels."""
        return Scale.of(self.train[1], self.task)

    def predict(self, model: Encoder, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Outputs in the precision of the training; see `predict`."""
        return predict(model, rows, self.device, precision=self.config.precision)

    def _trainer(
        self,
        kind: str,
        seed: int,
        checkpoints: Checkpoints,
        progress: Callable[[int, int], None],
    ) -> Trainer:
        model, config = self.model(), self.config
        rows, targets = self.train
        weights = class_weights(targets, self.task, config, self.device)
        objective = SequenceClassification(
            is_regression=self.task.is_regression, class_weights=weights
        )
        parallel = Parallel(model, objective, self.ranks, "ddp", self.device)
        batch_size = min(config.batch_size, len(rows))
        batches = LabelledBatches(
            rows,
            self.scale.scaled(targets),
            batch_size=batch_size,
            seed=seed,
            rank=self.ranks.rank,
            num_ranks=self.ranks.size,
        )
        steps = max(1, -(-config.epochs * len(rows) // batch_size))
        training = as_training(config, model, steps=steps, batch_size=batch_size, seed=seed)
        alone = self.ranks.size == 1
        engine = EagerEngine(
            parallel,
            training,
            batches,
            self.device,
            micro_batch=_micro_batch(config, self.device, model),
            before_micro_batch=self.stop.interrupt_if_asked if alone else lambda: None,
        )
        state = self.pretrained.state_dict() if kind == "pretrained" else {}
        names = model.state_dict().keys()
        return Trainer(
            parallel=parallel,
            first_weights=FirstWeights(
                seed=seed,
                looks_near=False,
                state={name: value for name, value in state.items() if name in names},
                mlm_bias=None,
            ),
            batches=batches,
            evaluator=_RowsEvaluator(training=self, model=model),
            tokenizer=self.tokenizer,
            config=training,
            observer=_Reporter(progress, steps),
            checkpoints=checkpoints,
            stop=self.stop,
            display=self.display,
            device=self.device,
            engine=engine,
            selection=Selection(
                metric=main_metric(config.metric, self.task), patience=config.patience
            ),
            evaluations=config.epochs * config.evaluations_per_epoch,
        )


def as_training(
    config: FinetuneConfig, model: Encoder, *, steps: int, batch_size: int, seed: int
) -> TrainingConfig:
    """The settings of a training, as those of pretraining."""
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=config.learning_rate or default_learning_rate(model.config.hidden_size),
        adam_beta2=0.999,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        warmup_ratio=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        seed=seed,
        precision=config.precision,
        log_every=max(1, steps // _REPORTS),
        max_rollbacks=0,
        spike_factor=0.0,
    )


def default_learning_rate(hidden_size: int) -> float:
    """3e-5 for BERT_BASE's width, and more for narrower networks: by the power 1.5 of the ratio."""
    return _RATE_OF_BASE * (_WIDTH_OF_BASE / hidden_size) ** 1.5


def class_weights(
    targets: Targets, task: Task, config: FinetuneConfig, device: torch.device
) -> Tensor | None:
    """N / (K · rows of the class), float32 [K] (scikit-learn's "balanced"); None: all alike."""
    if task.is_regression or config.class_weights == "none":
        return None
    counts = np.bincount(targets.astype(np.int64), minlength=len(task.classes))
    weights = (len(targets) / (len(counts) * counts)).astype(np.float32)
    return torch.from_numpy(weights).to(device)


@torch.inference_mode()
def predict(
    model: Encoder,
    rows: Sequence[Row],
    device: torch.device,
    *,
    precision: str = "float32",
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """Outputs of the rows, in their order: float32 [N, K]; the ranks share the work.

    Args:
        model: with a classifier, on `device`.
        rows: N.
        device: where.
        precision: of the matrix products.
        ranks: who calls it; all have the same rows, and get all outputs.
        progress: told the rows done and in all; on every rank equally often.

    Raises:
        DivergenceError: one is not a finite number; as a class it would be taken for one.
    """
    objective = SequenceClassification()
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    found = np.zeros((len(rows), model.num_labels))
    done = number = 0
    while done < len(order):
        group = order[done : done + max(1, _TOKENS_AT_ONCE // len(rows[order[done]].ids))]
        if number % ranks.size == ranks.rank:
            batch = packed([rows[i] for i in group]).to(device)
            with autocast(device, precision):
                found[group] = objective.outputs(model, batch).float().cpu().numpy()
        done, number = done + len(group), number + 1
        progress(done, len(order))
    found = ranks.sum(found)  # each is a number and zeros: exact
    if not np.isfinite(found).all():
        raise DivergenceError("The outputs are not finite numbers; lower --learning-rate.")
    return found.astype(np.float32)


@dataclass(frozen=True)
class Scale:
    """Scores are learnt with mean 0 and deviation 1, whatever unit they come in."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: Targets, task: Task) -> Scale:
        """That of some labels; classes have none."""
        if not task.is_regression:
            return cls()
        values = targets.astype(np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def scaled(self, targets: Targets) -> Targets:
        """Labels in the model's unit."""
        if self == Scale():
            return targets
        return ((targets - self.mean) / self.deviation).astype(np.float32)

    def back(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Outputs in the unit of the labels."""
        return (outputs * self.deviation + self.mean).astype(np.float32)

    def into(self, model: Encoder) -> None:
        """Let the model's outputs be in the unit of the labels."""
        classifier = model.get_submodule(CLASSIFIER)
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                parameter.mul_(self.deviation)
                if name == "bias":
                    parameter.add_(self.mean)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What an evaluation found; see `Evaluated`."""

    is_finite: bool
    figures: dict[str, float | None]

    def metrics(self) -> Mapping[str, float | None]:
        return self.figures


@dataclass(kw_only=True)
class _RowsEvaluator:
    """Evaluates the validation rows; see `Evaluator`."""

    training: Training
    model: Encoder
    started: float = 0.0

    def has_time(self, timed: Sums) -> bool:
        return True

    def run(self, micro_batch: int) -> _Found:
        how = self.training
        rows, targets = how.validation
        try:
            outputs = predict(
                self.model,
                rows,
                how.device,
                precision=how.config.precision,
                ranks=how.ranks,
                progress=interruptible(lambda done, total: None, how.stop, how.ranks),
            )
        except DivergenceError:
            return _Found(is_finite=False, figures={})
        predictions = predictions_of(how.scale.back(outputs), how.task)
        return _Found(is_finite=True, figures=metrics_of(predictions, targets, how.task))


class _Reporter(Observer):
    """Tells how many steps are done."""

    def __init__(self, progress: Callable[[int, int], None], steps: int) -> None:
        self._progress, self._steps = progress, steps

    def on_step(self, event: StepEvent) -> None:
        self._progress(event.step, self._steps)


def _micro_batch(config: FinetuneConfig, device: torch.device, model: Encoder) -> int:
    """Tokens at once; where they do not fit in a GPU's memory, a step goes on with half."""
    if config.micro_batch == "auto":
        return usual_micro_batch(device, model.config)
    return config.micro_batch
