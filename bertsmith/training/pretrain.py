"""A whole run, or the rest of one: prepare, train, validate, save, draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertsmith.architectures import MLM_HEAD, Encoder, build
from bertsmith.config import (
    PretrainConfig,
    reproducibility_settings,
    settings_by_name,
    to_toml,
)
from bertsmith.corpus.standard_input import refuse_standard_input
from bertsmith.data.store import word_counts
from bertsmith.display import Display, shell_word
from bertsmith.durable import whole_folder
from bertsmith.errors import RunStopped
from bertsmith.evaluation.fills import as_markdown, fills
from bertsmith.hardware.device import (
    autocast,
    choose_device,
    deterministic,
    device_of_rank,
    keep_freed_memory,
)
from bertsmith.objectives import objective_of
from bertsmith.preparation import report_json
from bertsmith.ranks import Ranks, is_restarted, joined, local_rank
from bertsmith.reporting.card import CARD_FILE, run_card
from bertsmith.saved.hugging_face import Snapshot, load_model
from bertsmith.saved.locate import MODEL_FOLDER
from bertsmith.training.checkpoint import Checkpoints
from bertsmith.training.checks import (
    claimed,
    refuse_different,
    refuse_unclear,
    settled,
    written_to,
)
from bertsmith.training.closing import closing_figures, describe_devices
from bertsmith.training.compiled import CompiledEngine
from bertsmith.training.engine import Engine
from bertsmith.training.engines import engine_for
from bertsmith.training.evaluator import HeldOutEvaluator
from bertsmith.training.fit import fitting_micro_batch, with_micro_batch
from bertsmith.training.initial import FirstWeights, embedding_rows
from bertsmith.training.observers import (
    EndEvent,
    Observer,
    Observers,
    ProgressBar,
    curves_drawer,
    writing_metrics,
)
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import PhaseClock, unmeasured
from bertsmith.training.prepare import Prepared, prepare_on_ranks
from bertsmith.training.resume import resume_or_begin
from bertsmith.training.run import Run
from bertsmith.training.run_folder import RunFolder, default_output
from bertsmith.training.stop import StopRequest
from bertsmith.training.tracking import Tracking, require_trackers
from bertsmith.training.trainer import Trainer
from bertsmith.training.word_marks import WordMarks

_COUNTED = 4
"""Steps whose filler is counted and said."""

_EXAMPLES = 6
"""Held-out sentences that trackers are shown."""


def run_pretraining(
    config: PretrainConfig,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    callbacks: Sequence[Observer] = (),
) -> Run:
    """Pretrain a BERT as `config` says.

    Args:
        config: all settings; see `bertsmith.config.resolve`.
        output: the run's folder; default: a fresh one under `runs/`.
        overwrite: replace a run that is in `output`.
        resume: go on with the run that is in `output`; begin one if there is none.
        quiet: show no progress.
        profile: measure where the time of a step goes; on a GPU this slows it.
        callbacks: told what happens, on the first rank, after the package's own.

    Raises:
        BertsmithError: something the user can mend; nothing is half-written.
        RunStopped: a signal asked for it; `resume` goes on.
    """
    with joined(uses_cuda=(kind := choose_device(config.training.device)).type == "cuda") as ranks:
        with ranks.raising_on_all():
            refuse_unclear(resume=resume, overwrite=overwrite, output=output)
            require_trackers(config.training.track)
            refuse_standard_input(config.preparation.corpus, config.preparation.validation)
            device = device_of_rank(kind, local_rank()) if ranks.size > 1 else kind
        config = settled(config, device, ranks)
        refuse_different(config, kind, ranks)
        # Of several machines' launchers one may count a restart that the others do not.
        restarted = ranks.any(is_restarted())
        if restarted:
            resume, overwrite = True, False
        display = Display(quiet=quiet, is_silent=not ranks.is_first)
        usual = default_output(config.preparation.corpus, config.preset)
        path = Path(ranks.from_first(str(output or usual)))
        folder = claimed(path, config, ranks, overwrite=overwrite, resume=resume)
        keep, keep_every = config.training.keep_checkpoints, config.training.keep_every
        checkpoints = Checkpoints(path, keep=keep, keep_every=keep_every, ranks=ranks)
        try:
            job = Job(
                config=config,
                path=path,
                folder=folder,
                checkpoints=checkpoints,
                ranks=ranks,
                device=device,
                display=display,
                clock=PhaseClock(device) if profile else None,
                callbacks=tuple(callbacks),
            )
            metrics = resume_or_begin(job, as_before=restarted) if resume else job.begin()
        finally:
            if folder is not None:
                checkpoints.then(folder.release)
    return Run(output=path, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is made of, from the lock on its folder to the lock's release.

    All ranks do the same; the first one alone writes.
    """

    config: PretrainConfig
    path: Path
    folder: RunFolder | None
    """The claim on `path`, which the first rank has."""
    checkpoints: Checkpoints
    ranks: Ranks
    device: torch.device
    display: Display
    clock: PhaseClock | None
    callbacks: tuple[Observer, ...]

    def begin(self) -> dict[str, Any]:
        """A run from its beginning; the closing figures."""
        prepared = prepare_on_ranks(self.config, None, self.ranks, self.display)
        with self.ranks.raising_on_all(is_long=True):
            model, first = self.model(prepared, None)
        with self.ending_well(), deterministic(self.device):
            return self.train(model, first, prepared, None)

    def model(self, prepared: Prepared, newest: Path | None) -> tuple[Encoder, FirstWeights | None]:
        """The network, and what it begins with; None if it goes on from a checkpoint."""
        rows = embedding_rows(self.config, prepared.tokenizer, newest)
        model = build(self.config.model, rows, objective_of(self.config.data.objective).heads)
        if newest is not None:
            return model, None
        return model, FirstWeights.read(
            model, self.config, prepared, ranks=self.ranks, display=self.display
        )

    def _fitted(self, parallel: Parallel) -> PretrainConfig:
        """The settings with the micro-batch that fits, as they are written down."""
        config = self.config
        if config.training.micro_batch != "auto":
            return config
        precision = config.training.precision
        fits = fitting_micro_batch(
            parallel, config, self.device, lambda: autocast(self.device, precision)
        )
        return with_micro_batch(config, fits)

    @contextmanager
    def ending_well(self) -> Iterator[None]:
        """Say what a signal, or a disk that does not take what is written, leaves behind."""
        path = self.path
        try:
            with written_to(path):
                yield
        except RunStopped as stopped:
            newest = self.checkpoints.newest()
            kept = f"{newest} is written" if newest else "there is no checkpoint yet"
            raise RunStopped(
                stopped.by,
                f"stopped by {stopped.by.name}; {kept}. To go on:\n"
                f"bertsmith pretrain --resume --output {shell_word(path)}",
            ) from None

    def train(
        self,
        model: Encoder,
        first: FirstWeights | None,
        prepared: Prepared,
        newest: Path | None,
        *,
        resumes: bool = False,
    ) -> dict[str, Any]:
        """Train from a checkpoint on, or from the beginning; evaluate, save the model."""
        # Before memory is measured: the curves need matplotlib.
        bar, is_first = ProgressBar(self.display), self.ranks.is_first
        others = [*curves_drawer(self.path, self.display), *self.callbacks] if is_first else []
        num_parameters = sum(p.numel() for p in model.parameters())
        parallel, config = self._on_device(model)
        stop = StopRequest()
        engine = self._engine(parallel, config, prepared, stop, num_parameters)
        self.checkpoints.only_while(prepared.store.refuse_changed)
        if self.folder is not None and not resumes:
            self.folder.begin(to_toml(config), report_json(prepared.report))
        evaluator = self._evaluator(parallel, prepared, stop)
        with stop.heard(), self._observers(config, prepared, bar, *others) as observers:
            trainer = Trainer(
                parallel=parallel,
                first_weights=first,
                batches=prepared.batches,
                evaluator=evaluator,
                tokenizer=prepared.tokenizer,
                config=config.training,
                observer=observers,
                checkpoints=self.checkpoints,
                stop=stop,
                display=self.display,
                device=self.device,
                engine=engine,
                word_marks=WordMarks.of(config, prepared.report),
                reproducibility_settings=reproducibility_settings(config),
                phase=self.clock or unmeasured,
            )
            trainer.begin(newest)
            if resumes:
                self._say_resumed(trainer, config)
            with bar.shown():
                trainer.train()
            # What is left can be done again in a moment: a signal need not wait for it.
            stop.leave_at_once()
            with trainer.average.applied():
                closing = closing_figures(
                    trainer, evaluator, config, num_parameters=num_parameters, clock=self.clock
                )
                card = run_card(config, prepared.report, closing) if self.ranks.is_first else ""
                self._save_model(trainer, card)
            # What is killed before all observers know of the end is finished again.
            observers.on_end(EndEvent(step=trainer.progress.spent.step, figures=closing))
        return {**closing, "output": str(self.path)}

    def _on_device(self, model: Encoder) -> tuple[Parallel, PretrainConfig]:
        """The model on its device and ranks, and the settings with the micro-batch that fits."""
        model = model.to(self.device)
        model.recomputes = self.config.training.recompute
        if self.device.type == "cpu":
            keep_freed_memory()
        objective, kind = objective_of(self.config.data.objective), self.config.training.parallel
        parallel = Parallel(model, objective, self.ranks, kind, self.device)
        return parallel, self._fitted(parallel)

    def _engine(
        self,
        parallel: Parallel,
        config: PretrainConfig,
        prepared: Prepared,
        stop: StopRequest,
        num_parameters: int,
    ) -> Engine:
        """What makes the steps; it is said what the model is and where it is trained."""
        micro_batch = config.training.micro_batch
        assert isinstance(micro_batch, int)
        engine = engine_for(
            parallel,
            config,
            prepared.batches,
            self.device,
            micro_batch=micro_batch,
            phase=self.clock or unmeasured,
            before_micro_batch=stop.interrupt_if_asked,
        )
        how = f"{micro_batch:,} tokens at once, in {config.training.precision}"
        how += ", deterministic" if self.device.type == "cuda" else ""
        how += ", compiled" if isinstance(engine, CompiledEngine) else ""
        shape = config.model
        self.display.say(
            f"Model: {shape.architecture} of {shape.num_hidden_layers} layers of "
            f"{shape.hidden_size}, {num_parameters:,} parameters, "
            f"on {describe_devices(self.device, self.ranks)}; {how}."
        )
        if isinstance(engine, CompiledEngine):
            self.display.say(
                "The first step compiles, which takes up to a minute; micro-batches have "
                f"{engine.batches.filler(_COUNTED):.1%} filler."
            )
        return engine

    def _evaluator(
        self, parallel: Parallel, prepared: Prepared, stop: StopRequest
    ) -> HeldOutEvaluator | None:
        if prepared.validation is None:
            return None
        return HeldOutEvaluator(
            parallel=parallel,
            batches=prepared.validation,
            config=self.config.training,
            device=self.device,
            stop=stop,
            display=self.display,
            word_counts=word_counts(prepared.batches.store, prepared.tokenizer),
        )

    def _examples(self, prepared: Prepared) -> str:
        """What the finished model fills into held-out sentences, as Markdown."""
        if prepared.validation is None:
            return "Nothing is held out."
        folder = load_model(self.path / MODEL_FOLDER)
        if MLM_HEAD in folder.missing:
            return "The model has no MLM head."
        return as_markdown(fills(folder, prepared.validation.store, _EXAMPLES))

    @contextmanager
    def _observers(
        self, config: PretrainConfig, prepared: Prepared, *others: Observer
    ) -> Iterator[Observers]:
        """What is told of the training; nothing but on the first rank. Trackers end with it."""
        if not self.ranks.is_first:
            yield Observers()
            return
        training = config.training
        settings = {name: str(value) for name, value in settings_by_name(config).items()}
        with ExitStack() as stack:
            trackers = []
            for kind in training.track:
                how = (self.path, training.track_project, settings)
                trackers.append(
                    Tracking(kind, *how, lambda: self._examples(prepared), self.display)
                )
                stack.callback(trackers[-1].close)
            yield stack.enter_context(writing_metrics(self.path, self.display, *others, *trackers))

    def _say_resumed(self, trainer: Trainer, config: PretrainConfig) -> None:
        """Write down the settings that the run goes on with, and say from where.

        Not before `Trainer.begin`: the last line of metrics.jsonl, which it removes, may say that
        the run is finished.
        """
        if self.folder is not None:
            self.folder.go_on(to_toml(config))
        step = trainer.progress.spent.step
        self.display.say(f"Going on with {self.path} after step {step:,}.")

    def _save_model(self, trainer: Trainer, card: str) -> None:
        """Write the last weights as a Hugging Face model; every rank has a part in gathering."""
        snapshot = Snapshot.of(trainer.model, trainer.tokenizer, keeps=self.ranks.is_first)
        if self.ranks.is_first:
            with whole_folder(self.path / MODEL_FOLDER) as folder:
                snapshot.write(folder)
                (folder / CARD_FILE).write_text(card, encoding="utf-8")
