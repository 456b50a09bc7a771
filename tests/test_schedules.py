"""Batches that grow: sizes by the step alone, every example once, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import resolve
from bertsmith.display import Display
from bertsmith.errors import ConfigError, RunError
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training.prepare import prepare
from bertsmith.training.schedules import BatchSchedule
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed

GROWING: dict[str, Any] = {**TINY_RUN, "batch_size": 4, "batch_size_end": 20, "steps": 8}


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 400))
def test_sizes_are_on_a_line(first: int, last: int, num_steps: int) -> None:
    schedule = BatchSchedule(first, last, num_steps)
    starts = [schedule(step) for step in range(num_steps + 4)]
    sizes = np.diff(starts)
    expected = first + (last - first) * (np.arange(num_steps) + 0.5) / num_steps
    assert starts[0] == 0
    assert np.abs(sizes[:num_steps] - expected).max() < 1
    assert sizes.min() >= min(first, last)
    assert sizes.max() <= max(first, last)
    assert (sizes[num_steps:] == last).all()  # beyond the budget it stays as at its end
    assert starts[num_steps] == num_steps * (first + last) // 2


def test_batches_are_neighbours_of_the_same_sequence(text_file: Path) -> None:
    def of(**settings: Any) -> Any:
        config = resolve(overrides={**GROWING, "corpus": (str(text_file),), **settings})
        display = Display(quiet=True)
        return prepare(config.preparation, config.data, config.training, display=display).batches

    growing, plain = of(), of(batch_size=1, batch_size_end=None)
    place = 0
    for step in range(8):
        batch = growing.batch(step)
        ones = [plain.batch(number) for number in range(place, place + batch.num_sequences)]
        found = np.split(batch.input_ids.numpy(), batch.cu_seqlens[1:-1].numpy())
        expected = [one.input_ids.numpy() for one in ones]
        assert sorted(map(bytes, found)) == sorted(map(bytes, expected))
        place += batch.num_sequences
    assert place == 8 * (4 + 20) // 2


def test_a_run_whose_batches_grow_goes_on(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **GROWING)
    again = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **GROWING)
    assert result_of(again.output) == result_of(whole.output)
    pairs = [line["pairs"] for line in read_metrics(whole.output) if "grad_norm" in line]
    sizes = np.diff([0, *pairs])
    assert sizes.tolist() == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (5, 19)
    with pytest.raises(RunError, match="must keep its budget"):
        bertsmith.pretrain(output=tmp_path / "a", resume=True, quiet=True, steps=9)


def test_a_budget_in_pairs_is_met(text_file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**GROWING, "steps": None, "pairs": 100}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **settings)
    assert run.metrics["steps"] == 9  # of 12 on average
    assert run.metrics["pairs"] == 108


def test_what_a_batch_cannot_tell_is_refused(text_file: Path, tmp_path: Path) -> None:
    for budget in ({"minutes": 1}, {"tokens": 1000}):
        with pytest.raises(ConfigError, match="`batch_size_end` must have a budget in steps"):
            resolve(overrides={"batch_size_end": 9, **budget})
    with pytest.raises(bertsmith.DataError, match=r"batch of 99999 .* lower --batch-size-end"):
        settings = {**GROWING, "batch_size_end": 99_999}
        bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **settings)
    with pytest.raises(ConfigError, match=r"steps to both lengths; 0\.5 of 1 are 0"):
        short = {**LENGTHENING, "steps": 1}
        bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **short)


LENGTHENING: dict[str, Any] = {
    **TINY_RUN,
    "objective": "mlm",
    "batch_size": 4,
    "max_length": 32,
    "first_max_length": 12,
    "first_length_ratio": 0.5,
    "steps": 8,
}


@pytest.mark.parametrize("more", [{}, {"batch_size_end": 12, "mlm_probability_end": 0.5}])
def test_short_sequences_come_before_long_ones(text_file: Path, more: dict[str, Any]) -> None:
    def of(**settings: Any) -> Any:
        common = {name: value for name, value in LENGTHENING.items() if "first_" not in name}
        config = resolve(overrides={**common, "corpus": (str(text_file),), **more, **settings})
        display = Display(quiet=True)
        return prepare(config.preparation, config.data, config.training, display=display).batches

    mixed = of(first_max_length=12, first_length_ratio=0.5)
    short, long = of(max_length=12), of()
    read = sum(short.batch(step).num_sequences for step in range(4))
    place = read * long.num_examples // short.num_examples  # as far in the text
    for step in range(8):
        batch = mixed.batch(step)
        if step < 4:
            assert batch.input_ids.equal(short.batch(step).input_ids)
            assert batch.lengths[0] <= 12
            continue
        places = np.arange(place, place + batch.num_sequences)
        assert batch.input_ids.equal(long.examples(places, step).input_ids)
        assert batch.lengths[0] > 12
        place += batch.num_sequences
    assert short.num_examples > mixed.num_examples > long.num_examples


@pytest.mark.parametrize("more", [{}, {"batch_size": 2, "batch_size_end": 20}])
def test_an_epoch_of_both_lengths_reads_the_text_once(
    more: dict[str, Any], text_file: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**LENGTHENING, **more, "steps": None, "epochs": 3}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **settings)
    text = run.metrics["tokens"] - 2 * run.metrics["pairs"]
    store = (tmp_path / "run" / "corpus.json").read_text()
    assert text == pytest.approx(3 * json.loads(store)["splits"]["train"]["tokens"], rel=0.03)


def test_every_adjacent_pair_comes_once_in_an_epoch_of_both_lengths(text_file: Path) -> None:
    config = resolve(
        overrides={**LENGTHENING, "corpus": (str(text_file),), "objective": "mlm+nsp"}
        | {"max_length": 64, "first_max_length": 32, "steps": None, "epochs": 1, "batch_size": 1}
    )
    display = Display(quiet=True)
    batches = prepare(config.preparation, config.data, config.training, display=display).batches
    masked = [batches.batch(step) for step in range(batches.num_examples)]
    restored = []
    for batch in masked:
        ids = batch.input_ids.clone()
        ids[batch.masked_positions] = batch.masked_labels
        restored.append(bytes(ids[batch.token_type_ids == 0].numpy())[:80])
    plain = resolve(
        overrides={**TINY_RUN, "corpus": (str(text_file),), "batch_size": 1, "max_length": 64}
    )
    alone = prepare(plain.preparation, plain.data, plain.training, display=display).batches
    expected = []
    for step in range(alone.num_examples):
        batch = alone.batch(step)
        ids = batch.input_ids.clone()
        ids[batch.masked_positions] = batch.masked_labels
        expected.append(bytes(ids[batch.token_type_ids == 0].numpy())[:80])
    assert batches.num_examples == alone.num_examples
    assert sorted(restored) == sorted(expected)


def test_a_run_of_both_lengths_goes_on(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, more in enumerate(({}, {"first_length_ratio": 0.25, "batch_size_end": 9})):
        settings = {**LENGTHENING, **more}
        whole = bertsmith.pretrain(
            text_file, output=tmp_path / f"a{number}", quiet=True, **settings
        )
        again = stopped_and_resumed(text_file, tmp_path / f"b{number}", monkeypatch, **settings)
        assert result_of(again.output) == result_of(whole.output)
    with pytest.raises(RunError, match="must keep its budget"):
        bertsmith.pretrain(output=tmp_path / "a0", resume=True, quiet=True, steps=9)


@pytest.mark.parametrize("pairing", ["filled", pytest.param("adjacent", marks=pytest.mark.slow)])
def test_pairs_lengthen_too(text_file: Path, pairing: str) -> None:
    settings = {**LENGTHENING, "objective": "mlm+nsp", "pairing": pairing}
    config = resolve(overrides={**settings, "corpus": (str(text_file),)})
    display = Display(quiet=True)
    batches = prepare(config.preparation, config.data, config.training, display=display).batches
    longest = [batches.batch(step).lengths[0] for step in range(8)]
    assert max(longest[:4]) <= 12 < min(longest[4:])


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"batch_size": 10, "batch_size_end": 30}, 20 * 64),
        ({"batch_size": 20, "first_max_length": 16}, 20 * (0.9 * 16 + 0.1 * 64)),
        (
            {"batch_size": 10, "batch_size_end": 30, "first_max_length": 16},
            # Half-way through the first nine tenths a step has 10 + 20 * 0.45 sequences.
            0.9 * 19 * 16 + (20 - 0.9 * 19) * 64,
        ),
    ],
)
def test_an_estimate_is_of_all_steps(settings: dict[str, Any], tokens: float) -> None:
    common: dict[str, Any] = {"max_length": 64, "steps": 50, "vocab_size": 1000, "device": "cpu"}
    found = bertsmith.estimate(
        preset="tiny", flops_per_second=1e9, **{**common, "batch_size": 20, **settings}
    )
    assert found.tokens == round(50 * tokens)
    plain = bertsmith.estimate(preset="tiny", flops_per_second=1e9, **common, batch_size=20)
    assert plain.seconds is not None
    assert found.seconds is not None
    assert found.seconds / plain.seconds == pytest.approx(tokens / (20 * 64), rel=0.1)


@pytest.mark.slow
def test_a_branch_of_such_a_run_is_told_no_other_budget(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **GROWING)
    bertsmith.pretrain(output=tmp_path / "run", resume=True)
    assert "a larger budget" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["branch", str(run.output), "--output", str(tmp_path / "new")])
    assert "--steps" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"first_max_length": 64}, "must be under `max_length`"),
        (
            {"first_length_ratio": 0.9},
            "changes nothing where `first_max_length` is None; .* give `first_max_length`",
        ),
        ({"batch_size": 9, "batch_size_end": 9}, "must differ from `batch_size`; both are 9"),
        ({"first_max_length": 16, "minutes": 1}, "`first_max_length` must have a budget in steps"),
    ],
)
def test_lengths_that_cannot_be_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        resolve(overrides=settings)
