"""The harness of the quality benchmarks: trials are run once, and never mistaken for others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablations import mean_cell, report, trials_of
from benchmarks.trials import Trial, folder_name, run_trials, trials_by_minutes
from bertsmith.config import presets
from bertsmith.training.run import Run
from tests.support.runs import TINY_RUN


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


@pytest.mark.parametrize(
    "change", [{"steps": 9}, {"learning_rate": 1.0}, {"hidden_size": 32}, {"recipe": "chapter"}]
)
def test_other_settings_in_the_same_folder_are_refused(
    change: dict[str, Any], finished_run: Run
) -> None:
    same = {"corpus": "moved.txt", **TINY_RUN, "steps": 8}
    run_trials([Trial(finished_run.output, same)])  # finished: not trained again
    with pytest.raises(SystemExit, match=f"other settings.*{next(iter(change))}"):
        run_trials([Trial(finished_run.output, {**same, **change})])


def test_a_default_that_has_changed_since_is_other_settings(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets._SMALL, "muon_momentum", 0.5)
    with pytest.raises(SystemExit, match=r"muon_momentum. \(0.95 before, 0.5 now\)"):
        run_trials([Trial(finished_run.output, {**TINY_RUN, "steps": 8})])


def test_names_that_are_too_much_alike_are_refused(tmp_path: Path) -> None:
    twice = [Trial(tmp_path / folder_name(name), {}) for name in ("a +", "a -")]
    with pytest.raises(SystemExit, match="too much alike"):
        run_trials(twice)


def test_what_a_folder_has_finished_stands_beside_what_is_wanted(
    finished_run: Run, tmp_path: Path
) -> None:
    shutil.copytree(finished_run.output, tmp_path / "2.5-minutes-mini-1")
    (tmp_path / "9-minutes-tiny-0").mkdir()  # begun, and nothing more
    found = trials_by_minutes(
        tmp_path,
        minutes=[10, 1],
        presets=["mini", "tiny"],
        seeds=[0],
        settings_of=lambda preset: {"corpus": preset},
    )
    keys = [(1, "tiny"), (1, "mini"), (2.5, "mini"), (10, "tiny"), (10, "mini")]
    assert list(found) == keys
    assert {len(trials) for trials in found.values()} == {1}
    (old,) = found[2.5, "mini"]
    assert old.is_finished
    assert (old.settings["seed"], old.settings["minutes"], old.settings["corpus"]) == (
        1,
        2.5,
        "mini",
    )


def test_cells() -> None:
    assert mean_cell([0.1, 0.3], "{:.1f} %", 100.0) == "20.0 % ± 14.1 %"
    assert mean_cell([0.5], "{:+.2f}", 1.0) == "+0.50"
    assert mean_cell([1.0, 2.0], "{:+.1f}", 1.0) == "+1.5 ± 0.7"
