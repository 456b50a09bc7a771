"""Runs in whose folders something is damaged, or lies that is not theirs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.durable import CHECKSUMS_FILE, damage, whole_folder
from bertsmith.errors import BertsmithError, RunError
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.reporting.metrics_file import MetricsFile, last_metrics, read_metrics
from bertsmith.saved.locate import list_checkpoints
from bertsmith.training.run import Run
from tests.support.objective import Losses, losses_of
from tests.support.runs import pretrain, result_of, unfinish


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Path:
    """A copy of a finished run of 8 steps; checkpoints after 6 and 8."""
    return Path(shutil.copytree(finished_run.output, tmp_path / "run"))


def link_to_folder(path: Path) -> None:
    """A link to a folder elsewhere, with a file in it."""
    other = path.parents[2] / "other"
    other.mkdir(exist_ok=True)
    (other / "mine.txt").write_text("Mine.")
    path.symlink_to(other)


def folder_of_mine(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("Mine.")


STRAYS: dict[str, Callable[[Path], None]] = {
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to a folder": link_to_folder,
    "a folder": folder_of_mine,
}


@pytest.mark.parametrize("kind", STRAYS)
def test_what_is_called_like_a_checkpoint_neither_stops_a_run_nor_is_removed(
    kind: str, finished_run: Run, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    places = [run / "checkpoints" / f"step-{step:08d}" for step in (1, 7, 9, 99)]
    for place in places:
        STRAYS[kind](place)
    before = [place.lstat().st_ino for place in places]
    bertsmith.pretrain(output=run, resume=True)
    said = capsys.readouterr().err
    assert "step-00000099 is no checkpoint" in said or "step-00000099 is damaged" in said
    assert result_of(run) == result_of(finished_run.output)
    bertsmith.pretrain(output=run, resume=True, steps=10, checkpoint_every=1, keep_checkpoints=1)
    there = {path.lstat().st_ino for path in (run / "checkpoints").iterdir()}
    assert set(before) <= there
    assert damage(run / "checkpoints" / "step-00000010") is None
    assert not (run / "checkpoints" / "step-00000008").exists()
    assert not list((run / "checkpoints").glob(".*"))


def test_a_file_that_was_put_into_a_checkpoint_is_not_removed(run: Path) -> None:
    notes = run / "checkpoints" / "step-00000006" / "notes.txt"
    notes.write_text("Mine.")
    pretrain(run, resume=True, steps=10, checkpoint_every=1, keep_checkpoints=1)
    assert notes.read_text() == "Mine."
    assert [path.name for path in list_checkpoints(run)] == [notes.parent.name, "step-00000010"]


@pytest.mark.parametrize("file", ["model.safetensors", CHECKSUMS_FILE, "training_state.json"])
@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        Path.touch,
    ],
)
def test_a_file_of_a_checkpoint_may_be_anything(
    make: Callable[[Path], None],
    file: str,
    finished_run: Run,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unfinish(run)
    (run / "checkpoints" / "step-00000008" / file).unlink()
    make(run / "checkpoints" / "step-00000008" / file)
    bertsmith.pretrain(output=run, resume=True)
    assert "The checkpoint step-00000008 is damaged: " in capsys.readouterr().err
    assert result_of(run) == result_of(finished_run.output)


@pytest.mark.parametrize("left", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/tmp")])
def test_what_was_left_half_written_may_be_anything(
    left: Callable[[Path], None], tmp_path: Path
) -> None:
    target = tmp_path / "folder"
    for name in (".folder.part", ".folder.old"):
        left(tmp_path / name)
    for _ in range(2):
        with whole_folder(target) as work:
            (work / "a").write_text("A")
    assert damage(target) is None
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "text",
    ["{}", '{"sha256": 3}', '{"sha256": {}}', '{"sha256": {"train": 7}}', "[]", "{", "", "\x80"],
)
def test_a_damaged_report_is_said(text: str, run: Path) -> None:
    unfinish(run)
    (run / "corpus.json").write_text(text)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(BertsmithError, match=r"corpus\.json must"):
        pretrain(run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("step", ['"8"', "8.5", "null", "[8]", "true", "-1", "1e999", '{"a": 1}'])
def test_a_line_whose_step_is_no_number_is_none(
    step: str, finished_run: Run, run: Path, tmp_path: Path
) -> None:
    line = f'{{"step": {step}, "learning_rate": 1.0, "mlm_loss": 1.0, "finished": true}}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    assert read_metrics(tmp_path) == []
    assert last_metrics(tmp_path) == {}
    unfinish(run)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(line)
    pretrain(run, resume=True)
    assert result_of(run) == result_of(finished_run.output)


def test_lines_whose_step_is_no_number_are_lost_and_that_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    state = json.loads((run / "checkpoints/step-00000008/training_state.json").read_text())
    line = '{"step": "8", "learning_rate": 1.0}\n'
    (run / "metrics.jsonl").write_text(line * (state["metrics_bytes"] // len(line) + 1))
    bertsmith.pretrain(output=run, resume=True)
    assert "lines of it are lost" in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(run)] == [8]


def test_a_pipe_in_the_place_of_the_metrics_is_refused(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics\.jsonl must be a regular file"):
        pretrain(run, resume=True, steps=10)


def test_every_rollback_to_one_place_stays_in_the_log(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three in a row, a checkpoint, and one more: the same again by who is resumed."""
    losses = losses_of
    spoiled_sizes: set[int] = set()
    sizes: list[int] = []

    def spoiled(model: Bert, batch: Any, key: int) -> Losses:
        found = losses(model, batch, key)
        bad = batch.num_tokens in spoiled_sizes
        return Losses(found.mlm * (float("nan") if bad else 1.0), found.nsp)

    def noted(model: Bert, batch: Any, key: int) -> Losses:
        sizes.append(batch.num_tokens)
        return losses(model, batch, key)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(noted))
        pretrain(tmp_path / "plain", text_file, micro_batch=10_000)
    spoiled_sizes |= {sizes[number] for number in (2, 3, 4)}
    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(spoiled))
    settings = {"micro_batch": 10_000, "max_rollbacks": 9, "keep_checkpoints": 9}
    pretrain(tmp_path / "r", text_file, **settings)
    events = [line for line in read_metrics(tmp_path / "r") if "rolled_back_from" in line]
    assert [line["step"] for line in events] == [2, 2, 2]
    assert [line["skipped_batch"] for line in events] == [2, 3, 4]
    assert [line["rollbacks"] for line in events] == [1, 2, 3]
    for step in (2, 4):
        copy = Path(shutil.copytree(tmp_path / "r", tmp_path / f"from {step}"))
        unfinish(copy)
        for later in list_checkpoints(copy):
            if int(later.name.removeprefix("step-")) > step:
                shutil.rmtree(later)
        pretrain(copy, resume=True)
        assert result_of(copy) == result_of(tmp_path / "r")


def test_rollbacks_are_kept_where_the_log_was_damaged(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        metrics.write(1, {"a": 1})
        metrics.write(1, {"rolled_back_from": 2, "rollbacks": 1})
        assert not metrics.cut(10_000, 1)
        metrics.write(1, {"rolled_back_from": 2, "rollbacks": 2})
        assert not metrics.cut(10_000, 1)
    found = [line.get("rollbacks") for line in read_metrics(tmp_path)]
    assert found == [None, 1, 2]


def edit_line(run: Path, number: int, **figures: Any) -> None:
    """Change one line of the log; NaN is written as Python does."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[number] = json.dumps({**json.loads(lines[number]), **figures}) + "\n"
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    "wrong", [float("nan"), float("inf"), "abcdef", "a" * 40, [1.0], {"a": 1}, True, 10**300]
)
@pytest.mark.parametrize("name", ["mlm_loss", "nsp_loss", "learning_rate"])
def test_a_line_with_a_figure_that_is_none_is_left_out(
    name: str, wrong: object, tmp_path: Path
) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"mlm_loss": 1.0, "nsp_loss": None, "learning_rate": 0.1})
    edit_line(tmp_path, 1, **{name: wrong})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]
    edit_line(tmp_path, 2, **{name: wrong})
    assert last_metrics(tmp_path) == {}


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("wrong", [float("nan"), "abcdef", "a" * 40])
def test_a_run_goes_on_without_a_line_that_was_edited(
    wrong: object, is_finished: bool, finished_run: Run, run: Path
) -> None:
    """Whether its lines became fewer bytes or more."""
    if is_finished:
        shutil.rmtree(run / "model")
    else:
        unfinish(run)
    edit_line(run, 1, mlm_loss=wrong)
    pretrain(run, resume=True)
    expected = result_of(finished_run.output)
    assert result_of(run).weights == expected.weights
    assert result_of(run).metrics == [expected.metrics[0], *expected.metrics[2:]]


def test_a_log_that_cannot_be_written_anew_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"mlm_loss": 1.0})
        before = (tmp_path / "metrics.jsonl").read_bytes()

        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        with monkeypatch.context() as patch:
            patch.setattr("bertsmith.durable.flush", full)
            with pytest.raises(OSError, match="No space"):
                metrics.cut(10_000, 2)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
        assert not metrics.cut(10_000, 2)
        metrics.write(3, {"mlm_loss": 2.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "figures",
    [
        None,
        {"sentence_pairs_per_second": None},
        {"device": 3},
        {"nsp_loss": None},
        {"share_of_peak": "half"},
        {"validation_mlm_accuracy": None},
        {"validation_nsp_accuracy": "x"},
        {"phase_seconds": {"data": "x"}},
    ],
)
def test_a_run_whose_closing_figures_are_damaged_is_finished_again(
    figures: dict[str, Any] | None, finished_run: Run, run: Path
) -> None:
    path = run / "metrics.jsonl"
    if figures is None:
        lines = path.read_text().splitlines(keepends=True)[:-1]
        path.write_text("".join([*lines, '{"step": 8, "finished": true}\n']))
    else:
        edit_line(run, -1, **figures)
    assert pretrain(run, resume=True).closing_lines()
    assert result_of(run) == result_of(finished_run.output)
