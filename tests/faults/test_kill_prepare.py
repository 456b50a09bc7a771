"""A preparation that is killed goes on, and ends with the same bytes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from bertsmith.data.disk import is_store
from tests.support.faults import KILL, Machine, points
from tests.support.stores import content


def arguments(corpus: Path, store: Path) -> list[str | Path]:
    return [
        *("prepare", "--corpus", corpus, "--output", store, "--processes", "1", "--quiet"),
        *("--min-frequency", "2", "--deduplicate", "near"),
    ]


def try_kills(machine: Machine, corpus: Path, folder: Path, number: int) -> None:
    """Kill a preparation at so many of its changes to the disk, and do it again."""
    whole = machine.run(*arguments(corpus, folder / "whole"), under=folder / "whole")
    assert whole.status == 0, whole
    wanted = content(folder / "whole")
    for at in points(whole.calls, number):
        store = folder / str(at)
        died = machine.run(*arguments(corpus, store), under=store, at=at, error=KILL)
        assert died.status == -signal.SIGKILL, (at, died)
        again = machine.run(*arguments(corpus, store), under=store)
        assert again.status == 0, (at, again)
        assert content(store) == wanted, at
        shutil.rmtree(store)


def test_killed_at_a_handful_of_points(machine: Machine, text_file: Path, tmp_path: Path) -> None:
    try_kills(machine, text_file, tmp_path, 4)


@pytest.mark.slow
def test_killed_at_every_change(machine: Machine, text_file: Path, tmp_path: Path) -> None:
    try_kills(machine, text_file, tmp_path, 10**6)


def test_a_full_disk_ends_with_a_line(machine: Machine, text_file: Path, tmp_path: Path) -> None:
    whole = machine.run(*arguments(text_file, tmp_path / "whole"), under=tmp_path / "whole")
    for at in points(whole.calls, 3):
        store = tmp_path / str(at)
        full = machine.run(*arguments(text_file, store), under=store, at=at, error=28)
        if is_store(store):  # what is left to do is to remove what nobody needs any more
            assert full.status == 0, (at, full)
            assert at == whole.calls
        else:
            assert full.status == 1, (at, full)
            assert len(full.said) == 1, (at, full)
            assert "No space left on device" in full.said[0], (at, full)
        assert machine.run(*arguments(text_file, store), under=store).status == 0
        assert content(store) == content(tmp_path / "whole")
