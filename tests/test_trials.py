"""The harness of the quality benchmarks: trials are run once, and never mistaken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablations import mean_cell, report, trials_of
from benchmarks.trials import Trial, folder_name, run_trials
from tests.conftest import TINY_RUN


@pytest.mark.slow
def test_a_plan_is_trained_once_and_tabled(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: dict[str, Any] = {
        "title": "Two",
        "about": "tiny.",
        "seeds": [0, 1],
        "common": {**TINY_RUN, "steps": 2},
        "variants": {"as it is": {}, "AdamW": {"optimizer": "adamw"}},
    }
    trials = trials_of(plan, str(text_file), tmp_path / "runs", None)
    every = [trial for found in trials.values() for trial in found]
    run_trials(every, at_once=2)
    before = [trial.metrics() for trial in every]
    assert all(found["finished"] for found in before)
    run_trials(every)
    assert "4 trials, 4 of them done" in capsys.readouterr().out
    assert [trial.metrics() for trial in every] == before
    text = report(plan, Path("plan.toml"), trials)
    assert "| AdamW | `optimizer` adamw |" in text
    assert text.count(" ± ") > 6


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    Trial(tmp_path / "a", {"steps": 1}).write_settings()
    Trial(tmp_path / "a", {"steps": 1}).write_settings()
    with pytest.raises(SystemExit, match="other settings"):
        Trial(tmp_path / "a", {"steps": 2}).write_settings()


def test_names_that_are_too_much_alike_are_refused(tmp_path: Path) -> None:
    twice = [Trial(tmp_path / folder_name(name), {}) for name in ("a +", "a -")]
    with pytest.raises(SystemExit, match="too much alike"):
        run_trials(twice)


def test_cells() -> None:
    assert mean_cell([0.1, 0.3], "{:.1f} %", 100.0) == "20.0 % ± 14.1 %"
    assert mean_cell([0.5], "{:+.2f}", 1.0) == "+0.50"
    assert mean_cell([1.0, 2.0], "{:+.1f}", 1.0) == "+1.5 ± 0.7"
