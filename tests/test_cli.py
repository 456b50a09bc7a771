"""The command line itself: what it says of itself, of its defaults, and to a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import RunError


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, flag) == (0, f"bertsmith {bertsmith.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "flag", "default"),
    [
        ("pretrain --preset base", "--num-hidden-layers", "12"),
        ("pretrain --preset base", "--epochs", "4.0"),
        ("pretrain --preset base", "--learning-rate", "0.0001"),
        ("pretrain --preset=mini", "--hidden-size", "256"),
        ("pretrain --recipe chapter", "--steps", "50"),
        ("pretrain --recipe chapter", "--epochs", "none"),
        ("prepare --preset mini", "--tokenizer", "wordpiece"),
        ("estimate --preset large", "--hidden-size", "1024"),
    ],
)
def test_help_shows_the_defaults_of_the_preset_and_the_recipe(
    arguments: str, flag: str, default: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = call(capsys, *arguments.split(), "--help")
    assert status == 0
    words = out.replace("│", " ").split()
    begin = words.index(flag)
    shown = words.index("(default:", begin) if "(default:" in words[begin:] else begin
    assert words[shown + 1].rstrip(")") == default


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--minutes", "1"], "tiny"),
        (["--minutes", "30"], "tiny"),
        (["--minutes", "60"], "mini"),
        (["--minutes", "71"], None),
        (["--minutes", "60", "--preset", "textbook"], None),
        (["--minutes", "60", "--preset", "tiny"], None),
        (["--steps", "3"], None),
        (["--minutes", "1", "--quiet"], None),
        (["--minutes", "1", "--hidden-size", "64"], None),
        (["--minutes", "1", "--architecture", "modernbert"], None),
    ],
)
def test_a_budget_of_minutes_without_a_preset_is_told_which_one_learns_most(
    flags: list[str],
    named: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*args: object, **settings: object) -> None:
        raise RunError("Far enough.")

    monkeypatch.setattr("bertsmith.training.pretrain.run_pretraining", stopped)
    with pytest.raises(SystemExit):
        main(["pretrain", "--corpus", "texts/", "--device", "cpu", *flags])
    said = capsys.readouterr().err
    assert ("No --preset was named" in said) == (named is not None)
    assert named is None or f": --preset {named} (docs" in said


COMPLETE = """
source {script}
complete -o default -F _tyro_bertsmith bertsmith
try() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _tyro_bertsmith bertsmith "${{@: -1}}" "${{@: -2:1}}"
  echo "${{COMPREPLY[@]}}"
}}
try bertsmith pre
try bertsmith pretrain --learn
try bertsmith pretrain --optimizer ""
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, script = call(capsys, "--tyro-print-completion", "bash")
    assert status == 0
    path = tmp_path / "completion"
    path.write_text(script)
    subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(
        ["bash", "-c", COMPLETE.format(script=path)], capture_output=True, text=True, check=True
    )
    commands, flags, choices = map(set, map(str.split, done.stdout.splitlines()))
    assert commands == {"pretrain", "prepare"}
    assert flags == {"--learning-rate"}
    assert choices == {"muon", "adamw", "adam"}


def test_zsh_completes_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, script = call(capsys, "--tyro-print-completion", "zsh")
    assert status == 0
    assert script.startswith("#compdef bertsmith")
    assert "--learning-rate" in script


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "800"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_that_wait_give_their_core_away_unless_the_environment_says_otherwise(
    given: dict[str, str], expected: str | None
) -> None:
    code = (
        "import os, sys\n"
        "from bertsmith.cli.main import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'its OpenMP would have read it'\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(expected)


def test_importing_bertsmith_changes_no_environment() -> None:
    code = "import os; before = dict(os.environ); import bertsmith; assert os.environ == before"
    subprocess.run([sys.executable, "-c", code], check=True)
