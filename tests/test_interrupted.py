"""Signals in the midst of a validation or a step, and validation beside a budget of time."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.data.batches import Batches
from bertsmith.display import Display
from bertsmith.errors import DivergenceError, RunStopped
from bertsmith.evaluation import held_out
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.objectives.rows import RowObjective
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.saved.locate import list_checkpoints, step_of
from bertsmith.training.run import Run
from bertsmith.training.validation_time import ValidationTime
from tests.support.objective import Losses, losses_of
from tests.support.runs import TINY_RUN, result_of


def slow(*values: Any) -> list[Any]:
    """Parameters of `make test-slow`."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


OFTEN: dict[str, Any] = {
    "checkpoint_every": 3,
    "validate_every": 2,
    "micro_batch": 100,
    "log_every": 2,
}


def pretrain(output: Path, corpus: Path, **settings: Any) -> Run:
    return bertsmith.pretrain(corpus, output=output, quiet=True, **{**TINY_RUN, **settings})


@pytest.fixture
def undisturbed(text_file: Path, tmp_path: Path) -> Path:
    return pretrain(tmp_path / "undisturbed", text_file, steps=6, **OFTEN).output


def on_call(number: int, action: Callable[[], None], plain: Callable[..., Any]) -> Any:
    """`plain`, with `action` before it at the call with this number."""
    calls = 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return plain(*args, **options)

    return wrapped


def on_the_way(found: Any) -> Any:
    """`evaluate` of `found`, but for the one of all pairs at the end."""

    def evaluate(*args: Any, **options: Any) -> held_out.Evaluation:
        chosen = held_out.evaluate if options["most_pairs"] is None else found
        made: held_out.Evaluation = chosen(*args, **options)
        return made

    return evaluate


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [2, *slow(1, 3)])
def test_a_validation_is_left_and_made_by_who_goes_on(
    number: int,
    undisturbed: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At steps 2, 4 and 6, the last one; and again while it is made up for."""
    run, judged = tmp_path / "r", RowObjective.score
    with monkeypatch.context() as patch:
        evaluate = held_out.evaluate

        calls = 0

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                patch.setattr(RowObjective, "score", on_call(2, ask_to_stop, judged))
            return evaluate(*args, **options)

        patch.setattr("bertsmith.training.evaluator.evaluate", on_the_way(counted))
        with pytest.raises(RunStopped):
            pretrain(run, text_file, steps=6, **OFTEN)
    assert list_checkpoints(run)[-1].name == f"step-{2 * number:08}"
    lines = read_metrics(run)
    assert lines[-1]["step"] == 2 * number
    assert "validation_mlm_loss" not in lines[-1]
    with monkeypatch.context() as patch:
        patch.setattr(RowObjective, "score", on_call(2, ask_to_stop, judged))
        with pytest.raises(RunStopped):
            bertsmith.pretrain(output=run, resume=True, quiet=True)
    assert len(read_metrics(run)) == len(lines)
    bertsmith.pretrain(output=run, resume=True, quiet=True)
    assert result_of(run) == result_of(undisturbed)


@pytest.mark.parametrize("step", [4, *slow(1, 5)])
def test_a_step_is_left_between_micro_batches(
    step: int,
    undisturbed: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, plain, calls = tmp_path / "r", losses_of, 0

    def losses(model: Bert, batch: Batch, key: int) -> Losses:
        nonlocal calls
        calls += 1
        return plain(model, batch, key)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(losses))
        pretrain(tmp_path / "counted", text_file, steps=6, **OFTEN)
    a_step = calls // 6
    assert a_step >= 3
    with monkeypatch.context() as patch:
        number = (step - 1) * a_step + 2
        patch.setattr(
            MaskedLMAndNextSentence, "losses", staticmethod(on_call(number, ask_to_stop, plain))
        )
        with pytest.raises(RunStopped):
            pretrain(run, text_file, steps=6, **OFTEN)
    names = [folder.name for folder in list_checkpoints(run)]
    assert names[-1:] == ([f"step-{step - 1:08}"] if step > 1 else [])
    bertsmith.pretrain(text_file, output=run, resume=True, quiet=True, **TINY_RUN, steps=6, **OFTEN)
    assert result_of(run) == result_of(undisturbed)


COINCIDING: dict[str, Any] = {
    "checkpoint_every": 2,
    "validate_every": 2,
    "micro_batch": 100,
    "log_every": 2,
}


def weights_of(model: Bert) -> str:
    raw = b"".join(value.detach().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(raw).hexdigest()


def condemning(condemned: set[str], seen: list[str], *, interrupted_at: int = 0) -> Any:
    """`evaluate`, whose loss is not finite on some weights; in one call a signal comes."""

    def evaluate(model: Bert, *args: Any, **options: Any) -> held_out.Evaluation:
        seen.append(weights_of(model))
        if len(seen) == interrupted_at:
            ask_to_stop()
        found = held_out.evaluate(model, *args, **options)
        return (
            replace(found, figures={**found.figures, "mlm_loss": float("nan")})
            if seen[-1] in condemned
            else found
        )

    return evaluate


def steps_saved(run: Path) -> list[int]:
    return [step_of(folder) for folder in list_checkpoints(run)]


@pytest.fixture
def weights_validated(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Digests of the weights at the validations after steps 2, 4 and 6."""
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.training.evaluator.evaluate", on_the_way(condemning(set(), seen)))
        pretrain(tmp_path / "plain", text_file, steps=6, **COINCIDING)
    return seen


@pytest.mark.parametrize(
    ("number", "keep"), [(2, 1), (3, 3), *slow((1, 1), (1, 3), (2, 3), (3, 1))]
)
def test_weights_that_their_validation_condemns_are_not_gone_back_to(
    number: int,
    keep: int,
    weights_validated: list[str],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At steps 2 (back to the beginning), 4 and 6; a signal had come into that validation."""
    settings = {**COINCIDING, "steps": 6, "keep_checkpoints": keep}
    condemned = {weights_validated[number - 1]}

    def evaluate(*, interrupted_at: int) -> None:
        found = condemning(condemned, [], interrupted_at=interrupted_at)
        monkeypatch.setattr("bertsmith.training.evaluator.evaluate", on_the_way(found))

    evaluate(interrupted_at=0)
    undisturbed = pretrain(tmp_path / "undisturbed", text_file, **settings)
    run = tmp_path / "r"
    for interrupted_at in (number, 1):
        evaluate(interrupted_at=interrupted_at)
        with pytest.raises(RunStopped):
            pretrain(run, text_file, resume=True, **settings)
        before = [2 * n for n in range(1, number)][-keep:]
        assert steps_saved(run) == [*before, 2 * number]
    evaluate(interrupted_at=0)
    bertsmith.pretrain(output=run, resume=True, quiet=True)
    assert result_of(run) == result_of(undisturbed.output)
    assert undisturbed.metrics["rollbacks"] == 1
    assert steps_saved(run) == steps_saved(undisturbed.output)


def test_the_last_good_checkpoint_is_none_that_was_condemned(
    weights_validated: list[str],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**COINCIDING, "steps": 6, "keep_checkpoints": 1, "max_rollbacks": 0}
    run, condemned = tmp_path / "r", {weights_validated[1]}
    found = condemning(condemned, [], interrupted_at=2)
    monkeypatch.setattr("bertsmith.training.evaluator.evaluate", on_the_way(found))
    with pytest.raises(RunStopped):
        pretrain(run, text_file, **settings)
    for _ in range(2):
        with pytest.raises(DivergenceError, match=r"At step 4 .*good checkpoint is .*-00000002"):
            bertsmith.pretrain(output=run, resume=True, quiet=True)
        assert steps_saved(run) == [2]


@pytest.mark.parametrize("keep", [3, *slow(1)])
def test_a_rollback_behind_a_validation_that_was_left_is_the_same(
    keep: int, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the validation after step 4, and in step 6 the loss diverges."""
    losses, make, numbers = losses_of, Batches.batch, [0]

    def batch(batches: Batches, number: int) -> Batch:
        numbers.append(number)
        return make(batches, number)

    def spoiled(model: Bert, batch: Batch, key: int) -> Losses:
        found = losses(model, batch, key)
        return Losses(found.mlm * (float("nan") if numbers[-1] == 5 else 1.0), found.nsp)

    monkeypatch.setattr(Batches, "batch", batch)
    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(spoiled))
    settings = {**COINCIDING, "steps": 8, "keep_checkpoints": keep}
    undisturbed = pretrain(tmp_path / "undisturbed", text_file, **settings)
    assert undisturbed.metrics["rollbacks"] == 1
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "bertsmith.training.evaluator.evaluate",
            on_the_way(condemning(set(), seen, interrupted_at=2)),
        )
        with pytest.raises(RunStopped):
            pretrain(tmp_path / "r", text_file, **settings)
        bertsmith.pretrain(output=tmp_path / "r", resume=True, quiet=True)
    assert result_of(tmp_path / "r") == result_of(undisturbed.output)
    assert steps_saved(tmp_path / "r") == steps_saved(undisturbed.output)
    assert len(seen) == 1 + 4, "each is made once, but for the one that was left"


def test_validation_waits_for_its_tenth_of_the_time() -> None:
    clock = ValidationTime()
    # A pair takes 0.1 s to train on, so that judging 40 may take 1 s.
    assert not clock.allows_another(8.9, pairs=40, seconds_a_pair=0.1)
    assert clock.allows_another(9.1, pairs=40, seconds_a_pair=0.1)
    clock.add(2.0, 12.0)
    assert not clock.allows_another(37.9, pairs=40, seconds_a_pair=0.1)
    assert clock.allows_another(38.1, pairs=40, seconds_a_pair=0.1)


def test_validations_that_waited_do_not_come_in_a_row() -> None:
    clock = ValidationTime()
    clock.add(1.0, 100.0)  # by all the time before, four more would be due
    assert not clock.allows_another(108.9, pairs=1, seconds_a_pair=1.0)
    assert clock.allows_another(109.1, pairs=1, seconds_a_pair=1.0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"minutes": 0.04}, 1),
        pytest.param({"minutes": 0.04, "validate_every": 10**6}, 1, marks=pytest.mark.slow),
        ({"steps": 20}, 10),
    ],
)
def test_slow_validations_are_few_where_the_clock_decides(
    settings: dict[str, Any],
    expected: int,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is taken for a fast one; a second would take over a tenth of the time."""
    calls, evaluate = 0, held_out.evaluate

    def slow(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        time.sleep(0.5 if "minutes" in settings else 0.0)
        return evaluate(*args, **options)

    monkeypatch.setattr("bertsmith.training.evaluator.evaluate", on_the_way(slow))
    run = pretrain(tmp_path / "r", text_file, **settings)
    assert calls == expected
    assert run.metrics["validation_mlm_loss"] > 0


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What is written to standard error is taken for a terminal, whatever ran before."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return monkeypatch


def wait_for(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Until standard error has it; a bar is drawn ten times a second, by a thread."""
    said = ""
    for _ in range(1000):
        said += capsys.readouterr().err
        if text in said:
            return said
        time.sleep(0.01)
    raise AssertionError(f"no {text!r} in {said!r}")


def test_the_bar_says_what_is_done(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display()
    with display.training() as show:
        show(0.5, 1, {"mlm_loss": 1.0, "segments_per_second": 1.0})
        with display.doing("validating") as progress:
            progress(1, 4)
            wait_for("validating 25%", capsys)
        wait_for("training ", capsys)
    capsys.readouterr()
    with display.doing("validating") as progress:
        progress(1, 4)
    assert capsys.readouterr().err == ""


def test_a_narrow_terminal_has_the_share_and_the_time(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setenv("COLUMNS", "50")
    with Display().training() as show:
        show(0.5, 1, {"mlm_loss": 1.0, "nsp_loss": 0.5, "sentence_pairs_per_second": 100.0})
        line = wait_for(" 50%", capsys).rpartition(" 50%")[2]
    assert ":--" in line.partition("…")[0]
