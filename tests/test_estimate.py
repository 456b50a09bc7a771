"""`bertsmith estimate` against what a run then measures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

import bertsmith
from bertsmith.architectures import build
from bertsmith.cli.main import main
from bertsmith.config import PretrainConfig, resolve
from bertsmith.errors import ConfigError
from bertsmith.training.estimate import Machine, bytes_of, estimate, sent_bytes
from bertsmith.training.fit import made_up_batch
from tests.support.objective import BERT
from tests.support.texts import make_documents, write_text

GPU = Machine(kind="cuda", devices=8, memory=80 * 10**9, flops_per_second=1e14)


def asked(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as leaving:
        main(["estimate", *arguments.split(), "--json"])
    assert leaving.value.code == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_of_large_on_eight_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--preset large --max-length 512 --batch-size 256 --devices 8 --device-memory 80GB"
    found = asked(given, capsys)
    assert found["parameters"] == 336_226_108  # with the pooler and both heads
    assert found["tokens_a_step"] == 256 * 512
    assert found["micro_batch"] * found["accumulation"] * 8 >= 256 * 512
    memory = found["memory"]
    assert memory.pop("total") == sum(memory.values())
    assert memory["weights"] == memory["gradients"] == 4 * found["parameters"]
    assert memory["optimizer"] == 2 * memory["weights"]
    assert found["fits"]
    assert found["seconds_a_step"] is None  # nobody said how fast they are
    spread = asked(f"{given} --parallel fsdp --flops-per-second 2e14 --steps 10", capsys)
    assert spread["memory"]["weights"] == memory["weights"] // 8
    assert spread["seconds_a_step"] == pytest.approx(spread["flops_a_step"] / 8 / 2e14)
    assert spread["seconds"] == pytest.approx(10 * spread["seconds_a_step"])
    assert spread["tokens"] == 10 * 256 * 512


def test_python_and_the_command_line_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--preset large --max-length 512 --devices 8 --device-memory 80GB --vocab-size 28996"
    found = bertsmith.estimate(
        preset="large", max_length=512, devices=8, device_memory="80GB", vocab_size=28996
    )
    assert isinstance(found, bertsmith.Estimate)
    assert found.to_json() == asked(given, capsys)
    assert found.vocab_size == 28996
    assert found.steps is None  # the budget of the recipe is counted in a text


def test_the_vocabulary_may_be_one_of_words() -> None:
    machine: dict[str, Any] = {"device_memory": 10**9, "device": "cpu"}
    found = bertsmith.estimate(preset="textbook", vocab_size=20_000, recipe="chapter", **machine)
    assert (found.vocab_size, found.steps) == (20_000, 50)
    with pytest.raises(ConfigError, match="`muon_momentum` changes nothing"):
        bertsmith.estimate(optimizer="adamw", muon_momentum=0.9, **machine)
    with pytest.raises(ConfigError, match="`devices` must be at least 1; got 0"):
        bertsmith.estimate(devices=0, **machine)


def test_a_table_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--preset large --max-length 512 --devices 2 --device-memory 6GB --steps 5"
    with pytest.raises(SystemExit):
        main(["estimate", *given.split(), "--flops-per-second", "1e14"])
    said = capsys.readouterr().out
    for line in ("336,226,108", "activations", "of 6 GB", "100 TFLOP/s", "5 steps"):
        assert line in said
    assert "It does not fit; --parallel fsdp or --parallel fsdp --recompute." in said


def test_counts_are_those_of_the_network() -> None:
    config = resolve(
        preset="mini", overrides={"max_length": 40, "batch_size": 6, "vocab_size": 300}
    )
    found = estimate(config, replace(GPU, devices=1))
    model = build(config.model, 300)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    batch = made_up_batch(config, 300, 6)
    assert found.flops_a_step == BERT.training_flops(config.model, 300, batch)


def test_micro_batches_fill_the_memory() -> None:
    config = resolve(preset="base", overrides={"max_length": 512, "batch_size": 4096})
    sizes = []
    for gigabytes in (8, 16, 32):
        found = estimate(config, replace(GPU, memory=gigabytes * 10**9))
        assert found.memory.total <= 0.9 * gigabytes * 10**9
        assert found.accumulation == math.ceil(4096 / 8 / (found.micro_batch / 512))
        sizes.append(found.micro_batch)
    assert sizes == sorted(set(sizes))
    less = estimate(config, replace(GPU, memory=8 * 10**9))
    training = replace(config.training, recompute=True)
    more = estimate(replace(config, training=training), replace(GPU, memory=8 * 10**9))
    assert more.micro_batch > 3 * less.micro_batch


def test_messages_of_a_step() -> None:
    assert sent_bytes(1000, 1, "ddp") == 0
    assert sent_bytes(1000, 2, "ddp") == 1000
    assert sent_bytes(1000, 4, "fsdp") == 2250
    assert sent_bytes(1000, 4, "ddp", 5) == 1500
    assert sent_bytes(1000, 4, "fsdp", 5) == 8250


def test_spread_gradients_are_whole_until_the_last_micro_batch() -> None:
    config = resolve(preset="base", overrides={"batch_size": 512, "parallel": "fsdp"})
    whole = 4 * estimate(config, GPU).parameters
    for sequences, expected in ((64, whole // 8), (32, whole)):
        training = replace(config.training, micro_batch=sequences * config.data.max_length)
        found = estimate(replace(config, training=training), GPU)
        assert found.accumulation == 64 // sequences
        assert found.memory.gradients == expected


def test_the_rate_is_that_of_a_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_of = []

    def rate(
        config: PretrainConfig,
        vocab_size: int,
        num_sequences: int,
        device: torch.device,
        *,
        at_least: float = 0.0,
    ) -> float:
        asked_of.append(device.type)
        return 1e9

    monkeypatch.setattr("bertsmith.training.estimate.measured_rate", rate)
    monkeypatch.setattr("bertsmith.training.estimate.available_devices", lambda: ["mps", "cpu"])
    config = resolve(preset="tiny")
    assert estimate(config, Machine(kind="cuda")).seconds_a_step is None
    for kind in ("cpu", "mps"):
        found = estimate(config, Machine(kind=kind))
        assert found.seconds_a_step == pytest.approx(found.flops_a_step / 1e9)
    assert estimate(config, Machine(kind="cpu", memory=10**10)).flops_per_second is None
    assert set(asked_of) == {"cpu", "mps"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), ("1.5g", 15 * 10**8), ("1000", 1000)],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="must be a size such as 80GB; got 'much'"):
        bytes_of("much")
    with pytest.raises(SystemExit) as leaving:
        main("estimate --devices 300 --batch-size 256 --device-memory 1GB".split())
    assert leaving.value.code == 1
    assert "at least one for each of the 300 devices; got 256" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["mini", "small", "modern-mini"])
def test_a_run_takes_what_was_estimated(preset: str, precision: str, tmp_path: Path) -> None:
    short = make_documents(400)  # joined, so that nearly all sequences are full
    long = [list(chain(*short[first : first + 20])) for first in range(0, 400, 20)]
    text = write_text(tmp_path / "text.txt", long)
    shape = (
        f"--preset {preset} --objective mlm --max-length 128 --batch-size 48 --micro-batch 2048 "
        f"--device cpu --precision {precision}"
    ).split()
    run = ["pretrain", "--corpus", str(text), "--output", str(tmp_path / "run"), "--steps", "3"]
    measured = in_a_process(*run, *shape, "--quiet")
    vocabulary = ["--vocab-size", str(measured["vocabulary_entries"])]
    found = in_a_process("estimate", *shape, *vocabulary, "--steps", "3")
    assert found["parameters"] == measured["parameters"]
    assert found["tokens"] == pytest.approx(measured["tokens"], rel=0.15)
    assert found["memory"]["total"] == pytest.approx(measured["peak_memory_bytes"], rel=0.15)


@pytest.mark.slow
def test_a_step_of_modernbert_base_at_8192_tokens_takes_what_was_estimated(tmp_path: Path) -> None:
    """And less than 24 GB, of which it takes a half in float32."""
    text = tmp_path / "text.txt"  # 57,330 words in seven documents of 8,190
    words = [f"w{number}" for number in range(7 * 8190)]
    documents = [" ".join(words[first : first + 8190]) for first in range(0, len(words), 8190)]
    text.write_text("\n\n".join(documents))
    shape = (
        "--preset modern-base --max-length 8192 --batch-size 1 --device cpu --precision float32 "
        "--recompute --micro-batch 8192"
    ).split()
    vocabulary = "--tokenizer word --min-frequency 1 --validation-fraction 0".split()
    run = ["pretrain", "--corpus", str(text), "--output", str(tmp_path / "run"), "--steps", "1"]
    measured = in_a_process(*run, *shape, *vocabulary, "--quiet")
    size = ["--tokenizer", "bpe", "--vocab-size", str(measured["vocabulary_entries"])]
    found = in_a_process("estimate", *shape, *size, "--steps", "1")
    assert found["parameters"] == measured["parameters"]
    assert measured["tokens"] == 8192
    assert measured["peak_memory_bytes"] < 24e9
    assert found["memory"]["total"] == pytest.approx(measured["peak_memory_bytes"], rel=0.15)


def in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bertsmith", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
