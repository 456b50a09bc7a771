"""Going on with a run: what is refused, what is found damaged, and what divergence does."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.cli.main import main
from bertsmith.config import differences, reproducibility_settings, resolve
from bertsmith.config.schema import MAY_CHANGE, SECTIONS
from bertsmith.data.batches import Batches
from bertsmith.durable import damage, whole_folder
from bertsmith.errors import BertsmithError, DivergenceError, ModelError, RunError
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.reporting.metrics_file import MetricsFile, read_metrics
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.saved.locate import list_checkpoints
from bertsmith.training.progress import Progress
from bertsmith.training.run import Run
from bertsmith.training.trainer import Trainer
from tests.support.objective import Losses, losses_of
from tests.support.runs import TINY_RUN, pretrain, result_of, stopped_and_resumed, unfinish

Poison = Callable[[set[int], float], list[int]]


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Path:
    """A copy of a finished run of 8 steps; checkpoints after 6 and 8."""
    return Path(shutil.copytree(finished_run.output, tmp_path / "run"))


def test_a_finished_run_says_so_and_is_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as leaving:
        main(["pretrain", "--resume", "--output", str(run)])
    assert leaving.value.code == 0
    said = capsys.readouterr()
    assert f"The run {run} is finished; a larger budget would go on with it." in said.err
    assert "MLM loss" in said.out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_larger_budget_goes_on(run: Path) -> None:
    longer = pretrain(run, resume=True, steps=9)
    assert longer.metrics["steps"] == 9
    lines = read_metrics(run)
    steps = [line["step"] for line in lines if "learning_rate" in line]
    assert steps == list(range(1, 10))
    assert [line.get("finished", False) for line in lines].count(True) == 1
    # The closing losses are those of the last tenth of the new budget alone: of its last step.
    (last,) = (line for line in lines if line["step"] == 9 and "learning_rate" in line)
    assert longer.metrics["mlm_loss"] == last["mlm_loss"]


def test_a_budget_that_is_spent_already_is_refused(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="must be over what the run has done, 8 steps"):
        pretrain(run, resume=True, steps=5)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_died_before_its_last_line_is_finished(finished_run: Run, run: Path) -> None:
    unfinish(run)
    pretrain(run, resume=True)
    assert result_of(run) == result_of(finished_run.output)


def test_where_there_is_no_run_one_begins(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = bertsmith.pretrain(
        text_file, output=tmp_path / "r", resume=True, **{**TINY_RUN, "steps": 2}
    )
    assert "There is no run in" in capsys.readouterr().err
    assert first.metrics["steps"] == 2


def test_resume_needs_a_folder_and_does_not_replace(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="give --output"):
        bertsmith.pretrain(text_file, resume=True, quiet=True)
    with pytest.raises(RunError, match="not both"):
        pretrain(tmp_path / "r", text_file, resume=True, overwrite=True)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"has other files \(thesis\.tex\)"):
        pretrain(tmp_path, text_file, resume=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 7}, r"`seed` \(0 before, 7 now\)"),
        ({"batch_size": 8}, r"`batch_size` \(16 before, 8 now\)"),
        ({"preset": "tiny"}, r"made with preset textbook, and tiny was asked for"),
        ({"min_frequency": 3, "learning_rate": 0.1}, r"`min_frequency` .*, `learning_rate` "),
        ({"tokenizer": "wordpiece"}, r"`tokenizer` \(word before, wordpiece now\)"),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(
    run: Path, change: dict[str, Any], named: str
) -> None:
    before = (run / "config.toml").read_bytes()
    with pytest.raises(BertsmithError, match=named):
        pretrain(run, resume=True, steps=10, **change)
    assert (run / "config.toml").read_bytes() == before


def test_every_setting_is_either_held_or_free() -> None:
    config = resolve()
    fields = {name for section in SECTIONS for name in vars(getattr(config, section))}
    assert fields > MAY_CHANGE
    names = set(reproducibility_settings(config))
    assert names == (fields | {"preset", "recipe"}) - MAY_CHANGE - {"corpus", "validation"}
    assert differences(reproducibility_settings(config), reproducibility_settings(config)) == []


def test_how_a_run_runs_may_change(run: Path) -> None:
    unfinish(run)
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    pretrain(run, resume=True, micro_batch=5, log_every=2, keep_checkpoints=1)
    assert len(list_checkpoints(run)) == 1
    assert "micro_batch = 5" in (run / "config.toml").read_text()


def test_another_text_under_the_same_name_is_refused(
    text_file: Path, tmp_path: Path, documents: object
) -> None:
    corpus = tmp_path / "t.txt"
    corpus.write_bytes(text_file.read_bytes())
    pretrain(tmp_path / "r", corpus)
    moved = corpus.rename(tmp_path / "moved.txt")
    longer = pretrain(tmp_path / "r", moved, resume=True, steps=7)
    assert longer.metrics["steps"] == 7
    moved.write_text(moved.read_text().replace("crane", "train", 3))
    with pytest.raises(RunError, match=r"`corpus` \(.*t\.txt before, .*moved\.txt now\) gives an"):
        pretrain(tmp_path / "r", moved, resume=True, steps=9)


@pytest.mark.parametrize("kind", ["flipped", "cut off", "missing"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    kind: str, finished_run: Run, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    newest = run / "checkpoints" / "step-00000008"
    names = sorted(path.name for path in newest.iterdir())
    assert len(names) == 7
    for name in names:
        copy = run.with_name(f"{kind} {name}")
        shutil.copytree(run, copy)
        path = copy / "checkpoints" / newest.name / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()
        if kind != "missing":
            path.write_bytes(content if kind == "flipped" else content[: len(content) // 2])
        assert name in str(damage(path.parent)) or name == "SHA256SUMS", name
        if name in ("model.safetensors", "SHA256SUMS"):  # the others are found the same way
            bertsmith.pretrain(output=copy, resume=True)
            said = capsys.readouterr().err
            assert "The checkpoint step-00000008 is damaged: " in said
            assert "going on from step-00000006" in said
            assert result_of(copy) == result_of(finished_run.output)
            assert (copy / "checkpoints" / "step-00000008.damaged").is_dir()


def test_where_all_checkpoints_are_damaged_nothing_is_touched(run: Path) -> None:
    unfinish(run)
    for checkpoint in list_checkpoints(run):
        (checkpoint / "config.json").write_text("{}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"step-00000008 is damaged \(config\.json .*step-00000006"):
        pretrain(run, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinish(run)

    def unreadable(folder: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("bertsmith.training.checkpoint.damage", unreadable)
    with pytest.raises(RunError, match="Stale file handle"):
        pretrain(run, resume=True)
    assert len(list_checkpoints(run)) == 2


def test_a_run_without_its_report_is_not_begun_over(run: Path) -> None:
    (run / "corpus.json").unlink()
    with pytest.raises(RunError, match=r"must have its corpus\.json to go on"):
        pretrain(run, resume=True)
    assert len(list_checkpoints(run)) == 2


def test_other_files_in_the_folder_do_not_matter_to_a_resumed_run(run: Path) -> None:
    (run / "slurm-1.out").write_text("log")
    assert pretrain(run, resume=True, steps=9).metrics["steps"] == 9
    assert (run / "slurm-1.out").read_text() == "log"


def test_a_setting_that_came_later_is_at_its_default(run: Path) -> None:
    unfinish(run)
    for folder in list_checkpoints(run):
        state = json.loads((folder / "training_state.json").read_text())
        del state["held"]["text_column"]
        (folder / "training_state.json").write_text(json.dumps(state))
        (folder / "SHA256SUMS").unlink()
        with whole_folder(folder.with_name("work")) as work:
            for path in folder.iterdir():
                shutil.copy(path, work)
        shutil.rmtree(folder)
        folder.with_name("work").rename(folder)
    assert pretrain(run, resume=True).metrics["steps"] == 8


def test_a_finished_run_without_its_checkpoints_is_not_begun_over(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="must have a checkpoint to go on from"):
        pretrain(run, resume=True, steps=10)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_model_that_was_lost_is_made_again(finished_run: Run, run: Path) -> None:
    shutil.rmtree(run / "model")
    pretrain(run, resume=True)
    assert result_of(run) == result_of(finished_run.output)
    modes = {path.stat().st_mode & 0o777 for path in (run / "model").iterdir()}
    assert modes == {(run / "config.toml").stat().st_mode & 0o777}


def test_nothing_to_resume_and_nothing_to_begin_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"no run in .* and no corpus"):
        bertsmith.pretrain(output=tmp_path / "typo", resume=True)
    with pytest.raises(SystemExit) as leaving:
        main(["pretrain", "--resume", "--output", str(tmp_path / "typo")])
    assert leaving.value.code == 1
    assert "give --corpus" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_config_that_was_edited_is_held_against_the_checkpoint(run: Path) -> None:
    unfinish(run)
    config = run / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 5"))
    with pytest.raises(RunError, match=r"`seed` \(0 before, 5 now\)"):
        pretrain(run, resume=True)


def test_a_run_that_dies_as_it_begins_a_larger_budget_goes_on(
    finished_run: Run, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    pretrain(other, resume=True, steps=12)
    for where in ("begin", "train"):
        with monkeypatch.context() as patch:
            plain = getattr(Trainer, where)
            # Dead before the log is cut, and after config.toml has the new budget.
            patch.setattr(Trainer, where, lambda *args: (_ for _ in ()).throw(MemoryError()))
            with pytest.raises(MemoryError):
                pretrain(run, resume=True, steps=12)
            assert plain
    assert pretrain(run, resume=True, steps=12).metrics["steps"] == 12
    assert result_of(run) == result_of(other)


def test_lost_lines_of_the_metrics_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinish(run)
    (run / "metrics.jsonl").write_text('{"step": 1}\n3\n{"st\n[]\n{"ste')
    bertsmith.pretrain(output=run, resume=True)
    assert "metrics.jsonl is not what it was" in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(run)] == [1, 8]


@pytest.mark.parametrize("more", [0, 7, 5000])
def test_lines_after_a_loss_are_neither_cut_in_two_nor_kept_twice(run: Path, more: int) -> None:
    unfinish(run)
    state = json.loads((run / "checkpoints/step-00000008/training_state.json").read_text())
    lost = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[3:]
    later = json.dumps({"step": 9, "learning_rate": 1.0, "mlm_loss": 1.0, "nsp_loss": 1.0}) + "\n"
    text = "".join(lost)
    while len(text) < state["metrics_bytes"] + more:
        text += later
    (run / "metrics.jsonl").write_text(text)
    pretrain(run, resume=True)
    steps = [line["step"] for line in read_metrics(run)]
    assert steps == [*(json.loads(line)["step"] for line in lost), 8]


def test_going_on_late_replays_nothing(run: Path, poison: Poison) -> None:
    unfinish(run)
    folder = run / "checkpoints" / "step-00000008"
    late = folder.with_name("step-01000000")
    with whole_folder(late) as work:
        for path in folder.iterdir():
            shutil.copy(path, work)
        state = json.loads((work / "training_state.json").read_text())
        state["spent"]["step"] = 1_000_000
        (work / "training_state.json").write_text(json.dumps(state))
        (work / "SHA256SUMS").unlink()
    asked = poison(set(), 1.0)
    pretrain(run, resume=True, steps=1_000_002)
    assert asked == [1_000_000, 1_000_001]


def test_checkpoints_are_pruned_by_the_policy(text_file: Path, tmp_path: Path) -> None:
    pretrain(
        tmp_path / "r", text_file, steps=9, checkpoint_every=1, keep_checkpoints=2, keep_every=3
    )
    names = sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir())
    assert [int(name.removeprefix("step-")) for name in names] == [3, 6, 8, 9]


def test_what_is_kept_is_saved_whatever_the_interval(text_file: Path, tmp_path: Path) -> None:
    pretrain(tmp_path / "r", text_file, steps=9, checkpoint_every=5, keep_every=4)
    names = sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir())
    assert [int(name.removeprefix("step-")) for name in names] == [4, 8, 9]


def test_checkpoints_at_numbers_of_words_are_kept(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    num_words = len(text_file.read_text().split())
    marks = (num_words // 3, num_words, 2 * num_words, 99 * num_words)
    settings: dict[str, Any] = {
        **TINY_RUN,
        "tokenizer": "wordpiece",
        "vocab_size": 200,
        "epochs": 3,
        "objective": "mlm",
        "max_length": 60,
        "batch_size": 4,
        "keep_checkpoints": 1,
        "validation_fraction": 0.0001,
        "checkpoint_at_words": [f"{marks[0]},{marks[1]}", *map(str, marks[2:])],
    }
    run = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    kept = run.metrics["checkpoints_at_words"]
    assert [*kept] == [str(mark) for mark in marks[:3]]
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    steps = run.metrics["steps"]
    assert names == sorted({f"step-{step:08d}" for step in [*kept.values(), steps]})
    # An epoch reads each word of the training text once.
    assert kept[str(marks[1])] == pytest.approx(steps / 3, rel=0.1)
    assert "checkpoints at numbers of words" in "".join(run.closing_lines())
    again = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert again.metrics["checkpoints_at_words"] == kept
    assert "no checkpoint at" in capsys.readouterr().err  # the last mark was not reached
    bertsmith.branch(run.output / "checkpoints" / f"step-{steps:08d}", tmp_path / "c")
    asked: dict[str, Any] = {"epochs": 4.0, "checkpoint_at_words": ["10"]}
    branched = bertsmith.pretrain(output=tmp_path / "c", resume=True, quiet=True, **asked)
    assert branched.metrics["checkpoints_at_words"] == {}
    assert "no checkpoint at 10 words" in capsys.readouterr().err
    assert result_of(again.output) == result_of(run.output)


def test_sha256sum_checks_a_checkpoint(run: Path) -> None:
    for line in (run / "model" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert len(digest) == 64
        assert (run / "model" / name).is_file()


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Spoils the losses of some batches by a factor; gives the numbers of those trained on."""

    def spoil(numbers: set[int], factor: float) -> list[int]:
        asked: list[int] = []
        wanted = [[number] for number in numbers]
        make, losses = Batches.batch, losses_of

        def batch(self: Batches, number: int) -> Batch:
            asked.append(number)
            return make(self, number)

        def spoiled(model: Bert, batch: Batch, key: int) -> Losses:
            found = losses(model, batch, key)
            return Losses(found.mlm * factor, found.nsp) if asked[-1:] in wanted else found

        monkeypatch.setattr(Batches, "batch", batch)
        monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(spoiled))
        return asked

    return spoil


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 5.0])
def test_divergence_goes_back_and_leaves_the_batch_out(
    factor: float,
    poison: Poison,
    text_file: Path,
    tmp_path: Path,
) -> None:
    asked = poison({3}, factor)
    found = pretrain(tmp_path / "r", text_file)
    assert asked == [0, 1, 2, 3, 2, 4, 5, 6]
    lines = read_metrics(tmp_path / "r")
    steps = [line["step"] for line in lines if "learning_rate" in line]
    assert steps == [1, 2, 3, 4, 5, 6], "no step is missing, none is there twice"
    (event,) = (line for line in lines if "rolled_back_from" in line)
    assert (event["step"], event["rolled_back_from"], event["skipped_batch"]) == (2, 4, 3)
    assert found.metrics["rollbacks"] == 1


def test_a_process_that_dies_after_it_rolled_back_comes_to_the_same(
    poison: Poison, text_file: Path, tmp_path: Path
) -> None:
    poison({3}, float("nan"))
    pretrain(tmp_path / "r", text_file, keep_checkpoints=9)
    for step in (4, 2):  # after the rollback, and before it: then it rolls back again
        copy = Path(shutil.copytree(tmp_path / "r", tmp_path / f"from {step}"))
        unfinish(copy)
        for later in list_checkpoints(copy):
            if int(later.name.removeprefix("step-")) > step:
                shutil.rmtree(later)
        pretrain(copy, resume=True)
        assert result_of(copy) == result_of(tmp_path / "r")


def test_divergence_before_the_first_checkpoint_begins_anew(
    poison: Poison, text_file: Path, tmp_path: Path
) -> None:
    asked = poison({0, 1}, float("nan"))
    pretrain(tmp_path / "r", text_file, steps=3, checkpoint_every=3)
    assert asked == [0, 1, 2, 3, 4]


def test_divergence_without_end_stops_with_a_message(
    poison: Poison, text_file: Path, tmp_path: Path
) -> None:
    poison(set(range(3, 100)), float("nan"))
    with pytest.raises(DivergenceError, match=r"At step 4 .* \(after 2 rollbacks\); .*00000002"):
        pretrain(tmp_path / "r", text_file, max_rollbacks=2)
    weights = bertsmith.load(tmp_path / "r", device="cpu")
    assert weights


def test_a_validation_that_overflows_is_divergence(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"not a finite number|not finite"):
        pretrain(
            tmp_path / "r",
            text_file,
            steps=3,
            learning_rate=1e20,
            max_grad_norm=0.0,
            max_rollbacks=1,
        )
    assert not (tmp_path / "r" / "model").exists()


def test_time_that_a_rollback_lost_is_given_back(
    poison: Poison, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison({2}, float("nan"))
    clock = itertools.count(step=0.5)
    monkeypatch.setattr("bertsmith.training.trainer.time.perf_counter", lambda: next(clock))
    found = pretrain(tmp_path / "r", text_file, steps=None, minutes=0.2, checkpoint_every=100)
    assert found.metrics["rollbacks"] == 1
    assert found.metrics["steps"] > 3
    assert found.metrics["mlm_loss"] > 0


def test_a_divergence_waits_for_the_checkpoint_under_way(
    poison: Poison, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(set(range(2, 99)), float("nan"))
    write = Snapshot.write

    def slow(snapshot: Snapshot, folder: Path) -> None:
        time.sleep(0.5)  # the next step, which diverges, is over long before
        write(snapshot, folder)

    monkeypatch.setattr(Snapshot, "write", slow)
    with pytest.raises(DivergenceError, match="step-00000002"):
        pretrain(tmp_path / "r", text_file, max_rollbacks=0)
    assert damage(list_checkpoints(tmp_path / "r")[-1]) is None


def test_a_spike_needs_a_bound_and_a_nat(poison: Poison, text_file: Path, tmp_path: Path) -> None:
    asked = poison({3}, 5.0)
    pretrain(tmp_path / "r", text_file, spike_factor=0.0)
    assert asked == list(range(6))


def test_a_long_log_is_read_in_part(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in range(1, 1001):
            metrics.write(step, {"learning_rate": 0.5, "mlm_loss": 1.0})
            if step % 100 == 0:
                metrics.write(step, {"validation_mlm_loss": 2.0})
    lines = read_metrics(tmp_path, about=50)
    training = [line["step"] for line in lines if "learning_rate" in line]
    assert 40 < len(training) < 70
    assert {b - a for a, b in itertools.pairwise(training)} == {training[1] - training[0]}
    assert training[0] == 1
    assert training[-1] > 970
    assert sum("validation_mlm_loss" in line for line in lines) == 10
    assert len(read_metrics(tmp_path)) == 1010


def test_metrics_are_cut_at_a_place(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        metrics.write(1, {"a": 1.5})
        length = metrics.flush()
        metrics.write(2, {})
        assert metrics.cut(length, 1)
        metrics.write(3, {})
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1.5}, {"step": 3}]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"format": 3}x',
        '{"format": 2}',
        "[1]",
        '{"format": 3, "spent": {"step": -1}}',
        '{"format": 3, "spent": {"step": 1e400}}',
        '{"format": 3, "spent": {"step": "1"}}',
        '{"format": 3, "skipped": [99999999999999999999]}',
        '{"format": 3, "mean_loss": NaN}',
        "[" * 100_000,
    ],
)
def test_a_state_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "training_state.json"
    path.write_text(text)
    with pytest.raises(ModelError):
        Progress.read(path)


def test_progress_comes_back_as_it_was(tmp_path: Path) -> None:
    progress = Progress(skipped=[5, 2, 3], mean_loss=1 / 3)
    progress.spent.step, progress.spent.seconds = 7, 0.1
    progress.window.losses |= {"mlm": 1e-300, "other": -2.5}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(progress.to_json()))
    assert Progress.read(path) == progress


def test_batches_left_out_leave_all_others_in_order() -> None:
    def numbers(skipped: list[int]) -> Iterator[int]:
        for step in itertools.count():
            progress = Progress(skipped=skipped)
            progress.spent.step = step
            yield progress.batch_number

    for skipped in ([], [0], [3, 4], [7, 0, 2]):
        expected = [number for number in range(20) if number not in skipped][:12]
        assert list(itertools.islice(numbers(skipped), 12)) == expected


def test_moments_of_another_model_are_refused(run: Path, text_file: Path, tmp_path: Path) -> None:
    unfinish(run)
    for checkpoint in list_checkpoints(run):
        with whole_folder(checkpoint.with_name("work")) as work:
            for path in checkpoint.iterdir():
                if path.name not in ("SHA256SUMS", "optimizer.safetensors"):
                    shutil.copy(path, work)
            from safetensors.torch import save_file

            empty: dict[str, Tensor] = {"step.pooler.bias": torch.zeros(())}
            save_file(empty, work / "optimizer.safetensors")
        shutil.rmtree(checkpoint)
        checkpoint.with_name("work").rename(checkpoint)
    with pytest.raises(BertsmithError, match=r"optimizer\.safetensors must hold"):
        pretrain(run, resume=True)
