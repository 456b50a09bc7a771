"""The events of a training run, in their order, and what observers may do with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.display import Display
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.reporting import curves
from bertsmith.reporting.metrics_file import MetricsFile, read_metrics
from bertsmith.training.observers import (
    BeginEvent,
    CheckpointEvent,
    CurvesDrawer,
    EndEvent,
    EvaluationEvent,
    MetricsWriter,
    Observer,
    Observers,
    ProgressBar,
    RollbackEvent,
    StepEvent,
)
from bertsmith.training.progress import Progress
from bertsmith.training.run import Run
from tests.support.objective import Losses, losses_of
from tests.support.runs import TINY_RUN


class Recorder(ProgressBar):
    """Notes the events of a run, in the place of its progress bar."""

    events: list[tuple[str, Any]]

    def on_begin(self, event: BeginEvent) -> None:
        self.events.append(("begin", event.progress.spent.step))

    def on_step(self, event: StepEvent) -> None:
        self.events.append(("step", event))

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self.events.append(("evaluation", event))

    def on_rollback(self, event: RollbackEvent) -> None:
        self.events.append(("rollback", event))

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        progress = event.progress
        self.events.append(("checkpoint", (progress.spent.step, progress.metrics_bytes)))

    def on_end(self, event: EndEvent) -> None:
        self.events.append(("end", event))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the runs of the test are told."""
    Recorder.events = []
    monkeypatch.setattr("bertsmith.training.pretrain.ProgressBar", Recorder)
    return Recorder.events


def pretrain(output: Path, corpus: Path, **settings: Any) -> Run:
    return bertsmith.pretrain(corpus, output=output, quiet=True, **{**TINY_RUN, **settings})


def steps_of(events: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """The names of the events, and the step of each."""

    def step(event: Any) -> int:
        if isinstance(event, int):
            return event
        return int(event[0] if isinstance(event, tuple) else event.step)

    return [(name, step(event)) for name, event in events]


def test_events_come_in_order_and_are_the_lines_of_the_metrics(
    events: list[tuple[str, Any]], text_file: Path, tmp_path: Path
) -> None:
    run = pretrain(
        tmp_path / "r", text_file, steps=5, log_every=2, validate_every=2, checkpoint_every=4
    )
    assert steps_of(events) == [
        ("begin", 0),
        *(("step", 2), ("evaluation", 2)),
        *(("step", 4), ("evaluation", 4), ("checkpoint", 4)),
        *(("step", 5), ("evaluation", 5), ("checkpoint", 5)),
        ("end", 5),
    ]
    told = [
        {"step": event.step, **({"finished": True} if name == "end" else {}), **event.figures}
        for name, event in events
        if name in ("step", "evaluation", "end")
    ]
    assert told == read_metrics(tmp_path / "r")
    assert {key: run.metrics[key] for key in events[-1][1].figures} == events[-1][1].figures


def test_a_step_event_says_how_far_the_run_is(
    events: list[tuple[str, Any]], text_file: Path, tmp_path: Path
) -> None:
    pretrain(tmp_path / "r", text_file, steps=None, epochs=2.0)
    found = [event for name, event in events if name == "step"]
    assert [event.share_spent for event in found] == [
        n / len(found) for n in range(1, len(found) + 1)
    ]
    assert found[-1].epoch >= 2.0
    assert found[-2].epoch < 2.0
    assert not any(event.is_stopping for event in found)


def test_metrics_are_on_disk_up_to_a_checkpoint(
    events: list[tuple[str, Any]], text_file: Path, tmp_path: Path
) -> None:
    pretrain(tmp_path / "r", text_file, steps=4, checkpoint_every=2)
    lines = (tmp_path / "r" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lengths = {step: length for name, (step, length) in (e for e in events if e[0] == "checkpoint")}
    until_2 = [line for line in lines if line.startswith((b'{"step": 1,', b'{"step": 2,'))]
    assert lengths == {2: len(b"".join(until_2)), 4: len(b"".join(lines[:-1]))}


def test_a_rollback_is_told_after_the_state_that_it_went_back_to(
    events: list[tuple[str, Any]],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, calls = losses_of, 0

    def spoiled(model: Bert, batch: Batch, key: int) -> Losses:
        nonlocal calls
        calls += 1
        found = losses(model, batch, key)
        return Losses(found.mlm * float("nan"), found.nsp) if calls == 4 else found

    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(spoiled))
    pretrain(tmp_path / "r", text_file, steps=4, checkpoint_every=2, micro_batch=1000)
    names = [event for event in steps_of(events) if event[0] != "evaluation"]
    place = names.index(("begin", 2))
    assert names[:place] == [("begin", 0), ("step", 1), ("step", 2), ("checkpoint", 2), ("step", 3)]
    assert names[place + 1 : place + 4] == [("rollback", 2), ("step", 3), ("step", 4)]
    (event,) = (event for name, event in events if name == "rollback")
    assert (event.rolled_back_from, event.skipped_batch, event.rollbacks) == (4, 3, 1)


def test_the_time_of_an_observer_is_no_training_time(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on in the forward pass (2 s) and in the observer (100 s) alone."""
    now, losses = 0.0, losses_of

    class Slow(ProgressBar):
        def on_step(self, event: object) -> None:
            nonlocal now
            now += 100.0

        on_evaluation = on_checkpoint = on_step

    def timed(model: Bert, batch: Batch, key: int) -> Losses:
        nonlocal now
        now += 2.0
        return losses(model, batch, key)

    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(timed))
    monkeypatch.setattr("bertsmith.training.pretrain.ProgressBar", Slow)
    monkeypatch.setattr("bertsmith.training.trainer.time.perf_counter", lambda: now)
    run = pretrain(tmp_path / "r", text_file, steps=6, checkpoint_every=3, micro_batch=1000)
    batch_size = TINY_RUN["batch_size"]
    assert run.metrics["first_step_seconds"] == 2.0
    assert run.metrics["sentence_pairs_per_second"] == batch_size / 2.0
    lines = [line for line in read_metrics(tmp_path / "r") if "learning_rate" in line]
    assert [line["sentence_pairs_per_second"] for line in lines] == [batch_size / 2.0] * 6


def test_the_line_that_says_finished_is_written_last(tmp_path: Path) -> None:
    class Failing(Observer):
        def on_end(self, event: EndEvent) -> None:
            raise OSError("no space")

    with MetricsFile(tmp_path) as file:
        told = Observers([MetricsWriter(file, print), Failing()])
        told.on_step(_step_event(1))
        with pytest.raises(OSError, match="no space"):
            told.on_end(EndEvent(step=1, figures={}))
    assert read_metrics(tmp_path) == [{"step": 1, "mlm_loss": 1.0}]


def test_lost_lines_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    progress = Progress(metrics_bytes=100)
    with MetricsFile(tmp_path) as file:
        MetricsWriter(file, said.append).on_begin(BeginEvent(progress=progress))
    assert "lines of it are lost" in said[0]


def _step_event(step: int, *, is_stopping: bool = False) -> StepEvent:
    return StepEvent(
        step=step,
        epoch=0.5,
        share_spent=0.5,
        figures={"mlm_loss": 1.0},
        is_stopping=is_stopping,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[float], list[object]]]:
    """The clock, which the test sets, and what was drawn (5 s each)."""
    now: list[float] = [0.0]
    pictures: list[object] = []

    def save(run: Path, closing: object = None) -> None:
        pictures.append(closing)
        now[0] += 5.0

    monkeypatch.setattr(curves, "save_curves", save)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now, pictures


def test_curves_are_drawn_now_and_then_but_not_before_a_stop(
    drawn: tuple[list[float], list[object]], tmp_path: Path
) -> None:
    now, pictures = drawn
    drawer = CurvesDrawer(tmp_path, Display(quiet=True))
    drawer.on_step(_step_event(1))
    assert pictures == []
    now[0] = 10.0
    drawer.on_step(_step_event(2, is_stopping=True))
    assert pictures == []
    drawer.on_step(_step_event(2))
    assert pictures == [None]
    now[0] = 15.0 + 5.0 / 0.02 - 1  # drawing takes a fiftieth of the time at most
    drawer.on_evaluation(EvaluationEvent(step=3, figures={}))
    assert pictures == [None]
    now[0] += 1
    drawer.on_evaluation(EvaluationEvent(step=4, figures={}))
    assert pictures == [None, None]
    drawer.on_end(EndEvent(step=4, figures={"mlm_loss": 1.0}))
    assert pictures[2:] == [{"step": 4, "mlm_loss": 1.0}]
