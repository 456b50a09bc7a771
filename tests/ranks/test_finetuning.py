"""Fine-tunings on several ranks: the same rows, figures and weights, going on, one voice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.ranks.job import Job, bertsmith, run
from tests.support.labelled import rows_of, write


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> list[str]:
    """25 rows in batches of 10: batches reach into the next epoch, and ranks get unlike parts."""
    train = write(tmp_path / "train.tsv", rows_of(25))
    validation = write(tmp_path / "dev.tsv", [*rows_of(30, seed=1), ("bird " * 60, "yes")])
    tables = ["--train", str(train), "--validation", str(validation)]
    flags = "--epochs 3 --batch-size 10 --learning-rate 0.003 --device cpu --quiet --no-baseline"
    return ["finetune", str(folder), *tables, *flags.split()]


@pytest.mark.slow
def test_one_is_the_same_on_several_ranks(command: list[str], tmp_path: Path) -> None:
    outputs = [tmp_path / f"on-{size}" for size in (1, 3)]
    for size, output in zip((1, 3), outputs, strict=True):
        job = run(size, bertsmith, [*command, "--output", str(output)], logs=tmp_path / "logs")
        assert job.said(0).count("texts were cut to") == 1
        assert [job.said(rank) for rank in range(1, size)] == [""] * (size - 1)
    one, other = (load_file(output / "model.safetensors") for output in outputs)
    for name, weight in one.items():
        np.testing.assert_allclose(other[name], weight, rtol=0, atol=2e-4, err_msg=name)
    assert {path.name for path in outputs[0].iterdir()} == {
        path.name for path in outputs[1].iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "2", "--output", "x"], "at least one for each of the 3 ranks"),
        (["--output", "file/x"], "Cannot write to"),
    ],
)
def test_errors_are_said_once(
    flags: list[str],
    message: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    job = Job(3, bertsmith, [*command, *flags], logs=tmp_path / "logs")
    assert job.end() == [1, 1, 1]
    assert message in job.said(0)
    assert [job.said(1), job.said(2)] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tokens", "similarity"])
def test_tags_and_vectors_are_the_same_on_several_ranks(
    task: str, folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.tsv"
    if task == "tokens":
        table.write_text("the\tO\nbird\tB-a\n\ngrey\tB-b\nwings\tI-b\n\n" * 9)
    else:
        rows = [(f"{word} {n}", f"{word} hills") for n, (word, _) in enumerate(rows_of(15))]
        write(table, rows, header="question\tanswer")
    named = ["--train", str(table), "--validation", str(table), "--task", task]
    flags = "--epochs 2 --batch-size 6 --learning-rate 0.003 --device cpu --quiet --no-baseline"
    outputs = [tmp_path / f"on-{size}" for size in (1, 2)]
    for size, output in zip((1, 2), outputs, strict=True):
        command = ["finetune", str(folder), *named, *flags.split(), "--output", str(output)]
        run(size, bertsmith, command, logs=tmp_path / "logs")
    one, other = (load_file(output / "model.safetensors") for output in outputs)
    for name, weight in one.items():
        np.testing.assert_allclose(other[name], weight, rtol=0, atol=2e-4, err_msg=name)
    names = [{path.name for path in output.rglob("*")} for output in outputs]
    assert names[0] == names[1]
