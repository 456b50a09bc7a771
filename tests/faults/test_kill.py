"""A run that is killed and resumed ends as if nothing had happened, byte for byte."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from bertsmith.durable import damage
from bertsmith.saved.locate import list_checkpoints
from tests.support.faults import KILL, Ended, Machine, begin_arguments, points, resume_arguments
from tests.support.runs import Result, result_of

Whole = tuple[Result, int, int]


def kill_and_resume(
    machine: Machine, whole: Whole, corpus: Path, run: Path, *, under: str, at: int
) -> None:
    """Kill a run at its change number `at` of the folder; check what is there; go on; compare."""
    died = machine.run(*begin_arguments(corpus, run), under=run / under, at=at, error=KILL)
    assert died.status == -signal.SIGKILL, (at, died)
    for checkpoint in list_checkpoints(run):
        assert damage(checkpoint) is None, (at, checkpoint)
    if not (run / "config.toml").exists():  # killed before the run was written down
        ended = machine.run(*begin_arguments(corpus, run), "--resume", under=run)
    else:
        ended = machine.run(*resume_arguments(run), under=run)
    if ended.status and not (run / "corpus.json").exists():
        ended = machine.run(*begin_arguments(corpus, run), "--resume", under=run)
    assert ended.status == 0, (at, ended)
    assert result_of(run) == whole[0], at
    assert not list(run.rglob("*.part")) + list(run.rglob("*.old")), at


def test_killed_at_a_handful_of_points(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path
) -> None:
    for under, calls, number in (("", whole[1], 2), ("checkpoints", whole[2], 3)):
        for at in points(calls, number):
            run = tmp_path / f"{under}{at}"
            kill_and_resume(machine, whole, text_file, run, under=under, at=at)


@pytest.mark.slow
def test_killed_at_every_change_of_the_checkpoints(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path
) -> None:
    calls = whole[2]
    assert calls >= 50
    for at in range(1, calls + 1):
        kill_and_resume(machine, whole, text_file, tmp_path / str(at), under="checkpoints", at=at)


@pytest.mark.slow
def test_killed_at_many_other_changes(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path
) -> None:
    for at in points(whole[1], 40):
        kill_and_resume(machine, whole, text_file, tmp_path / str(at), under="", at=at)


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    for number in range(12):
        run = tmp_path / str(number)
        machine.run(*begin_arguments(text_file, run), under=run, alarm=draw.uniform(0.05, 0.8))
        for _ in range(50):
            alarm = draw.uniform(0.3, 1.5)
            arguments = [*begin_arguments(text_file, run), "--resume"]
            ended = machine.run(*arguments, under=run, alarm=alarm)
            if ended.status == 0:
                break
            assert ended.status == -signal.SIGALRM, ended
        assert result_of(run) == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("change", [["--resume", "--steps", "14"], ["--overwrite"]])
def test_killed_as_it_goes_beyond_or_over_a_finished_run(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path, change: list[str]
) -> None:
    finished = tmp_path / "finished"
    machine.run(*begin_arguments(text_file, finished), under=finished)

    def again(run: Path, at: int) -> Ended:
        arguments = begin_arguments(text_file, run)
        if "--resume" in change:
            arguments = resume_arguments(run)
        return machine.run(*arguments, *change, under=run, at=at)

    undisturbed = Path(shutil.copytree(finished, tmp_path / "undisturbed"))
    ended = again(undisturbed, 0)
    assert ended.status == 0, ended
    for at in points(ended.calls, 40):
        run = Path(shutil.copytree(finished, tmp_path / str(at)))
        assert again(run, at).status == -signal.SIGKILL
        ended = again(run, 0)
        assert ended.status == 0, (at, ended)
        assert result_of(run) == result_of(undisturbed), at
