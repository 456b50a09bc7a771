"""The parts of one's own that docs/extending.md shows, and what holds for them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertsmith
from bertsmith.architectures import build
from bertsmith.config import registered
from bertsmith.data import masking
from bertsmith.errors import ConfigError, DataError, InputError, RunError, RunStopped
from bertsmith.objectives import _OBJECTIVES
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training import optimizer
from bertsmith.training.observers import CheckpointEvent, EvaluationEvent, Observer, StepEvent
from tests.support.runs import TINY_RUN, result_of

GUIDE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def registering() -> Iterator[None]:
    """What is registered is forgotten again."""
    lists = (
        registered.OBJECTIVES,
        registered.PAIR_OBJECTIVES,
        registered.MASKINGS,
        registered.OPTIMIZERS,
    )
    before = [list(names) for names in lists]
    tables: tuple[dict[str, Any], ...] = (
        _OBJECTIVES,
        masking._MASKINGS,
        optimizer._REGISTERED,
    )
    kept = [dict(table) for table in tables]
    yield
    for names, old in zip(lists, before, strict=True):
        names[:] = old
    for table, own in zip(tables, kept, strict=True):
        table.clear()
        table.update(own)


def test_the_examples_of_the_guide_run(
    registering: None, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**TINY_RUN, "steps": 6, "validate_every": 3, "quiet": True}
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S):
        if block.startswith("# my_masking.py"):
            (tmp_path / "my_masking.py").write_text(block)
            continue
        own = {"tokenizer"} & set(re.findall(r"(\w+)=", block))
        own |= {"learning_rate"} & set(re.findall(r"(\w+)=", block))
        given = {name: value for name, value in settings.items() if name not in own}
        if "tokenizer" in own:
            given["vocab_size"] = 200
        found |= {"CORPUS": text_file, "SETTINGS": given}
        exec(compile(block, "extending.md", "exec"), found)
    assert found["run"].metrics["validation_size_loss"] > 0
    lines = read_metrics(tmp_path / "runs" / "watched")
    judged = [line for line in lines if "validation_mlm_loss" in line and "finished" not in line]
    assert found["watcher"].best == min(line["validation_mlm_loss"] for line in judged)
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
    for name in ("longest", "small", "sgd", "watched"):
        assert (tmp_path / "runs" / name / "model").is_dir()


def momentum(model: Any, training: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=0.9)


def first_words(given: masking.MaskingInput) -> Any:
    """The first two maskable tokens of each sequence."""
    places = np.flatnonzero(given.maskable)
    starts = np.flatnonzero(np.diff(given.sequence[places], prepend=-1))
    seconds = np.minimum(starts + 1, len(places) - 1)
    return np.unique(np.concatenate([places[starts], places[seconds]]))


class Counter(Observer):
    """Counts evaluations of a run, also over a restart; ends it early if it is to."""

    count, stops_at = 0, -1

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.stops_at:
            signal.raise_signal(signal.SIGUSR1)

    def on_begin(self, event: Any) -> None:
        self.count = event.progress.notes.get("count", 0)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self.count += 1

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        event.progress.notes["count"] = self.count


def test_a_resumed_run_is_as_one_that_was_not_stopped(
    registering: None, text_file: Path, tmp_path: Path
) -> None:
    masking.register("first-words", first_words)
    optimizer.register("momentum", momentum, keeps=["momentum_buffer"])
    settings: dict[str, Any] = {
        **TINY_RUN,
        "masking": "first-words",
        "optimizer": "momentum",
        "learning_rate": 0.1,
        "steps": 8,
        "validate_every": 2,
    }
    counter, other = Counter(), Counter()
    whole = bertsmith.pretrain(
        text_file, output=tmp_path / "whole", quiet=True, callbacks=[counter], **settings
    )
    evaluations, counter.stops_at = counter.count, 3
    how: dict[str, Any] = {"output": tmp_path / "parted", "quiet": True}
    with pytest.raises(RunStopped):
        bertsmith.pretrain(text_file, **how, callbacks=[counter], **settings)
    bertsmith.pretrain(**how, resume=True, callbacks=[other])
    assert result_of(tmp_path / "parted") == result_of(whole.output)
    assert other.count == evaluations > 2


def test_a_masking_must_give_places(registering: None, text_file: Path, tmp_path: Path) -> None:
    masking.register("specials", lambda given: np.flatnonzero(~given.maskable))
    with pytest.raises(DataError, match="places of maskable tokens, whole numbers that rise"):
        bertsmith.pretrain(
            text_file, output=tmp_path / "run", masking="specials", quiet=True, **TINY_RUN
        )


def test_gradients_that_are_not_finite_leave_weights_as_they_were(registering: None) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    parts = optimizer.Optimizers(
        torch.optim.SGD([weight], lr=0.1, momentum=0.9), keeps=("momentum_buffer",)
    )
    weight.grad = torch.full((3,), torch.nan)
    parts.step(torch.ones(()))
    assert torch.equal(weight, torch.ones(3))
    assert parts.state_of(weight) == {}
    weight.grad = torch.ones(3)
    parts.step(torch.zeros(()))
    assert torch.equal(weight, torch.full((3,), 0.9))
    assert list(parts.state_of(weight)) == ["momentum_buffer"]
    wrong = optimizer.Optimizers(*parts.parts, keeps=())
    with pytest.raises(ConfigError, match="told, nothing; it keeps momentum_buffer"):
        wrong.state_of(weight)


def test_names_are_taken_once_and_others_are_refused(registering: None, text_file: Path) -> None:
    masking.register("mine", first_words)
    optimizer.register("mine", momentum, keeps=["momentum_buffer"])
    with pytest.raises(ConfigError, match="one masking of a name; 'mine' is there"):
        masking.register("mine", first_words)
    with pytest.raises(ConfigError, match="one optimizer of a name; 'adamw' is there"):
        optimizer.register("adamw", momentum, keeps=[])
    with pytest.raises(ConfigError, match="`masking` has no choice 'other'"):
        bertsmith.pretrain(text_file, masking="other", quiet=True)
    assert [optimizer.numbers_kept(name) for name in ("mine", "adamw")] == [1, 2]


def test_saving_replaces_a_model_only_when_asked(folder: Path, tmp_path: Path) -> None:
    model = bertsmith.load(folder, device="cpu")
    target = bertsmith.save(model, model.tokenizer, tmp_path / "mine")
    again = bertsmith.load(target, device="cpu")
    for name, value in model.bert.state_dict().items():
        assert torch.equal(value, again.bert.state_dict()[name])
    with pytest.raises(RunError, match="already holds a model"):
        bertsmith.save(model, model.tokenizer, target)
    bertsmith.save(model, model.tokenizer, target, overwrite=True)
    bare = model.with_trained_heads()
    bert = {name: value for name, value in bare.state_dict().items() if "head" not in name}
    folder_without = tmp_path / "bare"
    made = build(bare.config, bare.vocab_size, frozenset())
    made.load_state_dict(bert, strict=False)
    bertsmith.save(made, model.tokenizer, folder_without)
    found = bertsmith.load(folder_without, device="cpu")
    saved = bertsmith.save(found, found.tokenizer, tmp_path / "again")
    with pytest.raises(InputError, match="needs its mlm_head"):
        bertsmith.load(saved, device="cpu").fill("the [MASK]")
    (target / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match="must be new, empty or an earlier model"):
        bertsmith.save(model, model.tokenizer, target, overwrite=True)
