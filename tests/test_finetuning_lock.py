"""Two fine-tunings of one folder: the second one is told, and the first one's is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.durable import damage
from bertsmith.errors import RunError
from bertsmith.finetuning import finetune
from bertsmith.finetuning.train import Training
from tests.support.labelled import FAST, rows_of, write


def test_one_at_a_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, run = tmp_path / "out" / "mine", Training.run
    options: dict[str, Any] = {**FAST, "epochs": 1, "baseline": False, "quiet": True}
    options |= {"train": write(tmp_path / "train.tsv", rows_of(40)), "output": output}
    options |= {"validation": write(tmp_path / "dev.tsv", rows_of(20, seed=1))}
    told: list[str] = []

    def again(*args: Any) -> Any:
        with pytest.raises(RunError, match="is in use by another fine-tuning") as caught:
            bertsmith.finetune(folder, **options, overwrite=True)
        told.append(str(caught.value))
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", again)
        bertsmith.finetune(folder, **options)
    assert str(output) in told[0]
    assert damage(output) is None
    assert [path.name for path in output.parent.iterdir()] == ["mine"], "no lock is left"

    # One that began to read before the other had finished does not replace what that one made.
    before = (output / "results.json").stat().st_mtime_ns
    checks = iter([lambda *args, **kwargs: None, finetune._check_output])
    monkeypatch.setattr(
        finetune, "_check_output", lambda *args, **kwargs: next(checks)(*args, **kwargs)
    )
    with pytest.raises(RunError, match="already holds a fine-tuned model"):
        bertsmith.finetune(folder, **options)
    assert (output / "results.json").stat().st_mtime_ns == before
    assert damage(output) is None
