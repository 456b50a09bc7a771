"""A whole run: prepare, train, validate, save, draw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import BUDGETS, PretrainConfig, to_toml
from bertsmith.corpus import absolute_names
from bertsmith.data.store import log_frequencies
from bertsmith.errors import RunError
from bertsmith.evaluation.held_out import evaluate
from bertsmith.model.bert import Bert
from bertsmith.model.device import (
    autocast,
    choose_device,
    compute_dtype,
    default_micro_batch_size,
    describe_device,
    keep_freed_memory,
)
from bertsmith.model.flops import matrix_product_rate, training_flops
from bertsmith.model.hugging_face import save_model
from bertsmith.model.locate import MODEL_FOLDER
from bertsmith.report.metrics_file import MetricsFile
from bertsmith.training.checkpoint import whole_folder
from bertsmith.training.display import Display
from bertsmith.training.loop import Loop
from bertsmith.training.phases import PhaseClock, describe, unmeasured
from bertsmith.training.prepare import Prepared, prepare, report_json
from bertsmith.training.run_folder import RunFolder, default_output


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
        lines = [
            f"MLM loss {m['mlm_loss']:.3f}, NSP loss {m['nsp_loss']:.3f}",
            f"{m['sentence_pairs_per_second']:.1f} sentence pairs/sec on {m['device']}",
            f"{m['tokens_per_second']:,.0f} tokens/sec, {m['share_of_peak']:.0%} of what matrix "
            f"products alone would allow here ({m['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s)",
        ]
        if "validation_mlm_loss" in m:
            lines.append(
                f"validation: MLM loss {m['validation_mlm_loss']:.3f}, "
                f"MLM accuracy {m['validation_mlm_accuracy']:.1%}, "
                f"NSP loss {m['validation_nsp_loss']:.3f}, "
                f"NSP accuracy {m['validation_nsp_accuracy']:.1%}"
            )
        if "phase_seconds" in m:
            lines += describe(m["phase_seconds"])
        return lines


def run_pretraining(
    config: PretrainConfig,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Pretrain a BERT as `config` says.

    Args:
        config: all settings; see `bertsmith.config.resolve`.
        output: the run's folder; default: a fresh one under `runs/`.
        overwrite: replace a run that is in `output`.
        quiet: show no progress.
        profile: measure where the time of a step goes; on a GPU this slows it.

    Raises:
        BertsmithError: something the user can mend; nothing is half-written.
    """
    display = Display(quiet=quiet)
    device = choose_device(config.training.device)
    config = _settled(config, device)
    path = output or default_output(config.data.corpus, config.preset)
    folder = RunFolder(path, overwrite=overwrite)
    try:
        prepared = prepare(
            config.data,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            display=display,
        )
        clock = PhaseClock(device) if profile else None
        metrics = _write_run(config, prepared, folder, device, display, clock)
    finally:
        folder.release()
    return Run(output=path, metrics=metrics)


def _write_run(
    config: PretrainConfig,
    prepared: Prepared,
    folder: RunFolder,
    device: torch.device,
    display: Display,
    clock: PhaseClock | None,
) -> dict[str, Any]:
    """Train, and turn the system's refusals to write into one that names the folder."""
    path = folder.path
    try:
        folder.begin(to_toml(config), report_json(prepared.report))
        return _train(config, prepared, path, device, display, clock)
    except OSError as error:
        raise RunError(
            f"Cannot write to {path}: {error.strerror or error}. "
            "Checkpoints that are there are whole."
        ) from error


def _settled(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """`config` with what was left open filled in, as it is written down to be repeated.

    Paths are made absolute; a config built by hand without a budget gets one epoch; the micro-batch
    size is set, because sums round by it.
    """
    training = config.training
    if all(getattr(training, name) is None for name in BUDGETS):
        training = replace(training, epochs=1.0)
    if training.micro_batch_size is None:
        size = default_micro_batch_size(device, config.model, config.data.max_length)
        training = replace(training, micro_batch_size=min(size, training.batch_size))
    data = replace(config.data, corpus=absolute_names(config.data.corpus))
    return replace(config, data=data, training=training)


def _train(
    config: PretrainConfig,
    prepared: Prepared,
    run: Path,
    device: torch.device,
    display: Display,
    clock: PhaseClock | None,
) -> dict[str, Any]:
    # Imported here: matplotlib takes most of a second to load, which no one should wait for twice.
    from bertsmith.report.curves import curves_png, save_curves

    model = Bert(config.model, prepared.tokenizer.vocab_size)
    model.initialize(config.training.seed)
    if config.training.mlm_bias_init == "frequency":
        # The head then starts as good as word counts alone can be, and has only context to learn.
        prior = log_frequencies(prepared.batches.store, prepared.tokenizer)
        model.mlm_head.bias.data.copy_(torch.from_numpy(prior))
    model.to(device)
    if device.type == "cpu":
        keep_freed_memory()
    num_parameters = sum(p.numel() for p in model.parameters())
    display.say(
        f"Model: {config.preset}, {num_parameters:,} parameters, on {describe_device(device)}."
    )
    loop = Loop(
        model=model,
        batches=prepared.batches,
        validation=prepared.validation,
        tokenizer=prepared.tokenizer,
        config=config.training,
        run=run,
        device=device,
        micro_batch_size=config.training.micro_batch_size or config.training.batch_size,
        phase=clock or unmeasured,
        draw_curves=lambda: display.picture(lambda: save_curves(run), lambda: curves_png(run)),
    )
    with MetricsFile(run) as metrics:
        loop.train(display, metrics)
        closing = {
            **_closing(loop, num_parameters),
            **_utilisation(loop, config),
            **_validate(loop, config, prepared, display),
        }
        if clock:
            steps = loop.totals.first_step_seconds + loop.totals.timed.seconds
            closing["phase_seconds"] = clock.parts(steps)
        metrics.write(loop.spent.step, {"finished": True, **closing})
    with whole_folder(run / MODEL_FOLDER) as folder:
        save_model(model, prepared.tokenizer, folder)
    save_curves(run)
    display.plot(lambda: curves_png(run))
    return {**closing, "output": str(run)}


def _closing(loop: Loop, num_parameters: int) -> dict[str, Any]:
    # A run of one step has no other steps to time.
    timed = loop.totals.timed if loop.spent.step > 1 else loop.totals.closing
    return {
        **loop.totals.closing.means(),
        **timed.throughput(),
        "first_step_seconds": loop.totals.first_step_seconds,
        "steps": loop.spent.step,
        "pairs": loop.spent.pairs,
        "tokens": loop.spent.tokens,
        "seconds": loop.spent.seconds,
        "cut_pairs": loop.totals.cut_pairs,
        "cut_tokens": loop.totals.cut_tokens,
        "parameters": num_parameters,
        "vocabulary_entries": loop.tokenizer.vocab_size,
        "device": describe_device(loop.device),
    }


def _utilisation(loop: Loop, config: PretrainConfig) -> dict[str, float]:
    """What share of the machine's matrix-product rate the steps used."""
    timed = loop.totals.timed if loop.spent.step > 1 else loop.totals.closing
    flops = training_flops(config.model, loop.tokenizer.vocab_size, timed)
    rate = flops / max(timed.seconds, 1e-9)
    peak = matrix_product_rate(loop.device, compute_dtype(loop.device, config.training.precision))
    return {
        "flops_per_second": rate,
        "peak_flops_per_second": peak,
        "share_of_peak": rate / peak,
    }


def _validate(
    loop: Loop, config: PretrainConfig, prepared: Prepared, display: Display
) -> dict[str, float | int]:
    """Figures over all of the validation split; empty if there is none."""
    if prepared.validation is None:
        display.say("No validation: no pair is held out.")
        return {}
    with (
        display.stage("Validating") as progress,
        autocast(loop.device, config.training.precision),
    ):
        return evaluate(
            loop.model,
            prepared.validation,
            device=loop.device,
            micro_batch_size=loop.micro_batch_size,
            progress=progress,
        ).metrics()
