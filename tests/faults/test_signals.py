"""Signals: the step ends, a checkpoint is written, and the way on is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.saved.locate import list_checkpoints
from tests.support.faults import Machine, begin_arguments, resume_arguments
from tests.support.runs import Result, result_of, wait_for_lines

STEPS = 100


@pytest.fixture(scope="module")
def undisturbed(
    machine: Machine, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    run = tmp_path_factory.mktemp("undisturbed") / "r"
    assert machine.run(*begin_arguments(text_file, run, STEPS), under=run).status == 0
    return result_of(run)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGINT", 0, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 0, marks=pytest.mark.slow),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_way_on(
    machine: Machine, undisturbed: Result, text_file: Path, tmp_path: Path, name: str, status: int
) -> None:
    run = tmp_path / "r"
    pid = machine.begin(*begin_arguments(text_file, run, STEPS), under=run)
    wait_for_lines(run, 2)
    os.kill(pid, getattr(signal, name))
    ended = machine.end()
    assert ended.status == status, ended
    *before, line, command = ended.said
    assert before == ["bertsmith: saving; Ctrl-C again leaves at once."] * (name == "SIGINT")
    newest = list_checkpoints(run)[-1]
    assert f"stopped by {name}" in line
    assert str(newest) in line
    assert command == f"bertsmith pretrain --resume --output {run}"
    assert int(newest.name.removeprefix("step-")) >= read_metrics(run)[-1]["step"]
    assert machine.run(*resume_arguments(run), under=run).status == 0
    assert result_of(run) == undisturbed


def test_a_second_interrupt_leaves_at_once(text_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    code = (
        "import sys, time\n"
        "from bertsmith.cli.main import main\n"
        "from bertsmith.objectives.rows import RowObjective\n"
        "def held(*_):\n"
        "    print('held', file=sys.stderr, flush=True)\n"
        "    while True: time.sleep(1)\n"
        "RowObjective.losses = held\n"
        "main(sys.argv[1:])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *begin_arguments(text_file, run, STEPS)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = iter(line for line in process.stderr or () if line.strip())
            assert next(said) == "held\n"
            process.send_signal(signal.SIGINT)
            assert next(said) == "bertsmith: saving; Ctrl-C again leaves at once.\n"
            process.send_signal(signal.SIGINT)
            assert len(list(said)) == 1
        finally:
            process.kill()
    assert process.returncode == 130


@pytest.mark.slow
def test_signals_after_the_first_change_nothing(
    machine: Machine, undisturbed: Result, text_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    pid = machine.begin(*begin_arguments(text_file, run, STEPS), under=run)
    wait_for_lines(run, 2)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        os.kill(pid, number)
    ended = machine.end()
    assert ended.status == 143, ended  # SIGTERM counts, whatever came before it
    assert machine.run(*resume_arguments(run), under=run).status == 0
    assert result_of(run) == undisturbed


@pytest.mark.slow
def test_a_reader_that_left_changes_nothing(text_file: Path, tmp_path: Path) -> None:
    """As `bertsmith … 2>&1 | tee log`, where Ctrl-C ends tee, too."""
    run = tmp_path / "r"
    arguments = [a for a in begin_arguments(text_file, run, 400) if a != "--quiet"]
    code = "import sys; from bertsmith.cli.main import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        wait_for_lines(run, 2)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert list_checkpoints(run)
