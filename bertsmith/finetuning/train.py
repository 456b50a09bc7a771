"""One fine-tuning of an encoder, by the engine of pretraining: from rows to figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict

import torch

from bertsmith.architectures import Encoder, build
from bertsmith.config import FinetuneConfig, ModelConfig, TrainingConfig
from bertsmith.display import Display
from bertsmith.errors import DivergenceError
from bertsmith.finetuning.batches import Drawn, RowBatches
from bertsmith.hardware.device import usual_micro_batch
from bertsmith.objectives import Objective
from bertsmith.random_bits import Int64
from bertsmith.ranks import Ranks
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

_WIDTH_OF_BASE = 768
_REPORTS = 200  # of progress, in a training


class How(TypedDict):
    """What trainings of all kinds have in common; see `Training`."""

    tokenizer: Tokenizer
    config: FinetuneConfig
    device: torch.device
    ranks: Ranks
    display: Display


class Files(NamedTuple):
    """The tables of a fine-tuning, as they were named."""

    train: Path | None
    validation: Path | None
    test: Path | None


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
class Training(ABC):
    """How an encoder is trained on a task's rows, which a class for each kind of task says.

    Args:
        pretrained: the encoder, on the host.
        tokenizer: saved with the checkpoints.
        config: with a precision other than auto.
        device: where.
        ranks: who trains.
        display: shows how far it is.
        stop: asked after each micro-batch whether to stop.
    """

    pretrained: Encoder
    tokenizer: Tokenizer
    config: FinetuneConfig
    device: torch.device
    ranks: Ranks
    display: Display
    stop: StopRequest = field(default_factory=StopRequest)

    usual_batch_size: ClassVar[int] = 32
    rate_of_base: ClassVar[float] = 3e-5
    """The learning rate for BERT_BASE's width."""

    @property
    def batch_size(self) -> int:
        """Rows of a step, over all ranks."""
        return min(self.config.batch_size or self.usual_batch_size, self.num_rows)

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows to train on."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The figure that says which moment is the best; it has a value whatever the model."""

    @property
    def num_outputs(self) -> int:
        """Of a classifier; 0: there is none."""
        return 0

    def model(self) -> Encoder:
        """A network for the task, on the device; its weights are drawn later."""
        pretrained, heads = self.pretrained, self.objective().heads
        config = pretrained.config.with_dropout(self.config.dropout_prob)
        model = build(config, pretrained.vocab_size, heads, num_labels=self.num_outputs)
        return model.to(self.device)

    def usual_micro_batch(self, config: ModelConfig) -> int:
        """Tokens at once where the settings say none."""
        return usual_micro_batch(self.device, config)

    @abstractmethod
    def objective(self) -> Objective:
        """What is made small."""

    @abstractmethod
    def drawing(self) -> Callable[[Int64], Drawn]:
        """What gives the sequences of rows to train on; other processes may be given it."""

    @abstractmethod
    def evaluate(
        self, model: Encoder, progress: Callable[[int, int], None]
    ) -> dict[str, float | None]:
        """Figures of a model on the validation rows.

        Args:
            model: on the device.
            progress: told how much is done and in all; on every rank equally often.

        Raises:
            DivergenceError: its outputs are not finite numbers.
        """

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """Of the rows as the model reads them, by what they are for."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """What results.json says of the task and its rows."""

    @abstractmethod
    def write(self, model: Encoder, folder: Path) -> None:
        """Write a trained model, and what it makes of the rows, into an existing folder.

        Args:
            model: on the device; it may be changed.
            folder: the output's.

        Raises:
            OSError: it cannot be written.
        """

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
        epoch, epochs = (
            step * self.batch_size / self.num_rows
            for step in (best.step, trainer.progress.spent.step)
        )
        return Trained(metrics=best.figures, epoch=epoch, epochs=epochs, step=best.step)

    def _trainer(
        self,
        kind: str,
        seed: int,
        checkpoints: Checkpoints,
        progress: Callable[[int, int], None],
    ) -> Trainer:
        model, config = self.model(), self.config
        parallel = Parallel(model, self.objective(), self.ranks, "ddp", self.device)
        batches = RowBatches(
            self.num_rows, self.drawing(), batch_size=self.batch_size, seed=seed, ranks=self.ranks
        )
        steps = max(1, -(-config.epochs * self.num_rows // self.batch_size))
        rate = config.learning_rate or default_learning_rate(
            model.config.hidden_size, self.rate_of_base
        )
        training = as_training(
            replace(config, learning_rate=rate), steps=steps, batch_size=self.batch_size, seed=seed
        )
        alone = self.ranks.size == 1
        engine = EagerEngine(
            parallel,
            training,
            batches,
            self.device,
            # Where they do not fit in a GPU's memory, a step goes on with half.
            micro_batch=self.usual_micro_batch(model.config)
            if config.micro_batch == "auto"
            else config.micro_batch,
            before_micro_batch=self.stop.interrupt_if_asked if alone else lambda: None,
        )
        state = self.pretrained.state_dict() if kind == "pretrained" else {}
        names = model.state_dict().keys()
        return Trainer(
            parallel=parallel,
            first_weights=FirstWeights(
                seed=seed,
                looks_near=False,
                word_embedding=None,
                state={name: value for name, value in state.items() if name in names},
                mlm_bias=None,
            ),
            batches=batches,
            evaluator=_Evaluator(training=self, model=model),
            tokenizer=self.tokenizer,
            config=training,
            observer=_Reporter(progress, steps),
            checkpoints=checkpoints,
            stop=self.stop,
            display=self.display,
            device=self.device,
            engine=engine,
            selection=Selection(metric=self.metric, patience=config.patience),
            evaluations=config.epochs * config.evaluations_per_epoch,
        )


def as_training(
    config: FinetuneConfig, *, steps: int, batch_size: int, seed: int
) -> TrainingConfig:
    """The settings of a training, as those of pretraining; `config` with a learning rate."""
    assert config.learning_rate is not None
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=config.learning_rate,
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


def default_learning_rate(hidden_size: int, rate_of_base: float = 3e-5) -> float:
    """More than for BERT_BASE's width for narrower networks: by the power 1.5 of the ratio."""
    return rate_of_base * (_WIDTH_OF_BASE / hidden_size) ** 1.5


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What an evaluation found; see `Evaluated`."""

    is_finite: bool
    figures: dict[str, float | None]

    def metrics(self) -> Mapping[str, float | None]:
        return self.figures


@dataclass(kw_only=True)
class _Evaluator:
    """Evaluates the validation rows; see `Evaluator`."""

    training: Training
    model: Encoder
    started: float = 0.0

    def has_time(self, timed: Sums) -> bool:
        return True

    def run(self, micro_batch: int) -> _Found:
        how = self.training
        progress = interruptible(lambda done, total: None, how.stop, how.ranks)
        try:
            return _Found(is_finite=True, figures=how.evaluate(self.model, progress))
        except DivergenceError:
            return _Found(is_finite=False, figures={})


class _Reporter(Observer):
    """Tells how many steps are done."""

    def __init__(self, progress: Callable[[int, int], None], steps: int) -> None:
        self._progress, self._steps = progress, steps

    def on_step(self, event: StepEvent) -> None:
        self._progress(event.step, self._steps)
