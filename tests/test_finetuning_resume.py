"""Fine-tunings that are stopped and go on, and what says that one is not finished."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import DivergenceError, RunError, RunStopped
from bertsmith.training.checkpoint import Checkpoints
from tests.support.labelled import FAST, files_of, rows_of, stop_after, write

OPTIONS: dict[str, Any] = {**FAST, "epochs": 2, "seeds": (0, 1), "dropout_prob": 0.1, "quiet": True}
STEPS = 20  # of the two kinds and seeds together


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    return {
        "train": write(tmp_path / "train.tsv", rows_of(70)),
        "validation": write(tmp_path / "dev.tsv", rows_of(40, seed=1)),
        "test": write(tmp_path / "test.tsv", rows_of(9, seed=2)),
    }


def test_one_that_is_stopped_anywhere_goes_on_to_the_same_bytes(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bertsmith.finetune(folder, **tables, output=tmp_path / "other" / "whole", **OPTIONS)
    # At the same depth: results.json says where the tables lie from there.
    expected = files_of(whole.output)
    output, part = tmp_path / "out" / "mine", tmp_path / "out" / ".mine.unfinished"
    for number in (1, 3, 5, 11, STEPS - 1):
        with monkeypatch.context() as patch:
            stop_after(patch, number)
            with pytest.raises(RunStopped, match="same command with --resume"):
                bertsmith.finetune(folder, **tables, output=output, resume=True, **OPTIONS)
        assert not output.exists()
        assert part.is_dir()
        found = bertsmith.finetune(folder, **tables, output=output, resume=True, **OPTIONS)
        assert files_of(output) == expected, number
        assert [path.name for path in output.parent.iterdir()] == ["mine"]
        assert {**found.results, "output": ""} == {**whole.results, "output": ""}
        for path in output.iterdir():
            path.unlink()
        output.rmdir()


def test_a_stop_before_the_first_step_leaves_nothing(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "mine"
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        with pytest.raises(RunStopped):
            bertsmith.finetune(folder, **tables, output=output, **OPTIONS)
    assert list(output.parent.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing_where_nothing_was_kept(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, part = tmp_path / "out" / "mine", tmp_path / "out" / ".mine.unfinished"
    plain, left = Checkpoints.save, [0]

    def full(*args: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(*args, **options)

    monkeypatch.setattr(Checkpoints, "save", full)
    for number, is_kept in ((0, False), (3, True)):
        left[0] = number
        with pytest.raises(RunError, match=r"Cannot write to .*mine: No space left on device"):
            bertsmith.finetune(folder, **tables, output=output, **OPTIONS)
        assert part.exists() == is_kept
        assert not output.exists()


def test_what_is_unfinished_is_gone_on_with_or_replaced_and_never_mixed(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(RunStopped):
            bertsmith.finetune(folder, **tables, output=output, **OPTIONS)
    with pytest.raises(RunError, match="was not finished; go on with it by --resume"):
        bertsmith.finetune(folder, **tables, output=output, **OPTIONS)
    with pytest.raises(RunError, match="--resume or --overwrite"):
        bertsmith.finetune(folder, **tables, output=output, resume=True, overwrite=True, **OPTIONS)
    others: list[tuple[str, dict[str, Any]]] = [
        ("`weight_decay`", {"weight_decay": 0.5}),
        ("`seeds`", {"seeds": (0, 2)}),
        ("`baseline`", {"baseline": False}),
        ("`train`", {"train": tables["validation"]}),
        ("`test`", {"test": None}),
    ]
    for name, other in others:
        with pytest.raises(RunError, match=f"must be what it was; got {name}"):
            bertsmith.finetune(
                folder, **{**tables, "output": output, "resume": True, **OPTIONS, **other}
            )
    new = {**OPTIONS, "seeds": (7,)}
    bertsmith.finetune(folder, **tables, output=output, overwrite=True, **new)
    before = files_of(output)
    found = bertsmith.finetune(folder, **tables, output=output, resume=True, **new)
    assert found.results["seeds"] == [7]
    assert files_of(output) == before
    with pytest.raises(RunError, match="must be what it was; got `seeds`"):
        bertsmith.finetune(folder, **tables, output=output, resume=True, **OPTIONS)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The command line ignores signals once its status is settled; here others follow."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command_says_how_to_go_on(
    handlers: None,
    folder: Path,
    tables: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(part) for name, path in tables.items() for part in (f"--{name}", path)]
    flags = ["--output", str(tmp_path / "out"), "--epochs", "1", "--device", "cpu", "--json"]
    command = ["finetune", str(folder), *paths, *flags]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(SystemExit) as stopped:
            main(command)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; what was trained is kept" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--resume"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert "Going on with the fine-tuning" in err
    assert json.loads(out)["seeds"] == [0]


@pytest.mark.filterwarnings("ignore:overflow")
def test_one_that_diverges_says_so_and_leaves_nothing(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "out" / "mine"
    options = {**OPTIONS, "learning_rate": 1e30, "max_grad_norm": 0.0}
    with pytest.raises(DivergenceError, match=r"At step \d+ .*; lower --learning-rate"):
        bertsmith.finetune(folder, **tables, output=output, **options)
    assert list(output.parent.iterdir()) == []


@pytest.mark.slow
def test_micro_batches_change_rounding_alone_and_bfloat16_little(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    options = {**OPTIONS, "seeds": (0,), "baseline": False, "learning_rate": 1e-3}
    shares = []
    others: dict[str, Any] = {"a": {}, "b": {"micro_batch": 20}, "c": {"precision": "bfloat16"}}
    for name, other in others.items():
        found = bertsmith.finetune(folder, **tables, output=tmp_path / name, **options, **other)
        lines = (found.output / "predictions-test.tsv").read_text().splitlines()[1:]
        shares.append([float(line.split("\t")[2]) for line in lines])
    assert shares[1] == pytest.approx(shares[0], abs=1e-4)
    assert shares[2] == pytest.approx(shares[0], abs=0.02)
    assert shares[2] != shares[0]
