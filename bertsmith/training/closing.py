"""The closing figures of a run: losses, throughput, utilisation, and the whole validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bertsmith.architectures import architecture_of
from bertsmith.config import PretrainConfig
from bertsmith.errors import DivergenceError
from bertsmith.hardware.device import compute_dtype, describe_device, peak_bytes
from bertsmith.hardware.rate import matrix_product_rate
from bertsmith.ranks import Ranks
from bertsmith.training.evaluator import HeldOutEvaluator
from bertsmith.training.phases import PhaseClock
from bertsmith.training.trainer import Trainer

_SECONDS_AGAIN = 3.0  # for a measurement that the steps have proved wrong


def closing_figures(
    trainer: Trainer,
    evaluator: HeldOutEvaluator | None,
    config: PretrainConfig,
    *,
    num_parameters: int,
    clock: PhaseClock | None,
) -> dict[str, Any]:
    """The figures of a run whose budget is spent, by name, as its last line of metrics has them.

    Every rank calls it, and the validation split is evaluated here.

    Args:
        trainer: of the run.
        evaluator: of its validation split; None: it has none.
        config: all settings.
        num_parameters: of the network.
        clock: has measured the parts of the steps; None: nobody asked for them.

    Raises:
        DivergenceError: the validation loss is not finite.
    """
    figures = {
        **_of_training(trainer, num_parameters),
        **_utilisation(trainer, config),
        "max_length": config.data.max_length,
        **_of_validation(trainer, evaluator),
    }
    if (marks := trainer.word_marks) is not None and marks.marks:
        figures["checkpoints_at_words"] = trainer.progress.checkpoints_at_words
        words, made = marks.words(trainer.progress.spent), trainer.progress.checkpoints_at_words
        if missed := [f"{mark:,}" for mark in marks.marks if str(mark) not in made]:
            trainer.display.warn(
                f"There is no checkpoint at {', '.join(missed)} words: the run read {words:,.0f}, "
                "or had read more when that was asked for."
            )
    if clock is not None:
        figures["phase_seconds"] = clock.parts(trainer.seconds)
    return figures


def describe_devices(device: torch.device, ranks: Ranks) -> str:
    """As the closing line says it: `[cpu]`, `2 × [cuda: NVIDIA H200]`."""
    name = describe_device(device)
    return name if ranks.size == 1 else f"{ranks.size} × {name}"


def _of_training(trainer: Trainer, num_parameters: int) -> dict[str, Any]:
    # A run of one step has no other steps to time.
    spent, totals = trainer.progress.spent, trainer.progress.totals
    timed = totals.timed if totals.timed.num_tokens else totals.closing
    return {
        **totals.closing.means(trainer.parallel.objective),
        **timed.throughput(),
        "first_step_seconds": totals.first_step_seconds,
        "steps": spent.step,
        "pairs": spent.pairs,
        "tokens": spent.tokens,
        "seconds": spent.seconds,
        "cut_pairs": totals.cut_pairs,
        "cut_tokens": totals.cut_tokens,
        "rollbacks": len(trainer.progress.skipped),
        "parameters": num_parameters,
        "vocabulary_entries": trainer.tokenizer.vocab_size,
        "peak_memory_bytes": int(trainer.ranks.gather([peak_bytes(trainer.device)]).max()),
        "device": describe_devices(trainer.device, trainer.ranks),
    }


def _utilisation(trainer: Trainer, config: PretrainConfig) -> dict[str, float | None]:
    """What share of the machine's matrix-product rate the steps used; None: that was not found out.

    Where the steps did more than that rate, other work had slowed it: it is measured again, longer.
    """
    totals = trainer.progress.totals
    timed = totals.timed if totals.timed.num_tokens else totals.closing
    architecture = architecture_of(config.model.architecture)
    flops = architecture.training_flops(config.model, trainer.tokenizer.vocab_size, timed)
    rate = float(trainer.ranks.gather([flops / max(timed.seconds, 1e-9)])[0, 0])
    dtype = compute_dtype(trainer.device, config.training.precision)
    peak = float(trainer.ranks.gather([matrix_product_rate(trainer.device, dtype)]).sum())
    if rate > peak:
        again = matrix_product_rate(trainer.device, dtype, seconds=_SECONDS_AGAIN)
        peak = max(peak, float(trainer.ranks.gather([again]).sum()))
    return {
        "flops_per_second": rate,
        "peak_flops_per_second": peak,
        "share_of_peak": rate / peak if rate <= peak else None,
    }


def _of_validation(
    trainer: Trainer, evaluator: HeldOutEvaluator | None
) -> Mapping[str, float | int | None]:
    """Figures over all of the validation split; empty if there is none."""
    if evaluator is None:
        trainer.display.say("No validation: no pair is held out.")
        return {}
    found = evaluator.evaluate_all(trainer.engine.micro_batch)
    if not found.is_finite:
        raise trainer.ranks.of_all(
            DivergenceError(
                "The validation loss at the end is not a finite number. "
                "Begin another run with a lower --learning-rate."
            )
        )
    return found.metrics()
