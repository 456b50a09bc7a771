"""What training does to be fast, and how it says how fast it was. No test here is timed."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.config import BertConfig, resolve
from bertsmith.data import ahead
from bertsmith.data.store import TokenStore
from bertsmith.hardware.device import keep_freed_memory
from bertsmith.hardware.rate import matrix_product_rate
from bertsmith.reporting.metrics_file import last_metrics
from bertsmith.saved.locate import checkpoint_folder
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.checkpoint import STATE_FILE
from bertsmith.training.phases import PhaseClock, describe
from bertsmith.training.pretrain import run_pretraining
from bertsmith.training.sums import Sums
from bertsmith.training.trainer import Trainer
from tests.support.objective import BERT, losses_of
from tests.support.runs import TINY_RUN
from tests.support.stores import make_batches

CPU = torch.device("cpu")


def without_times(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("second", "share_of_peak", "output", "memory")
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in rows]


def test_looking_at_the_losses_late_changes_no_number(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = str(len(text_file.read_text().split()) // 2)  # passed at a step that logs nothing
    more = {"steps": 12, "log_every": 5, "checkpoint_at_words": (words,), "keep_checkpoints": 1}
    config = resolve(overrides={**TINY_RUN, "corpus": (str(text_file),), **more})
    run_pretraining(config, output=tmp_path / "at once", quiet=True)
    monkeypatch.setattr(Trainer, "_is_asynchronous", True)
    monkeypatch.setattr(ahead, "usual_num_workers", lambda: 2)
    run_pretraining(config, output=tmp_path / "late", quiet=True)
    assert without_times(tmp_path / "late") == without_times(tmp_path / "at once")
    weights = [(tmp_path / r / "model/model.safetensors").read_bytes() for r in ("at once", "late")]
    assert weights[0] == weights[1]
    (step,) = last_metrics(tmp_path / "late")["checkpoints_at_words"].values()
    assert step % 5
    states = [
        json.loads((checkpoint_folder(tmp_path / r, step) / STATE_FILE).read_text())
        for r in ("at once", "late")
    ]
    assert states[0]["window"]["num_tokens"] == states[1]["window"]["num_tokens"] > 0
    assert states[0]["mean_loss"] == states[1]["mean_loss"]


@pytest.mark.parametrize(("preset", "layers"), [("textbook", 2), ("base", 12)])
def test_flops_are_those_of_the_products(preset: str, layers: int) -> None:
    config = resolve(preset=preset).model
    hidden, inner = config.hidden_size, config.intermediate_size
    work = Sums(num_tokens=70, num_squared=2500, num_masked=9, num_sequences=2)
    found = BERT.training_flops(config, 1000, work)
    encoder = 70 * (4 * hidden * hidden + 2 * hidden * inner) + 2 * 2500 * hidden
    heads = 9 * (hidden * hidden + 1000 * hidden) + 2 * (hidden * hidden + 2 * hidden)
    assert found == 6 * (layers * encoder + heads)


def test_flops_are_what_pytorch_counts(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer, tiny_config: BertConfig
) -> None:
    (batch,) = make_batches(store, tokenizer).batch(0).split(1000)
    (one, *_) = batch.split(1)  # one sequence: no padding in attention
    with FlopCounterMode(display=False) as counter:
        losses = losses_of(tiny_model, one)
        (losses.mlm + losses.nsp).backward()
    made = counter.get_total_flops()
    skipped = BERT.skipped_flops(tiny_config, one)
    assert skipped > 0
    assert made + skipped == BERT.training_flops(tiny_config, tiny_model.vocab_size, one)


def test_the_machine_has_a_rate() -> None:
    assert matrix_product_rate(CPU, torch.float32) > 1e8


@pytest.mark.parametrize(("again", "share"), [(1e14, "0% of what"), (2.0, "more than matrix")])
def test_a_share_over_all_is_measured_again_or_withheld(
    again: float, share: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, asked = iter([1.0, again]), []

    def rate(*_: object, **how: float) -> float:
        asked.append(how.get("seconds", 0.5))
        return next(rates)

    monkeypatch.setattr("bertsmith.training.closing.matrix_product_rate", rate)
    run = bertsmith.pretrain(text_file, output=tmp_path / "r", quiet=True, steps=1, **TINY_RUN)
    assert asked == [0.5, 3.0]
    assert run.metrics["peak_flops_per_second"] == again
    found = run.metrics["share_of_peak"]
    assert found is None if again == 2.0 else 0 < found < 1
    assert share in run.closing_lines()[2]
    assert json.loads((run.output / "metrics.jsonl").read_text().splitlines()[-1])["finished"]


def test_the_parts_of_a_step_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = PhaseClock(CPU)
    times = iter([0.0, 1.0, 1.5, 3.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    with clock("forward"):
        pass
    with clock("backward"):
        pass
    parts = clock.parts(4.0)
    assert parts == {"forward": 1, "backward": 2, "other": 1}
    assert "25.0%" in describe(parts)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, what: int, amount: int) -> int:
            calls.append((what, amount))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    keep_freed_memory()
    assert dict(calls).keys() == {-1, -3}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()  # a C library without it
