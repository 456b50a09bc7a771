"""What a path means: a run by what is in it, and the newest whole model while a run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bertsmith
from bertsmith.durable import remove_folder
from bertsmith.errors import BertsmithError, ModelError
from bertsmith.saved import hugging_face, locate, stored
from bertsmith.saved.locate import find_run_config, list_checkpoints, read_newest
from bertsmith.training.run import Run


def names_under(tmp_path: Path) -> list[Path]:
    """Places of a run whose names are those of its parts."""
    return [
        tmp_path / "model",
        tmp_path / "checkpoints" / "r",
        tmp_path / "checkpoints" / "step-00000004",
        tmp_path / "model" / "model",
        tmp_path / "r",
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_run_is_known_by_what_is_in_it(number: int, finished_run: Run, tmp_path: Path) -> None:
    run = names_under(tmp_path)[number]
    shutil.copytree(finished_run.output, run)
    settings = run / "config.toml"
    checkpoint = next((run / "checkpoints").iterdir())
    for path in (run, run / "model", checkpoint):
        assert find_run_config(path) == settings
    own = bertsmith.evaluate(run, device="cpu")
    assert own.num_pairs == finished_run.metrics["validation_num_pairs"]
    (checkpoint.rename(run / "kept"), (run / "model").rename(run / "final"))
    assert find_run_config(run / "final") == find_run_config(run / "kept") == settings


def test_a_run_without_its_log_is_one_and_a_damaged_one_is_said(
    finished_run: Run, tmp_path: Path
) -> None:
    run = tmp_path / "model"
    shutil.copytree(finished_run.output, run)
    (run / "metrics.jsonl").unlink()
    (run / "corpus.json").unlink()
    assert find_run_config(run / "model") == run / "config.toml"
    shutil.copy(finished_run.output / "metrics.jsonl", run)
    (run / "config.toml").write_text("preset = ")
    for path in (run, run / "model"):
        with pytest.raises(BertsmithError, match="must be TOML"):
            bertsmith.evaluate(path, device="cpu")


def test_what_lies_beside_a_run_is_not_of_it(
    finished_run: Run, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    shutil.copytree(finished_run.output, run)
    shutil.copytree(folder, run / "other")  # a model of another shape
    assert find_run_config(run / "other") is None
    (tmp_path / "config.toml").write_text("[tool]\nname = 'x'\n")  # of another program
    assert find_run_config(folder) is None
    (tmp_path / "config.toml").write_text("[tool")
    assert find_run_config(folder) is None
    link = tmp_path / "latest"
    link.symlink_to(run / "model")
    assert find_run_config(link) == run / "config.toml"


@pytest.fixture
def live(finished_run: Run, tmp_path: Path) -> Path:
    """A run that goes on: two checkpoints, and no model yet."""
    run = tmp_path / "live"
    shutil.copytree(finished_run.output, run)
    shutil.rmtree(run / "model")
    assert len(list_checkpoints(run)) == 2
    return run


def prune_under(live: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> list[Path]:
    """Let the trainer write a checkpoint and remove the newest, before a file of it is read."""
    newest = list_checkpoints(live)[-1]
    pruned: list[Path] = []

    def first(*arguments: object, **keywords: object) -> object:
        if not pruned:
            later = newest.with_name("step-00000099")
            shutil.copytree(newest, later)
            remove_folder(newest)
            pruned.append(newest)
        return read(*arguments, **keywords)

    owners = {"tensor": stored.StoredTensors, "safe_open": stored}
    owner = owners.get(before, hugging_face)
    read = getattr(owner, before)
    monkeypatch.setattr(owner, before, first)
    return pruned


@pytest.mark.parametrize(
    "before",
    ["read_config", "refuse_large_vocabulary", "read_weights", "opened", "safe_open", "tensor"],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda run: bertsmith.load(run, device="cpu").fill("the [MASK]"),
        lambda run: bertsmith.evaluate(run, device="cpu").num_pairs,
    ],
)
def test_a_model_that_is_pruned_while_it_is_read_gives_way_to_the_newest(
    before: str, use: Callable[[Path], object], live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = prune_under(live, monkeypatch, before)
    assert use(live)
    assert len(pruned) == 1
    assert not pruned[0].exists()


def test_checkpoints_that_go_while_they_are_listed_are_listed_again(
    live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list_checkpoints(live)

    def listed(run: Path) -> list[Path]:
        if found[0].exists():
            shutil.copytree(found[-1], live / "checkpoints" / "step-00000099")
            for checkpoint in found:
                remove_folder(checkpoint)
            return found
        return list_checkpoints(run)

    monkeypatch.setattr(locate, "list_checkpoints", listed)
    assert locate.find_model(live).name == "step-00000099"


def test_a_model_put_in_the_place_of_another_is_read_again(
    live: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(list_checkpoints(live)[-1], live / "model")
    read: list[Path] = []

    def once(found: Path) -> str:
        read.append(found)
        if len(read) == 1:
            shutil.copytree(live / "model", live / "new")
            remove_folder(live / "model")
            (live / "new").rename(live / "model")
            raise FileNotFoundError("it was there a moment ago")
        return "whole"

    assert read_newest(live, once) == "whole"
    assert read == [live / "model"] * 2


def test_what_is_wrong_with_a_model_that_stays_is_said_at_once(live: Path) -> None:
    read: list[Path] = []

    def damaged(found: Path) -> None:
        read.append(found)
        raise ModelError("damaged")

    with pytest.raises(ModelError, match="damaged"):
        read_newest(live, damaged)
    assert len(read) == 1


def test_a_checkpoint_that_was_named_and_goes_is_said(
    live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = list_checkpoints(live)[-1]
    prune_under(live, monkeypatch, "read_weights")
    with pytest.raises(ModelError, match="no run and no model folder"):
        bertsmith.load(newest, device="cpu")


def test_a_folder_that_changes_for_ever_ends(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identities = iter(range(1000))
    monkeypatch.setattr(locate, "_identity", lambda folder: next(identities))
    read: list[Path] = []

    def never(found: Path) -> None:
        read.append(found)
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"):
        read_newest(live, never)
    assert len(read) <= 11


def test_a_run_goes_on_from_a_run_that_prunes(
    live: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = list_checkpoints(live)[-1]
    read = hugging_face.read_weights

    def first(folder: Path, model: object) -> object:
        if newest.exists():
            shutil.copytree(newest, newest.with_name("step-00000099"))
            remove_folder(newest)
        return read(folder, model)  # type: ignore[arg-type]

    monkeypatch.setattr("bertsmith.training.initial.read_weights", first)
    run = bertsmith.pretrain(
        text_file,
        init_from=str(live),
        output=tmp_path / "on",
        steps=1,
        batch_size=8,
        device="cpu",
        quiet=True,
    )
    assert run.metrics["steps"] == 1
    assert not newest.exists()
