"""Trainings side by side: each variant with each seed, in a process and a folder of its own.

What is finished is not done again, and what was interrupted goes on, since every trial is a run
that resumes. One trial at a time has all cores; several share them, which changes how long each
takes, and results in rounding alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import (
    BUDGETS,
    PRESETS,
    differences,
    reproducibility_settings,
    resolve,
    settings_of_run,
)
from bertsmith.processes import num_processors
from bertsmith.reporting.metrics_file import read_metrics


@dataclass(frozen=True)
class Trial:
    """One training."""

    folder: Path
    settings: Mapping[str, Any]
    """Keywords of `bertsmith.pretrain`."""

    @property
    def is_finished(self) -> bool:
        """Whether its closing figures are there."""
        return bool(self.metrics().get("finished"))

    def metrics(self) -> dict[str, Any]:
        """The last line of its metrics; empty if it was not begun."""
        try:
            lines = list(read_metrics(self.folder))
        except OSError:
            return {}
        return dict(lines[-1]) if lines else {}

    def validations(self) -> list[tuple[float, float]]:
        """Seconds of training and MLM loss at each validation on the way."""
        found, seconds = [], 0.0
        for line in read_metrics(self.folder):
            seconds = line.get("seconds", seconds)
            if "validation_mlm_loss" in line and not line.get("finished"):
                found.append((seconds, line["validation_mlm_loss"]))
        return found

    def precision(self) -> str:
        """Of the matrix products, as the run settled it."""
        return resolve(file=settings_of_run(self.folder)).training.precision

    def refuse_others(self) -> None:
        """Raise `SystemExit` if what lies there was begun with other settings, or other defaults.

        A text may have moved: where it lies is not compared.
        """
        file = settings_of_run(self.folder)
        if file is None:
            return
        settings = {name: value for name, value in self.settings.items() if name != "corpus"}
        named = {name: settings.pop(name, None) for name in ("preset", "recipe")}
        before, now = (
            {
                **reproducibility_settings(config),
                **{name: getattr(config.training, name) for name in BUDGETS},
            }
            for config in (resolve(file=file), resolve(**named, overrides=settings))
        )
        if now["precision"] == "auto":  # a run settles it when it begins
            del before["precision"], now["precision"]
        if changes := differences(before, now):
            raise SystemExit(
                f"{self.folder} was trained with other settings: {'; '.join(changes)}. "
                "Remove it first."
            )


def setting_of(text: str) -> tuple[str, Any]:
    """A setting and its value, JSON or a word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def trials_by_minutes(
    folder: Path,
    *,
    minutes: Sequence[float],
    presets: Sequence[str],
    seeds: Sequence[int],
    settings_of: Callable[[str], Mapping[str, Any]],
) -> dict[tuple[float, str], list[Trial]]:
    """Trials by minutes and preset, one for each seed; those that `folder` has finished, too.

    Args:
        folder: where they lie, each in a folder named by its minutes, preset and seed.
        minutes, presets, seeds: of those that are wanted.
        settings_of: the other settings of a preset's trials.
    """
    wanted = {(m, preset, seed) for m in minutes for preset in presets for seed in seeds}
    wanted |= {
        (float(name[1]), name[2], int(name[3]))
        for found in folder.glob("*-minutes-*-*")
        if (name := re.fullmatch(r"([0-9.]+)-minutes-(.+)-([0-9]+)", found.name))
        if Trial(found, {}).is_finished
    }
    trials: dict[tuple[float, str], list[Trial]] = {}
    for number, preset, seed in sorted(
        wanted, key=lambda one: (one[0], list(PRESETS).index(one[1]), one[2])
    ):
        settings = {"preset": preset, "minutes": number, "seed": seed, "device": "cpu"}
        trial = Trial(
            folder / f"{number:g}-minutes-{preset}-{seed}", {**settings, **settings_of(preset)}
        )
        trials.setdefault((number, preset), []).append(trial)
    return trials


def share_of(at_once: int) -> str:
    """What of the machine a trial has, for a report."""
    return "the whole machine" if at_once == 1 else f"{at_once} side by side on its cores"


def folder_name(name: str) -> str:
    """A variant's name as part of a path."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def run_trials(trials: Sequence[Trial], *, at_once: int = 1) -> None:
    """Run those that are not finished, `at_once` of them side by side on an even share of cores.

    Raises:
        SystemExit: one failed; what it said is shown.
    """
    threads = max(1, num_processors() // at_once)
    if len({trial.folder for trial in trials}) < len(trials):
        raise SystemExit("Trials must have different folders: two names are too much alike.")
    for trial in trials:
        trial.refuse_others()
    waiting = [trial for trial in trials if not trial.is_finished]
    print(f"{len(trials)} trials, {len(trials) - len(waiting)} of them done", flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        for trial in pool.map(lambda trial: _run(trial, threads), waiting):
            found = trial.metrics()
            print(
                f"{trial.folder}: MLM {found['validation_mlm_loss']:.3f}, "
                f"{found['validation_mlm_accuracy']:.1%}, {found['seconds']:.0f} s",
                flush=True,
            )


def _run(trial: Trial, threads: int) -> Trial:
    settings = json.dumps({**trial.settings, "output": str(trial.folder)})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trials", settings],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{trial.folder} failed:\n{done.stderr}")
    return trial


def _train(settings: dict[str, Any]) -> None:
    import bertsmith

    corpus = settings.pop("corpus")
    bertsmith.pretrain(corpus, resume=True, quiet=True, keep_checkpoints=1, **settings)


if __name__ == "__main__":
    _train(json.loads(sys.argv[1]))
