"""Places whose names are not UTF-8: refused before the work, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.errors import BertsmithError
from bertsmith.finetuning.train import Training
from bertsmith.preparation import prepare_store
from bertsmith.training import pretrain as training
from tests.support.labelled import rows_of, write
from tests.support.runs import TINY_RUN
from tests.support.stores import config

NAME = os.fsdecode(b"caf\xe9")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / NAME
    try:
        place.mkdir()
        place.rmdir()
    except OSError:
        pytest.skip("the file system takes no such names")
    return place


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_outputs_are_refused_before_the_work(
    inside: str,
    text_file: Path,
    folder: Path,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name in ((training, "prepare_on_ranks"), (Training, "run")):
        monkeypatch.setattr(module, name, None)  # would be called
    tables: dict[str, Any] = {
        "train": write(tmp_path / "train.tsv", rows_of(40)),
        "validation": write(tmp_path / "dev.tsv", rows_of(20)),
    }
    output = place / inside
    before = sorted(tmp_path.rglob("*"))
    message = r"caf\\udce9.* must be in UTF-8 to be written to"
    with pytest.raises(BertsmithError, match=message):
        bertsmith.pretrain(text_file, output=output, steps=2, quiet=True, **TINY_RUN)
    with pytest.raises(BertsmithError, match=message):
        bertsmith.prepare(text_file, output, quiet=True)
    with pytest.raises(BertsmithError, match=message):
        bertsmith.finetune(folder, **tables, output=output, device="cpu", quiet=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cache_is_refused_before_the_work(
    text_file: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTSMITH_CACHE", str(place))
    with pytest.raises(BertsmithError, match=r"caf\\udce9.* must be in UTF-8"):
        prepare_store(config(text_file))
    assert not place.exists()


def test_a_name_in_any_letters_is_taken(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "café 'наш' $x_{$ 河"
    place.mkdir()
    monkeypatch.chdir(place)
    store = prepare_store(config(text_file), Path("store"))
    assert store.damage() == []
    tiny = {name: value for name, value in TINY_RUN.items() if name != "min_frequency"}
    run = bertsmith.pretrain(store.path, output="run", steps=2, quiet=True, **tiny)
    assert bertsmith.load(run.output, device="cpu")
