from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertsmith.corpus.standard_input import refuse_standard_input
from bertsmith.errors import CorpusError

TEXT = "The crane lifts a beam. The bird flies north. The river waits.\n\n" * 100
ROWS = "".join(json.dumps({"text": text}) + "\n" for text in TEXT.split("\n\n") if text)


def prepare(
    tmp_path: Path, text: str, output: str = "st", *flags: str
) -> subprocess.CompletedProcess[str]:
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "bertsmith", "prepare", "--corpus", "-", "--quiet"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / output), *flags],
        input=text,
        env={**os.environ, "TMPDIR": str(temporary), "BERTSMITH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not list(temporary.glob("bertsmith-*"))
    return done


def splits(store: Path) -> object:
    return json.loads((store / "token-store.json").read_bytes())["splits"]


def test_a_store_of_standard_input_is_that_of_the_file(tmp_path: Path) -> None:
    assert prepare(tmp_path, TEXT).returncode == 0
    assert prepare(tmp_path, TEXT).returncode == 0  # the same text again: it is there
    again = prepare(tmp_path, TEXT + "More of it.\n")
    assert again.returncode == 1
    assert "another text" in again.stderr
    assert prepare(tmp_path, ROWS, "rows").returncode == 0
    assert splits(tmp_path / "rows") == splits(tmp_path / "st")


def test_without_text_it_is_refused(tmp_path: Path) -> None:
    done = prepare(tmp_path, "")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "must hold text; it is empty" in done.stderr


def test_a_run_needs_text_that_can_be_read_again() -> None:
    refuse_standard_input(["a.txt"], [])
    with pytest.raises(CorpusError, match="bertsmith prepare --corpus -"):
        refuse_standard_input(["a.txt"], ["-"])
