"""Files of vectors: what their endings promise, and whole or as before."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import InputError
from bertsmith.inference.vectors_file import refuse_output, write_vectors
from bertsmith.training.run import Run

TEXTS = ['the "crane", lifts', "a bird", "the old river waits"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def encode(run: Run, source: Path, name: str, pooling: str) -> Path:
    target = source.with_name(name)
    command = ["encode", str(run.output), "--input", str(source), "--output", str(target)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--pooling", pooling, "--device", "cpu"])
    assert stop.value.code == 0
    assert sorted(path.name for path in source.parent.iterdir()) == sorted([source.name, name])
    return target


@pytest.mark.parametrize("name", ["v.csv", "V.CSV"])
@pytest.mark.parametrize("pooling", ["tokens", "cls", "mean"])
def test_a_table_has_every_number_as_it_is(
    name: str, pooling: str, finished_run: Run, source: Path
) -> None:
    with encode(finished_run, source, name, pooling).open(newline="") as stream:
        header, *rows = csv.reader(stream)
    found = bertsmith.load(finished_run.output, device="cpu").encode(TEXTS)
    names = ["text", "token"] if pooling == "tokens" else ["text"]
    assert header == [*names, *map(str, range(16))]
    expected = np.concatenate([np.atleast_2d(one.pooled(pooling)) for one in found])
    numbers = np.array([row[len(names) :] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(numbers, expected)
    if pooling == "tokens":
        assert [row[1] for row in rows] == [token for one in found for token in one.token_texts]
        assert [row[0] for row in rows] == [
            str(number) for number, one in enumerate(found) for _ in one.token_texts
        ]
    else:
        assert [row[0] for row in rows] == ["0", "1", "2"]


def test_one_array_is_read_back(finished_run: Run, source: Path) -> None:
    found = np.load(encode(finished_run, source, "v.npy", "mean"), allow_pickle=False)
    (first, *_) = bertsmith.load(finished_run.output, device="cpu").encode(TEXTS)
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found[0], first.mean, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "message"),
    [
        ("v.txt", "cls", r"must end in \.npz, \.npy, \.csv; got"),
        ("v", "cls", "must end in"),
        ("v.npz.gz", "cls", "must end in"),
        ("v.npy", "tokens", "where texts begin"),
        ("none/v.csv", "cls", "none does not"),
        ("d.csv", "cls", "d.csv is a folder"),
    ],
)
def test_what_cannot_be_written_is_said_first(
    name: str, pooling: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=message):
        refuse_output(tmp_path / name, pooling)


@pytest.mark.parametrize("name", ["v.csv", "v.npz", "v.npy"])
def test_what_ends_early_leaves_the_file_before(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    target.write_text("before")

    def encodings() -> None:
        raise InputError("the third text is none")

    with pytest.raises(InputError, match="the third"):
        write_vectors(target, iter(encodings, 0), "cls")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert target.read_text() == "before"
