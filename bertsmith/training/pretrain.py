"""A whole run, or the rest of one: prepare, train, validate, save, draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from bertsmith.architectures import Encoder, build
from bertsmith.config import BUDGETS, PretrainConfig, drift, held, to_toml
from bertsmith.corpus.standard_input import refuse_standard_input
from bertsmith.data.store import word_counts
from bertsmith.display import Display, shell_word
from bertsmith.durable import whole_folder
from bertsmith.errors import BertsmithError, DataError, RunError, RunStopped
from bertsmith.extras import command_for, is_installed
from bertsmith.hardware.device import (
    autocast,
    choose_device,
    compute_dtype,
    deterministic,
    device_of_rank,
    keep_freed_memory,
)
from bertsmith.objectives import objective_of, terms_in
from bertsmith.preparation import report_json, with_absolute_paths, with_tokenizer_of
from bertsmith.ranks import Ranks, is_restarted, joined, local_rank, may_be_restarted
from bertsmith.report.metrics_file import MetricsFile
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.saved.locate import MODEL_FOLDER, list_checkpoints
from bertsmith.training.budget import Budget
from bertsmith.training.checkpoint import STATE_FILE, Checkpoints
from bertsmith.training.closing import closing_figures, describe_devices
from bertsmith.training.compiled import CompiledEngine
from bertsmith.training.earlier import EarlierRun
from bertsmith.training.engine import Engine, engine_for
from bertsmith.training.evaluator import HeldOutEvaluator
from bertsmith.training.fit import fitting_micro_batch
from bertsmith.training.initial import FirstWeights, embedding_rows
from bertsmith.training.observers import (
    CurvesDrawer,
    EndEvent,
    MetricsWriter,
    Observer,
    Observers,
    ProgressBar,
)
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import PhaseClock, describe, unmeasured
from bertsmith.training.prepare import Prepared, prepare, refuse_other_text
from bertsmith.training.progress import Progress
from bertsmith.training.run_folder import RunFolder, default_output
from bertsmith.training.stop import StopRequest
from bertsmith.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    output: Path
    """Its folder."""
    metrics: dict[str, Any] = field(repr=False)
    """The closing figures, as in the last line of metrics.jsonl."""

    @property
    def sentence_pairs_per_second(self) -> float:
        """Wall clock with the making of batches in it, without the first step."""
        return float(self.metrics["sentence_pairs_per_second"])

    def closing_lines(self) -> list[str]:
        """The figures as the textbook prints them, the validation figures under them."""
        m = self.metrics
        has_pairs = "sentence_pairs_per_second" in m
        has_memory = "peak_memory_bytes" in m  # not of a run that an older version finished
        rate = m["sentence_pairs_per_second" if has_pairs else "segments_per_second"]
        names = terms_in(m)
        lines = [
            ", ".join(f"{name.upper()} loss {_number(m[f'{name}_loss'])}" for name in names),
            f"{rate:.1f} {'sentence pairs' if has_pairs else 'segments'}/sec on {m['device']}",
            f"{m['tokens_per_second']:,.0f} tokens/sec, {_share(m)}"
            + (f"; {m['peak_memory_bytes'] / 1e9:.1f} GB of memory at most" if has_memory else ""),
        ]
        if f"validation_{names[0]}_loss" in m:
            lines.append("validation: " + ", ".join(_validation(m, name) for name in names))
        if "phase_seconds" in m:
            lines += describe(m["phase_seconds"])
        return lines


def _validation(metrics: Mapping[str, Any], name: str) -> str:
    """Loss and accuracy of a term on the validation split."""
    loss = metrics[f"validation_{name}_loss"]
    if loss is None:
        return "no masked token, since every word is unknown"
    accuracy = metrics.get(f"validation_{name}_accuracy")
    shown = f"{name.upper()} loss {loss:.3f}"
    return shown if accuracy is None else f"{shown}, {name.upper()} accuracy {accuracy:.1%}"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _share(metrics: dict[str, Any]) -> str:
    """How the steps did beside the machine's matrix products."""
    peak = f"{metrics['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    if metrics["share_of_peak"] is None:
        return f"more than matrix products did here ({peak}), which other work must have slowed"
    share = f"{metrics['share_of_peak']:.0%}"
    return f"{share} of what matrix products alone would allow here ({peak})"


def run_pretraining(
    config: PretrainConfig,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Pretrain a BERT as `config` says.

    Args:
        config: all settings; see `bertsmith.config.resolve`.
        output: the run's folder; default: a fresh one under `runs/`.
        overwrite: replace a run that is in `output`.
        resume: go on with the run that is in `output`; begin one if there is none.
        quiet: show no progress.
        profile: measure where the time of a step goes; on a GPU this slows it.

    Raises:
        BertsmithError: something the user can mend; nothing is half-written.
        RunStopped: a signal asked for it; `resume` goes on.
    """
    kind = choose_device(config.training.device)
    with joined(uses_cuda=kind.type == "cuda") as ranks:
        with ranks.together():
            _refuse_unclear(resume=resume, overwrite=overwrite, output=output)
            refuse_standard_input(config.preparation.corpus, config.preparation.validation)
            device = device_of_rank(kind, local_rank()) if ranks.size > 1 else kind
            config = _settled(config, device)
        _refuse_different(config, kind, ranks)
        # Of several machines' launchers one may count a restart that the others do not.
        restarted = ranks.any(is_restarted())
        if restarted:
            resume, overwrite = True, False
        display = Display(quiet=quiet, is_silent=not ranks.is_first)
        path = output or default_output(config.preparation.corpus, config.preset)
        path = Path(ranks.from_first(str(path)))
        folder = _claimed(path, config, ranks, overwrite=overwrite, resume=resume)
        training = config.training
        checkpoints = Checkpoints(
            path, keep=training.keep_checkpoints, keep_every=training.keep_every, ranks=ranks
        )
        try:
            job = _Job(
                config=config,
                path=path,
                folder=folder,
                checkpoints=checkpoints,
                ranks=ranks,
                device=device,
                display=display,
                clock=PhaseClock(device) if profile else None,
            )
            metrics = job.resume_or_begin(as_before=restarted) if resume else job.begin()
        finally:
            if folder is not None:
                checkpoints.then(folder.release)
    return Run(output=path, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class _Job:
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

    def resume_or_begin(self, *, as_before: bool) -> dict[str, Any]:
        """The rest of a run, or all of it if none was begun; see `resume`."""
        if self.ranks.from_first(self.folder is not None and self.folder.has_run):
            return self.resume(as_before=as_before)
        self.display.say(f"There is no run in {self.path} yet: beginning one.")
        return self.begin()

    def begin(self) -> dict[str, Any]:
        """A run from its beginning; the closing figures."""
        prepared = self._prepare(None)
        with self.ranks.together():
            model, first = self._model(prepared, None)
        with self._ending_well(), deterministic(self.device):
            return self._train(model, first, prepared, None)

    def resume(self, *, as_before: bool) -> dict[str, Any]:
        """The rest of a run; nothing is changed before all that can be refused has been.

        Args:
            as_before: what was found by trying is taken from the run: nobody asked anew.
        """
        path, progress = self.path, None
        with self.ranks.together():
            earlier = EarlierRun.read(path)
            earlier.refuse_drift(self.config)
        if as_before and self.config.training.micro_batch == "auto":
            config = _with_micro_batch(self.config, earlier.config.training.micro_batch)
            return replace(self, config=config).resume(as_before=False)
        same_budget = earlier.has_budget_of(self.config)
        if earlier.is_finished and same_budget:
            self.display.say(f"The run {path} is finished; a larger budget would go on with it.")
            return {**earlier.last_line, "output": str(path)}
        with _written_to(path):  # damaged checkpoints are renamed
            newest = self.checkpoints.newest_whole(self.display.warn)
        with self.ranks.together():
            if newest is None and (earlier.has_model or earlier.last_line.get("finished")):
                raise RunError(
                    f"The run {path} must have a checkpoint to go on from; it was finished, and "
                    "has none any more. Put checkpoints/ back, or begin anew with --overwrite."
                )
            if newest is not None:
                progress = Progress.read(newest / STATE_FILE)
                earlier.refuse_drift(self.config, progress)
        prepared = self._prepare(newest)
        with self.ranks.together():
            refuse_other_text(earlier.report, prepared.report)
            if progress is not None and not same_budget:
                self._refuse_spent(progress, prepared)
            model, first = self._model(prepared, newest)
            if progress is not None and progress.owes_validation:
                first = self._beginning(model, prepared)
        if not same_budget:
            self.display.say("The budget is another now: the learning rate is laid out over it.")
        with self._ending_well(), deterministic(self.device):
            return self._train(model, first, prepared, newest, resumes=True)

    def _refuse_spent(self, progress: Progress, prepared: Prepared) -> None:
        spent = progress.spent
        budget = Budget.of(self.config.training, prepared.batches.num_examples)
        if budget.progress(spent) == 1:
            raise RunError(
                f"The budget must be over what the run has done, {spent.step:,} steps "
                f"({spent.tokens:,} tokens, {spent.seconds / 60:.1f} minutes); give more."
            )

    def _prepare(self, newest: Path | None) -> Prepared:
        """What training reads.

        The first rank prepares the text, or checks what is there, and shows how far it is; then one
        rank of each other machine does; the others find it prepared and checked.
        """
        preparation, prepared = self.config.preparation, None
        own_turn = 0 if self.ranks.is_first else 1 if local_rank() == 0 else 2
        for turn in range(3 if self.ranks.size > 1 else 1):
            with self.ranks.together(is_long=True):
                if turn == own_turn:
                    prepared = prepare(
                        preparation if newest is None else with_tokenizer_of(preparation, newest),
                        self.config.data,
                        batch_size=self.config.training.batch_size,
                        seed=self.config.training.seed,
                        ranks=self.ranks,
                        display=self.display,
                        checks=own_turn < 2,
                    )
        assert prepared is not None
        digests = prepared.report["sha256"]
        those_of_first = self.ranks.from_first(digests)
        with self.ranks.together():
            if digests != those_of_first:
                raise DataError("All ranks must have the same text; this one has another.")
        return prepared

    def _model(
        self, prepared: Prepared, newest: Path | None
    ) -> tuple[Encoder, FirstWeights | None]:
        """The network, and what it begins with; None if it goes on from a checkpoint."""
        rows = embedding_rows(self.config, prepared.tokenizer, newest)
        model = build(self.config.model, rows, objective_of(self.config.data.objective).heads)
        if newest is not None:
            return model, None
        return model, FirstWeights.read(model, self.config, prepared)

    def _beginning(self, model: Encoder, prepared: Prepared) -> FirstWeights | None:
        """What the run began with, should the validation that is owed condemn its checkpoint.

        None if other checkpoints are there to go back to, or it cannot be read any more.
        """
        if len(list_checkpoints(self.path)) == 1:
            with suppress(BertsmithError):
                return FirstWeights.read(model, self.config, prepared)
        return None

    def _fitted(self, parallel: Parallel) -> PretrainConfig:
        """The settings with the micro-batch that fits, as they are written down."""
        config = self.config
        if config.training.micro_batch != "auto":
            return config
        precision = config.training.precision
        fits = fitting_micro_batch(
            parallel, config, self.device, lambda: autocast(self.device, precision)
        )
        return _with_micro_batch(config, fits)

    @contextmanager
    def _ending_well(self) -> Iterator[None]:
        """Say what a signal, or a disk that does not take what is written, leaves behind."""
        path = self.path
        try:
            with _written_to(path):
                yield
        except RunStopped as stopped:
            newest = self.checkpoints.newest()
            kept = f"{newest} is written" if newest else "there is no checkpoint yet"
            raise RunStopped(
                stopped.by,
                f"stopped by {stopped.by.name}; {kept}. To go on:\n"
                f"bertsmith pretrain --resume --output {shell_word(path)}",
            ) from None

    def _train(
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
        bar, curves = ProgressBar(self.display), self._curves()
        num_parameters = sum(p.numel() for p in model.parameters())
        parallel, config = self._on_device(model)
        stop = StopRequest()
        engine = self._engine(parallel, config, prepared, stop, num_parameters)
        self.checkpoints.only_while(prepared.store.refuse_changed)
        if self.folder is not None and not resumes:
            self.folder.begin(to_toml(config), report_json(prepared.report))
        evaluator = self._evaluator(parallel, prepared, stop)
        with stop.heard(), self._observers(bar, *curves) as observers:
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
                reproducibility_settings=held(config),
                phase=self.clock or unmeasured,
            )
            trainer.begin(newest)
            if resumes:
                self._say_resumed(trainer, config)
            with bar.shown():
                trainer.train()
            # What is left can be done again in a moment: a signal need not wait for it.
            stop.leave_at_once()
            closing = closing_figures(
                trainer, evaluator, config, num_parameters=num_parameters, clock=self.clock
            )
            self._save_model(trainer)
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
        is_compiled = isinstance(engine, CompiledEngine)
        how = f"{micro_batch:,} tokens at once"
        how += ", deterministic" if self.device.type == "cuda" else ""
        how += ", compiled" if is_compiled else ""
        self.display.say(
            f"Model: {config.preset}, {num_parameters:,} parameters, "
            f"on {describe_devices(self.device, self.ranks)}; {how}."
        )
        if is_compiled:
            self.display.say("The first step compiles, which takes up to a minute.")
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

    def _say_resumed(self, trainer: Trainer, config: PretrainConfig) -> None:
        """Write down the settings that the run goes on with, and say from where.

        Not before `Trainer.begin`: the last line of metrics.jsonl, which it removes, may say that
        the run is finished.
        """
        if self.folder is not None:
            self.folder.go_on(to_toml(config))
        step = trainer.progress.spent.step
        self.display.say(f"Going on with {self.path} after step {step:,}.")

    def _save_model(self, trainer: Trainer) -> None:
        """Write the last weights as a Hugging Face model; every rank has a part in gathering."""
        snapshot = Snapshot.of(trainer.model, trainer.tokenizer, keeps=self.ranks.is_first)
        if self.ranks.is_first:
            with whole_folder(self.path / MODEL_FOLDER) as folder:
                snapshot.write(folder)

    def _curves(self) -> list[Observer]:
        """What draws the curves, if the first rank can."""
        if not self.ranks.is_first:
            return []
        if is_installed("curves"):
            return [CurvesDrawer(self.path, self.display)]
        self.display.warn(f"No curves are drawn; matplotlib draws them: {command_for('curves')}.")
        return []

    @contextmanager
    def _observers(self, *others: Observer) -> Iterator[Observers]:
        """What is told of the training: metrics.jsonl and `others`; nothing but the first rank."""
        if not self.ranks.is_first:
            yield Observers()
            return
        with MetricsFile(self.path) as file:
            yield Observers([MetricsWriter(file, self.display.warn), *others])


@contextmanager
def _written_to(run: Path) -> Iterator[None]:
    """What the system refuses to write inside is turned into an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Cannot write to {run}: {error.strerror or error}. "
            "Checkpoints that are there are whole; --resume goes on from the last one."
        ) from error


def _with_micro_batch(config: PretrainConfig, tokens: int | Literal["auto"]) -> PretrainConfig:
    """`config` with so many tokens at once."""
    return replace(config, training=replace(config.training, micro_batch=tokens))


def _refuse_unclear(*, resume: bool, overwrite: bool, output: Path | None) -> None:
    """Raise `RunError` if it is not clear which run is meant, or what becomes of it."""
    if resume and overwrite:
        raise RunError("A run is resumed or replaced; give --resume or --overwrite, not both.")
    if resume and output is None:
        raise RunError("--resume needs the folder of the run to go on with; give --output.")
    if may_be_restarted() and output is None:
        raise RunError("A launcher that restarts must find the run again; give --output.")


def _refuse_different(config: PretrainConfig, kind: torch.device, ranks: Ranks) -> None:
    """Raise `RunError` if another rank was started with other settings than the first one."""
    own = {name: str(value) for name, value in held(config).items()}
    own |= {name: str(value) for name, value in asdict(config.training).items()}
    own["device"] = kind.type
    of_first = ranks.from_first(own)
    with ranks.together():
        if changes := drift(of_first, own, ("on rank 0", "here")):
            raise RunError(
                f"All ranks must have the same settings; got {', '.join(changes)}. Start all of "
                "them with the same command."
            )


def _claimed(
    path: Path, config: PretrainConfig, ranks: Ranks, *, overwrite: bool, resume: bool
) -> RunFolder | None:
    """The claim on the folder of a run, which the first rank has.

    Raises:
        RunError: it may not be used.
    """
    with ranks.together():
        _refuse_own_beginning(config, path)
        return RunFolder(path, overwrite=overwrite, resume=resume) if ranks.is_first else None


def _refuse_own_beginning(config: PretrainConfig, output: Path) -> None:
    """Raise `RunError` if the model to begin from lies where the run is written."""
    begins_from = config.training.init_from
    if begins_from is not None and Path(begins_from).is_relative_to(output.resolve()):
        raise RunError(
            f"The output {output} must be another folder than the model that is gone on from, "
            f"{begins_from}; name another with --output."
        )


def _settled(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """`config` with what was left open filled in, as it is written down to be repeated.

    Paths are made absolute; a config built by hand without a budget gets one epoch; the precision
    is set, because sums round by it (as by the micro-batch, which is set when the model is there).
    """
    training = config.training
    if all(getattr(training, name) is None for name in BUDGETS):
        training = replace(training, epochs=1.0)
    if training.precision == "auto":  # a resumed run computes as before, whatever its device
        is_half = compute_dtype(device, "auto") == torch.bfloat16
        training = replace(training, precision="bfloat16" if is_half else "float32")
    if training.init_from is not None:
        training = replace(training, init_from=str(Path(training.init_from).resolve()))
    preparation = with_absolute_paths(config.preparation)
    return replace(config, preparation=preparation, training=training)
