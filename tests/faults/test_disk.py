"""Disks that fill up, refuse or forget: a clear line, and every earlier checkpoint whole."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bertsmith.durable import damage
from bertsmith.saved.locate import list_checkpoints
from tests.support.faults import Machine, begin_arguments, points, resume_arguments
from tests.support.runs import Result, result_of

Whole = tuple[Result, int, int]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENOSPC, "No space left on device"),
        pytest.param(errno.EROFS, "Read-only file system", marks=pytest.mark.slow),
        pytest.param(errno.EIO, "Input/output error", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_ends_the_run_with_a_line(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path, error: int, words: str
) -> None:
    for at in points(whole[2] - 1, 2):
        run = tmp_path / str(at)
        arguments = begin_arguments(text_file, run)
        ended = machine.run(*arguments, under=run / "checkpoints", at=at, error=error)
        assert ended.status == 1, (at, ended)
        (line,) = ended.said
        assert words in line
        assert "--resume" in line
        for checkpoint in list_checkpoints(run):
            assert damage(checkpoint) is None
        assert machine.run(*resume_arguments(run), under=run).status == 0
        assert result_of(run) == whole[0]


def test_a_disk_that_is_full_from_the_beginning(
    machine: Machine, text_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    ended = machine.run(*begin_arguments(text_file, run), under=run, at=1, error=errno.ENOSPC)
    assert ended.status == 1
    (line,) = ended.said
    assert "No space left on device" in line
    assert not run.exists()


@pytest.mark.slow
def test_a_full_disk_at_every_change(
    machine: Machine, whole: Whole, text_file: Path, tmp_path: Path
) -> None:
    for at in range(2, whole[1]):
        run = tmp_path / str(at)
        ended = machine.run(*begin_arguments(text_file, run), under=run, at=at, error=errno.ENOSPC)
        assert ended.status in (0, 1), (at, ended)
        assert len(ended.said) == ended.status, (at, ended)
        for checkpoint in list_checkpoints(run):
            assert damage(checkpoint) is None
        ended = machine.run(*begin_arguments(text_file, run), "--resume", under=run)
        assert ended.status == 0, (at, ended)
        assert result_of(run) == whole[0], at
