"""Names of outputs: drawn and said as they are, whatever characters they hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bertsmith.display import shell_word
from bertsmith.reporting.curves import _write, draw_curves

NAMES = [
    b"r$x_{$",
    b"$$",
    b"_",
    b"a  b",
    b"q'uo\"te\\n",
    b"new\nline",
    b"caf\xe9",
    b"-dash",
    b"esc\x1b]0;x\x07",
    "河流 ‮x".encode(),
    b"<!-- &lt; -->",
]


def named(folder: Path, name: bytes) -> Path:
    if sys.platform != "linux":
        pytest.skip("not every system takes every name")
    path = folder / os.fsdecode(name)
    path.mkdir()
    return path


@pytest.mark.parametrize("name", NAMES)
def test_curves_are_titled_with_any_name(name: bytes, tmp_path: Path) -> None:
    run = named(tmp_path, name)
    (run / "metrics.jsonl").write_text('{"step": 1, "mlm_loss": 1.5, "learning_rate": 1.0}\n')
    figure = draw_curves(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in ("png", "svg"):
            _write(figure, run / f"curves.{suffix}", suffix)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(run / "curves.svg")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_is_said_names_the_folder(name: bytes, tmp_path: Path) -> None:
    named(tmp_path, name)
    word = shell_word(Path(os.fsdecode(name)))
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"cd {word} && pwd"], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout.endswith(b"/" + name + b"\n")


def test_a_plain_name_stays_as_it_is() -> None:
    assert shell_word(Path("runs/first")) == "runs/first"
