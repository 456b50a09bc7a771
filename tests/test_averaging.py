"""Means of weights: what they are of, that training goes on as without them, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import bertsmith
from bertsmith.errors import ConfigError
from bertsmith.reporting.metrics_file import read_metrics
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed

STEPS = 8
SETTINGS: dict[str, Any] = {**TINY_RUN, "steps": STEPS, "checkpoint_every": 1, "optimizer": "muon"}

EXPONENTIAL: dict[str, Any] = {"averaging": "exponential", "averaging_decay": 0.6}
TAIL: dict[str, Any] = {"averaging": "tail", "tail_ratio": 0.5}


@pytest.fixture(scope="module")
def plain(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The weights after each step of a run without a mean."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    bertsmith.pretrain(text_file, output=folder, keep_checkpoints=STEPS, quiet=True, **SETTINGS)
    return [
        load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        for step in range(1, STEPS + 1)
    ]


def by_hand(weights: list[dict[str, Tensor]], kind: str) -> dict[str, Tensor]:
    """The mean after the last of some steps."""
    if kind == "tail":  # of the second half of the budget
        last = weights[STEPS // 2 :] or weights[-1:]
        return {name: torch.stack([w[name] for w in last]).mean(0) for name in weights[0]}
    mean = weights[0]
    for number, one in enumerate(weights[1:], start=2):
        decay = min(0.6, number / (9 + number))
        mean = {name: decay * mean[name] + (1 - decay) * one[name] for name in mean}
    return mean


@pytest.mark.parametrize("settings", [EXPONENTIAL, TAIL], ids=lambda s: s["averaging"])
def test_the_model_is_the_mean_of_the_weights_of_the_same_training(
    settings: dict[str, Any], plain: list[dict[str, Tensor]], text_file: Path, tmp_path: Path
) -> None:
    both: dict[str, Any] = {**SETTINGS, **settings, "keep_checkpoints": STEPS}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **both)
    for step in range(1, STEPS + 1):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        expected = by_hand(plain[:step], settings["averaging"])
        found = load_file(folder / "model.safetensors")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
        moments = load_file(folder / "optimizer.safetensors")
        has_weights = any(name.startswith("weight.") for name in moments)
        assert has_weights == (settings is EXPONENTIAL or step > STEPS // 2)
    model = load_file(run.output / "model" / "model.safetensors")
    last = load_file(run.output / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
    assert all(torch.equal(model[name], last[name]) for name in model)
    judged = bertsmith.evaluate(run.output).figures["mlm_loss"]
    assert judged == pytest.approx(run.metrics["validation_mlm_loss"], rel=1e-6)


def test_training_losses_are_those_without_a_mean(text_file: Path, tmp_path: Path) -> None:
    losses = []
    for name, settings in (("a", {}), ("b", EXPONENTIAL), ("c", TAIL)):
        bertsmith.pretrain(text_file, output=tmp_path / name, quiet=True, **SETTINGS, **settings)
        lines = list(read_metrics(tmp_path / name))
        losses.append([line["mlm_loss"] for line in lines if "grad_norm" in line])
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("settings", [EXPONENTIAL, {**TAIL, "tail_ratio": 0.9}])
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_run_goes_on_byte_for_byte(
    settings: dict[str, Any],
    precision: str,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**SETTINGS, **settings, "precision": precision, "validate_every": 2}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    again = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert result_of(again.output) == result_of(whole.output)
    longer = {**settings, "steps": STEPS + 2}
    for name in ("a", "b"):
        bertsmith.pretrain(output=tmp_path / name, resume=True, quiet=True, steps=longer["steps"])
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b")


def test_the_tail_is_that_of_a_larger_budget(text_file: Path, tmp_path: Path) -> None:
    """A run that goes on forgets the mean of the end that it had."""
    settings: dict[str, Any] = {**SETTINGS, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    settings["keep_checkpoints"] = 2 * STEPS
    longer: dict[str, Any] = {"steps": 2 * STEPS}
    whole = {**settings, **longer}
    plain = bertsmith.pretrain(text_file, output=tmp_path / "plain", quiet=True, **whole)
    bertsmith.pretrain(text_file, output=tmp_path / "tail", quiet=True, **settings, **TAIL)
    run = bertsmith.pretrain(output=tmp_path / "tail", resume=True, quiet=True, **longer)
    last = [
        load_file(plain.output / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        for step in range(STEPS + 1, 2 * STEPS + 1)
    ]
    found = load_file(run.output / "model" / "model.safetensors")
    for name, value in found.items():
        expected = torch.stack([weights[name] for weights in last]).mean(0)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"averaging_decay": 0.9},
        {"averaging": "tail", "averaging_decay": 0.9},
        {"averaging": "exponential", "tail_ratio": 0.2},
        {"averaging": "exponential", "averaging_decay": 1.0},
        {"averaging": "tail", "tail_ratio": 0.0},
    ],
)
def test_settings_that_change_nothing_are_refused(
    settings: dict[str, Any], text_file: Path
) -> None:
    with pytest.raises(ConfigError):
        bertsmith.pretrain(text_file, quiet=True, **TINY_RUN, **settings)
