"""A whole run, or the rest of one: prepare, train, validate, save, draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from bertsmith.config import BUDGETS, PretrainConfig, drift, held, to_toml
from bertsmith.corpus.standard_input import refuse_standard_input
from bertsmith.data.batches import Batches
from bertsmith.data.store import word_counts
from bertsmith.display import Display, shell_word
from bertsmith.durable import whole_folder
from bertsmith.errors import BertsmithError, DataError, DivergenceError, RunError, RunStopped
from bertsmith.evaluation.held_out import evaluate
from bertsmith.extras import command_for, is_installed
from bertsmith.model.bert import Bert
from bertsmith.model.device import (
    autocast,
    choose_device,
    compute_dtype,
    describe_device,
    deterministic,
    device_of_rank,
    keep_freed_memory,
    peak_bytes,
)
from bertsmith.model.flops import matrix_product_rate, training_flops
from bertsmith.model.hugging_face import Snapshot
from bertsmith.model.locate import MODEL_FOLDER, list_checkpoints
from bertsmith.preparation import report_json, with_absolute_paths, with_tokenizer_of
from bertsmith.ranks import Ranks, is_restarted, joined, local_rank, may_be_restarted
from bertsmith.report.metrics_file import MetricsFile
from bertsmith.training.budget import Budget
from bertsmith.training.checkpoint import STATE_FILE, Checkpoints
from bertsmith.training.compiled import CompiledEngine
from bertsmith.training.earlier import EarlierRun
from bertsmith.training.engine import engine_for
from bertsmith.training.fit import fitting_micro_batch
from bertsmith.training.initial import FirstWeights, embedding_rows
from bertsmith.training.loop import Loop
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

_SECONDS_AGAIN = 3.0  # for a measurement that the steps have proved wrong


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
        has_pairs = "nsp_loss" in m
        has_memory = "peak_memory_bytes" in m  # not of a run that an older version finished
        nsp = f", NSP loss {m['nsp_loss']:.3f}" if has_pairs else ""
        rate = m["sentence_pairs_per_second" if has_pairs else "segments_per_second"]
        lines = [
            f"MLM loss {_number(m['mlm_loss'])}{nsp}",
            f"{rate:.1f} {'sentence pairs' if has_pairs else 'segments'}/sec on {m['device']}",
            f"{m['tokens_per_second']:,.0f} tokens/sec, {_share(m)}"
            + (f"; {m['peak_memory_bytes'] / 1e9:.1f} GB of memory at most" if has_memory else ""),
        ]
        if "validation_mlm_loss" in m:
            masked = "no masked token, since every word is unknown"
            if m["validation_mlm_loss"] is not None:
                masked = (
                    f"MLM loss {m['validation_mlm_loss']:.3f}, "
                    f"MLM accuracy {m['validation_mlm_accuracy']:.1%}"
                )
            lines.append(
                f"validation: {masked}"
                + (
                    f", NSP loss {m['validation_nsp_loss']:.3f}, "
                    f"NSP accuracy {m['validation_nsp_accuracy']:.1%}"
                    if has_pairs
                    else ""
                )
            )
        if "phase_seconds" in m:
            lines += describe(m["phase_seconds"])
        return lines


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
        folder = None
        with ranks.together():
            _refuse_own_beginning(config, path)
            if ranks.is_first:
                folder = RunFolder(path, overwrite=overwrite, resume=resume)
        checkpoints = Checkpoints(
            path,
            keep=config.training.keep_checkpoints,
            keep_every=config.training.keep_every,
            ranks=ranks,
        )
        try:
            has_run = ranks.from_first(folder is not None and folder.has_run)
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
            if resume and not has_run:
                display.say(f"There is no run in {path} yet: beginning one.")
            metrics = job.resume(as_before=restarted) if resume and has_run else job.begin()
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

    def _model(self, prepared: Prepared, newest: Path | None) -> tuple[Bert, FirstWeights | None]:
        """The network, and what it begins with; None if it goes on from a checkpoint."""
        rows = embedding_rows(self.config, prepared.tokenizer, newest)
        model = Bert(self.config.model, rows, judges_pairs=prepared.batches.is_pairs)
        if newest is not None:
            return model, None
        return model, FirstWeights.read(model, self.config, prepared)

    def _beginning(self, model: Bert, prepared: Prepared) -> FirstWeights | None:
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
        model: Bert,
        first: FirstWeights | None,
        prepared: Prepared,
        newest: Path | None,
        *,
        resumes: bool = False,
    ) -> dict[str, Any]:
        """Train from a checkpoint on, or from the beginning; validate, save, draw."""
        run, display, ranks = self.path, self.display, self.ranks
        bar, curves = ProgressBar(display), self._curves()
        model = model.to(self.device)
        model.recomputes = self.config.training.recompute
        if self.device.type == "cpu":
            keep_freed_memory()
        num_parameters = sum(p.numel() for p in model.parameters())

        parallel = Parallel(model, ranks, self.config.training.parallel, self.device)
        config = self._fitted(parallel)
        micro_batch = config.training.micro_batch
        assert isinstance(micro_batch, int)
        stop = StopRequest()
        engine = engine_for(
            parallel,
            config,
            prepared.batches,
            self.device,
            micro_batch=micro_batch,
            phase=self.clock or unmeasured,
            heed=stop.interrupt_if_asked,
        )
        display.say(
            f"Model: {config.preset}, {num_parameters:,} parameters, "
            f"on {_describe(self.device, ranks)}; {micro_batch:,} tokens at once"
            f"{', compiled' if isinstance(engine, CompiledEngine) else ''}."
        )
        self.checkpoints.only_while(prepared.store.refuse_changed)
        if self.folder is not None and not resumes:
            self.folder.begin(to_toml(config), report_json(prepared.report))
        counts = word_counts(prepared.batches.store, prepared.tokenizer)
        with stop.heard(), self._observers(bar, *curves) as observers:
            loop = Loop(
                parallel=parallel,
                first_weights=first,
                batches=prepared.batches,
                validation=prepared.validation,
                tokenizer=prepared.tokenizer,
                config=config.training,
                observer=observers,
                checkpoints=self.checkpoints,
                stop=stop,
                display=display,
                device=self.device,
                engine=engine,
                word_counts=counts,
                held=held(config),
                phase=self.clock or unmeasured,
            )
            loop.begin(newest)
            if resumes:
                # Not before the log is cut: its last line may say that the run is finished.
                if self.folder is not None:
                    self.folder.go_on(to_toml(config))
                display.say(f"Going on with {run} after step {loop.progress.spent.step:,}.")
            with bar.shown():
                loop.train()
            # What is left can be done again in a moment: a signal need not wait for it.
            stop.leave_at_once()
            closing = {
                **_closing(loop, num_parameters),
                **_utilisation(loop, config),
                "max_length": config.data.max_length,
                **_validate(loop, config, prepared.validation, display),
            }
            if self.clock:
                closing["phase_seconds"] = self.clock.parts(loop.seconds)
            snapshot = Snapshot.of(model, prepared.tokenizer, keeps=ranks.is_first)
            if ranks.is_first:
                with whole_folder(run / MODEL_FOLDER) as folder:
                    snapshot.write(folder)
            # What is killed before all observers know of the end is finished again.
            observers.on_end(EndEvent(step=loop.progress.spent.step, figures=closing))
        return {**closing, "output": str(run)}

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


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _describe(device: torch.device, ranks: Ranks) -> str:
    """As the closing line says it: `[cpu]`, `2 × [cuda: NVIDIA H200]`."""
    name = describe_device(device)
    return name if ranks.size == 1 else f"{ranks.size} × {name}"


def _closing(loop: Loop, num_parameters: int) -> dict[str, Any]:
    # A run of one step has no other steps to time.
    spent, totals = loop.progress.spent, loop.progress.totals
    timed = totals.timed if totals.timed.num_tokens else totals.closing
    return {
        **totals.closing.means(),
        **timed.throughput(),
        "first_step_seconds": totals.first_step_seconds,
        "steps": spent.step,
        "pairs": spent.pairs,
        "tokens": spent.tokens,
        "seconds": spent.seconds,
        "cut_pairs": totals.cut_pairs,
        "cut_tokens": totals.cut_tokens,
        "rollbacks": len(loop.progress.skipped),
        "parameters": num_parameters,
        "vocabulary_entries": loop.tokenizer.vocab_size,
        "peak_memory_bytes": int(loop.ranks.gather([peak_bytes(loop.device)]).max()),
        "device": _describe(loop.device, loop.ranks),
    }


def _utilisation(loop: Loop, config: PretrainConfig) -> dict[str, float | None]:
    """What share of the machine's matrix-product rate the steps used; None: that was not found out.

    Where the steps did more than that rate, other work had slowed it: it is measured again, longer.
    """
    totals = loop.progress.totals
    timed = totals.timed if totals.timed.num_tokens else totals.closing
    flops = training_flops(config.model, loop.tokenizer.vocab_size, timed)
    rate = float(loop.ranks.gather([flops / max(timed.seconds, 1e-9)])[0, 0])
    dtype = compute_dtype(loop.device, config.training.precision)
    peak = float(loop.ranks.gather([matrix_product_rate(loop.device, dtype)]).sum())
    if rate > peak:
        again = matrix_product_rate(loop.device, dtype, seconds=_SECONDS_AGAIN)
        peak = max(peak, float(loop.ranks.gather([again]).sum()))
    return {
        "flops_per_second": rate,
        "peak_flops_per_second": peak,
        "share_of_peak": rate / peak if rate <= peak else None,
    }


def _validate(
    loop: Loop, config: PretrainConfig, validation: Batches | None, display: Display
) -> dict[str, float | int | None]:
    """Figures over all of the validation split; empty if there is none."""
    if validation is None:
        display.say("No validation: no pair is held out.")
        return {}
    with (
        display.stage("Validating") as progress,
        autocast(loop.device, config.training.precision),
    ):
        found = evaluate(
            loop.model,
            validation,
            device=loop.device,
            micro_batch=loop.engine.micro_batch,
            ranks=loop.ranks,
            counts=loop.word_counts,
            progress=progress,
        )
    if not found.is_finite:
        raise loop.ranks.of_all(
            DivergenceError(
                "The validation loss at the end is not a finite number. "
                "Begin another run with a lower --learning-rate."
            )
        )
    return found.metrics()
