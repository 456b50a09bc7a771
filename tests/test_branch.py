"""A second run from a checkpoint of a first one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import RunError
from bertsmith.reporting.metrics_file import read_metrics
from tests.support.runs import TINY_RUN, result_of

SETTINGS: dict[str, Any] = {
    **TINY_RUN,
    "optimizer": "muon",
    "lr_scheduler_type": "warmup_stable_decay",
    "warmup_ratio": 0.0,
    "checkpoint_every": 4,
    "keep_checkpoints": 9,
}


@pytest.fixture(scope="module")
def long_run(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    settings = {**SETTINGS, "steps": 16, "decay_ratio": 0.25}
    return bertsmith.pretrain(text_file, output=folder, quiet=True, **settings).output


def test_a_branch_is_a_run_of_its_end(long_run: Path, text_file: Path, tmp_path: Path) -> None:
    """Byte for byte the run that had this end from its beginning."""
    before = result_of(long_run)
    assert bertsmith.branch(long_run / "checkpoints" / "step-00000004", tmp_path / "b") == 4
    end: dict[str, Any] = {"steps": 8, "decay_ratio": 0.5}
    found = bertsmith.pretrain(output=tmp_path / "b", resume=True, quiet=True, **end)
    settings = {**SETTINGS, **end}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "w", quiet=True, **settings)
    assert result_of(found.output).weights == result_of(whole.output).weights
    rates = [
        line["learning_rate"] for line in read_metrics(found.output) if "learning_rate" in line
    ]
    assert len(set(rates[:4])) == 1
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert result_of(long_run) == before


def test_of_a_run_the_newest_is_taken(
    long_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["branch", str(long_run), "--output", str(tmp_path / "b")])
    assert "has step 16 of" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-00000016"]


def test_what_is_no_checkpoint_is_refused(long_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="must be a run or a checkpoint of one"):
        bertsmith.branch(tmp_path, tmp_path / "b")
    with pytest.raises(RunError, match="must be a run with a checkpoint, or a checkpoint"):
        bertsmith.branch(long_run / "model", tmp_path / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="must be a new or empty folder"):
        bertsmith.branch(long_run, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_damaged_checkpoint_is_refused(long_run: Path, tmp_path: Path) -> None:
    bertsmith.branch(long_run / "checkpoints" / "step-00000008", tmp_path / "a")
    state = tmp_path / "a" / "checkpoints" / "step-00000008" / "training_state.json"
    state.write_text(json.dumps({}))
    with pytest.raises(RunError, match=r"training_state\.json does not match its checksum"):
        bertsmith.branch(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
