"""Whole runs on several ranks: the same data, checkpoints that any number goes on from, deaths."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bertsmith import ranks
from bertsmith.config import PreparationConfig
from bertsmith.data.shards import checked_digest
from bertsmith.evaluation import held_out
from bertsmith.preparation import prepare_store
from bertsmith.reporting.metrics_file import read_metrics
from tests.ranks.job import LONGEST, Job, bertsmith, run
from tests.support.ranks import (
    GOES_ON_FROM,
    assert_alike,
    assert_goes_on,
    begin,
    go_on,
)
from tests.support.runs import wait_for_lines


def unfinished(finished: Path, to: Path) -> Path:
    """A copy that ended at an earlier checkpoint."""
    shutil.copytree(finished, to)
    shutil.rmtree(to / "model")
    for checkpoint in (to / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > GOES_ON_FROM:
            shutil.rmtree(checkpoint)
    return to


@pytest.fixture(scope="module")
def alone(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(1, bertsmith, begin(text_file, folder / "run"), logs=folder / "logs")
    return folder / "run"


@pytest.fixture(scope="module")
def of_four(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of four ranks that hold parts of the model."""
    folder = tmp_path_factory.mktemp("four")
    more = ("--parallel", "fsdp")
    run(4, bertsmith, begin(text_file, folder / "run", *more), logs=folder / "logs")
    return folder / "run"


@pytest.mark.parametrize(
    ("size", "kind"), [(2, "ddp"), pytest.param(3, "ddp", marks=pytest.mark.slow)]
)
def test_a_run_is_the_same_on_any_number_of_ranks(
    size: int, kind: str, alone: Path, text_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = run(size, bertsmith, begin(text_file, folder, "--parallel", kind), logs=tmp_path / "logs")
    assert_alike(alone, folder, digits=2e-4)
    assert [job.said(rank) for rank in range(1, size)] == [""] * (size - 1)


@pytest.mark.slow
def test_a_run_that_is_spread_is_the_same(alone: Path, of_four: Path) -> None:
    assert_alike(alone, of_four, digits=2e-4)


@pytest.mark.parametrize(
    ("size", "kind"), [(4, "fsdp"), (1, "ddp"), (2, "fsdp"), (2, "ddp"), (8, "ddp")]
)
@pytest.mark.slow
def test_any_number_of_ranks_goes_on(size: int, kind: str, of_four: Path, tmp_path: Path) -> None:
    folder = unfinished(of_four, tmp_path / "run")
    run(size, bertsmith, go_on(folder, "--parallel", kind), logs=tmp_path / "logs")
    is_same = (size, kind) == (4, "fsdp")
    assert_alike(of_four, folder, digits=0.0 if is_same else 2e-4)


@pytest.mark.slow
def test_ddp_goes_on_to_the_bit(text_file: Path, tmp_path: Path) -> None:
    run(4, bertsmith, begin(text_file, tmp_path / "whole"), logs=tmp_path / "logs")
    folder = unfinished(tmp_path / "whole", tmp_path / "part")
    run(4, bertsmith, go_on(folder), logs=tmp_path / "logs")
    assert_alike(tmp_path / "whole", folder, digits=0.0)


@pytest.mark.parametrize("averaging", ["none", "exponential"])
@pytest.mark.slow
def test_another_number_of_ranks_goes_on(averaging: str, text_file: Path, tmp_path: Path) -> None:
    more = ("--parallel", "fsdp", "--micro-batch", "auto", "--averaging", averaging)
    spread = begin(text_file, tmp_path / "whole", *more)
    run(2, bertsmith, spread, logs=tmp_path / "logs")
    folder = unfinished(tmp_path / "whole", tmp_path / "part")
    run(1, bertsmith, go_on(folder), logs=tmp_path / "logs")
    assert_alike(tmp_path / "whole", folder, digits=2e-4)


def test_an_error_is_said_once(text_file: Path, tmp_path: Path) -> None:
    job = Job(
        3,
        bertsmith,
        begin(text_file, tmp_path / "run", "--batch-size", "2"),
        logs=tmp_path / "logs",
    )
    assert job.end() == [1, 1, 1]
    assert "at least one for each of the 3 ranks" in job.said(0)
    assert [job.said(1), job.said(2)] == ["", ""]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_rank_of_a_machine_checks_the_store_for_all(text_file: Path, tmp_path: Path) -> None:
    config = PreparationConfig(corpus=(str(text_file),), min_frequency=2)
    store = prepare_store(config, tmp_path / "store").path
    arguments = begin(store, tmp_path / "run", steps=2)
    run(3, checking, arguments, str(tmp_path), logs=tmp_path / "logs")
    assert [len((tmp_path / f"checked-{rank}").read_text()) > 0 for rank in range(3)] == [
        *(True, False, False)
    ]
    shard = store / "train" / "000000-000.arrow"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    job = Job(3, bertsmith, begin(store, tmp_path / "other"), logs=tmp_path / "logs")
    assert job.end() == [1, 1, 1]
    assert f"{shard} does not match its checksum" in job.said(0)
    assert [job.said(1), job.said(2)] == ["", ""]
    assert not (tmp_path / "other").exists()


def checking(arguments: list[str], folder: str) -> None:
    """The command line, which writes down the files that are checked, by rank."""
    checked = Path(folder) / f"checked-{os.environ['RANK']}"
    checked.touch()

    def noted(path: Path) -> str:
        with checked.open("a") as stream:
            stream.write(f"{path}\n")
        return checked_digest(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertsmith.data.disk.checked_digest", noted)
        bertsmith(arguments)


def impatient(arguments: list[str]) -> None:
    """The command line, in which a rank that lost another does not wait for the launcher."""
    ranks._SECONDS_TO_BE_ENDED = 0.0
    bertsmith(arguments)


def giving_up_soon(arguments: list[str]) -> None:
    """The same, and it waits three seconds for one that does not answer."""
    ranks._TIMEOUT = timedelta(seconds=3)
    impatient(arguments)


def restarted_in_part(arguments: list[str]) -> None:
    """The command line, started anew; one launcher of two counted that."""
    if os.environ["RANK"] == "1":
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    bertsmith(arguments)


def started_otherwise(arguments: list[str]) -> None:
    """The command line, with another setting on the last of the ranks."""
    other = ["--learning-rate", "0.1"] if os.environ["RANK"] == "2" else []
    bertsmith([*arguments, *other])


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_a_restart_goes_on(
    text_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = begin(text_file, folder, steps=100_000)
    job = Job(2, impatient, arguments, logs=tmp_path / "logs")
    wait_for_lines(folder, 10)
    os.kill(int(job.processes[1].pid or 0), signal.SIGKILL)
    assert job.end() == [1, -signal.SIGKILL]
    assert "rank 0 lost the connection to another rank" in job.said(0)
    assert "Traceback" not in job.said(0)
    # The launcher starts the same command again, and says that it did.
    before = read_metrics(folder)
    again = [*arguments, "--steps", str(max(line["step"] for line in before) + 20)]
    run(2, restarted_in_part, again, logs=tmp_path / "again")
    assert_goes_on(before, folder)


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(text_file: Path, tmp_path: Path) -> None:
    arguments = begin(text_file, tmp_path / "run", steps=100_000)
    job = Job(2, giving_up_soon, arguments, logs=tmp_path / "logs")
    wait_for_lines(tmp_path / "run", 10)
    os.kill(int(job.processes[1].pid or 0), signal.SIGSTOP)
    try:
        job.processes[0].join(LONGEST)
        assert job.processes[0].exitcode == 1
    finally:
        os.kill(int(job.processes[1].pid or 0), signal.SIGKILL)  # a launcher would, too
    job.end()
    assert "rank 0 lost the connection to another rank" in job.said(0)


def test_ranks_with_other_settings_are_refused(text_file: Path, tmp_path: Path) -> None:
    job = Job(3, started_otherwise, begin(text_file, tmp_path / "run"), logs=tmp_path / "logs")
    assert job.end() == [1, 1, 1]
    assert "`learning_rate` (0.003 on rank 0, 0.1 here)" in job.said(0)
    assert [job.said(1), job.said(2)] == ["", ""]
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = Job(2, bertsmith, begin(text_file, folder, steps=100_000), logs=tmp_path / "logs")
    wait_for_lines(folder, 10)
    os.kill(int(job.processes[1].pid or 0), signal.SIGUSR1)
    assert job.end() == [0, 0]
    assert "--resume" in job.said(0)
    assert job.said(1) == ""
    last = max((folder / "checkpoints").iterdir())
    steps = max(line["step"] for line in read_metrics(folder))
    assert int(last.name.removeprefix("step-")) >= steps


def stopped_in_a_validation(arguments: list[str]) -> None:
    """The command line; to rank 1 a signal comes in the validation after step 4."""

    def evaluate(*given: Any, **options: Any) -> Any:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return held_out.evaluate(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertsmith.training.evaluator.evaluate", evaluate)
        bertsmith(arguments)


@pytest.mark.slow
def test_a_signal_to_one_rank_leaves_the_validation_of_all(text_file: Path, tmp_path: Path) -> None:
    whole, folder, logs = tmp_path / "whole", tmp_path / "run", tmp_path / "logs"
    run(2, bertsmith, begin(text_file, whole), logs=logs)
    job = Job(2, stopped_in_a_validation, begin(text_file, folder), logs=logs)
    assert job.end() == [143, 143]
    assert "stopped by SIGTERM" in job.said(0)
    assert "step-00000004 is written" in job.said(0)
    assert job.said(1) == ""
    assert [line["step"] for line in read_metrics(folder)] == [2, 4]
    run(2, bertsmith, go_on(folder), logs=logs)
    validated = [line["step"] for line in read_metrics(folder) if "validation_mlm_loss" in line]
    assert validated.count(4) == 1
    assert_alike(whole, folder, digits=0.0)
