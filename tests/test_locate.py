"""What a path means: a run by what is in it, and the newest whole model while a run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bertsmith
from bertsmith.errors import BertsmithError
from bertsmith.model.locate import find_run_config
from bertsmith.training.pretrain import Run


def names_under(tmp_path: Path) -> list[Path]:
    """Places of a run whose names are those of its parts."""
    return [
        tmp_path / "model",
        tmp_path / "checkpoints" / "r",
        tmp_path / "checkpoints" / "step-00000004",
        tmp_path / "model" / "model",
        tmp_path / "r",
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_run_is_known_by_what_is_in_it(number: int, finished_run: Run, tmp_path: Path) -> None:
    run = names_under(tmp_path)[number]
    shutil.copytree(finished_run.output, run)
    settings = run / "config.toml"
    checkpoint = next((run / "checkpoints").iterdir())
    for path in (run, run / "model", checkpoint):
        assert find_run_config(path) == settings
    own = bertsmith.evaluate(run, device="cpu")
    assert own.num_pairs == finished_run.metrics["validation_num_pairs"]
    (checkpoint.rename(run / "kept"), (run / "model").rename(run / "final"))
    assert find_run_config(run / "final") == find_run_config(run / "kept") == settings


def test_a_run_without_its_log_is_one_and_a_damaged_one_is_said(
    finished_run: Run, tmp_path: Path
) -> None:
    run = tmp_path / "model"
    shutil.copytree(finished_run.output, run)
    (run / "metrics.jsonl").unlink()
    (run / "corpus.json").unlink()
    assert find_run_config(run / "model") == run / "config.toml"
    shutil.copy(finished_run.output / "metrics.jsonl", run)
    (run / "config.toml").write_text("preset = ")
    for path in (run, run / "model"):
        with pytest.raises(BertsmithError, match="must be TOML"):
            bertsmith.evaluate(path, device="cpu")


def test_what_lies_beside_a_run_is_not_of_it(
    finished_run: Run, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    shutil.copytree(finished_run.output, run)
    shutil.copytree(folder, run / "other")  # a model of another shape
    assert find_run_config(run / "other") is None
    (tmp_path / "config.toml").write_text("[tool]\nname = 'x'\n")  # of another program
    assert find_run_config(folder) is None
    (tmp_path / "config.toml").write_text("[tool")
    assert find_run_config(folder) is None
    link = tmp_path / "latest"
    link.symlink_to(run / "model")
    assert find_run_config(link) == run / "config.toml"
