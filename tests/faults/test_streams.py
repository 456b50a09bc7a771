"""Whatever becomes of standard output and error, the work and its exit status are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training.run import Run
from tests.support.faults import Machine, begin_arguments
from tests.support.texts import write_text

HARMLESS: dict[str, dict[int, str]] = {
    "closed": {1: "closed", 2: "closed"},
    "output closed": {1: "closed", 2: "ascii"},
    "errors closed": {1: "latin-1", 2: "closed"},
    "readers left": {1: "left", 2: "left"},
    "ascii, and errors on a full disk": {1: "ascii", 2: "/dev/full"},
}

PRINTS = {
    "encode": "encode RUN crane",
    "encode json": "encode RUN naïve --json",
    "fill": "fill RUN [MASK]",
    "next": "next RUN the bird",
    "similar": "similar RUN --word crane TEXT",
    "evaluate": "evaluate RUN --sentences 2",
    "evaluate json": "evaluate RUN --sentences 0 --json",
    "probe": "probe RUN --train TABLE --folds 2 --no-baseline",
    "estimate": "estimate --max-length 16 --device cpu --flops-per-second 1e9",
    "corpora": "corpora",
    "help": "next --help",
    "version": "--version",
}
MAKES = {
    "prepare": "prepare --corpus TEXT --output OUT --processes 1",
    "encode file": "encode RUN --input TEXT --output OUT",
    "finetune": (
        "finetune RUN --train TABLE --validation TABLE --output OUT --no-baseline --seeds 1 "
        "--epochs 1"
    ),
}

COMMANDS = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("probe", "finetune") else name
    for name in (*PRINTS, *MAKES)
]


@pytest.fixture
def words(finished_run: Run, tmp_path: Path) -> dict[str, str]:
    """What the names in the commands stand for."""
    text, table = tmp_path / "text.txt", tmp_path / "t.jsonl"
    write_text(text, [[["the crane lifts a beam", "a crane flies – naïve"]]] * 40)
    rows = '{"text": "the crane", "label": "naïve"}\n{"text": "a bird", "label": "–"}\n'
    table.write_text(rows * 8)
    run = str(finished_run.output)
    return {"RUN": run, "TEXT": str(text), "TABLE": str(table), "OUT": str(tmp_path / "out.npz")}


def arguments(command: str, words: dict[str, str]) -> list[str]:
    given = [words.get(word, word) for word in command.split()]
    return [*given, "--overwrite"] if given[0] in ("prepare", "finetune") else given


@pytest.mark.parametrize("command", COMMANDS)
def test_who_reads_does_not_decide(
    machine: Machine, words: dict[str, str], command: str, tmp_path: Path
) -> None:
    given = arguments({**PRINTS, **MAKES}[command], words)
    for kind, streams in HARMLESS.items():
        ended = machine.run(*given, under=tmp_path, streams=streams)
        assert ended.status == 0, (kind, ended)
        assert not any("Error" in line for line in ended.said), (kind, ended)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_is_refused_fails_where_it_is_all_there_is(
    machine: Machine, words: dict[str, str], command: str, tmp_path: Path
) -> None:
    given = arguments({**PRINTS, **MAKES}[command], words)
    ended = machine.run(*given, under=tmp_path, streams={1: "/dev/full"})
    assert ended.status == (0 if command in MAKES else 1), ended
    assert ended.said[-1].startswith("bertsmith: ")
    assert "No space left on device" in ended.said[-1]
    assert sum("No space left" in line for line in ended.said) == 1


@pytest.mark.parametrize("kind", [*HARMLESS, "all full"])
def test_a_run_is_the_same_whoever_reads(
    machine: Machine, text_file: Path, kind: str, tmp_path: Path
) -> None:
    streams = {**HARMLESS, "all full": {1: "/dev/full", 2: "/dev/full"}}[kind]
    run = tmp_path / "r"
    given = [one for one in begin_arguments(text_file, run, 3) if one != "--quiet"]
    assert machine.run(*given, under=run, streams=streams).status == 0
    assert read_metrics(run)[-1]["finished"]
    # Nothing that is shown went into a file that was opened in the place of a closed stream.
    for path in run.rglob("*"):
        assert not path.is_file() or b"Validating" not in path.read_bytes()


@pytest.mark.parametrize("streams", [{2: "closed"}, {2: "/dev/full"}, {2: "left"}])
def test_what_fails_fails_whoever_reads(
    machine: Machine, streams: dict[int, str], tmp_path: Path
) -> None:
    assert machine.run("fill", tmp_path, "x", under=tmp_path, streams=streams).status == 1
    assert machine.run("pretrain", "--stepz", "3", under=tmp_path, streams=streams).status == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")
@pytest.mark.parametrize(
    ("redirected", "status"), [(">&- 2>&- <&-", 0), (">/dev/full", 1), ("| head -c 1", 0)]
)
def test_a_shell_finds_the_status(redirected: str, status: int) -> None:
    if "/dev/full" in redirected and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = f"set -o pipefail; {sys.executable} -m bertsmith corpora --json {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_that_goes_away_does_not_end_the_work(finished_run: Run) -> None:
    """Bars are on the way when its other end is closed; SIGHUP is ignored, as under nohup."""
    pytest.importorskip("pty")
    code = (
        "import os, pty, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "master, slave = pty.openpty()\n"
        "os.dup2(slave, 2); os.close(slave)\n"
        "from bertsmith import display\n"
        "shown = display.Display()\n"
        "assert shown._is_live\n"
        "with shown.stage('Looking') as progress:\n"
        "    progress(1, 2); os.close(master); progress(2, 2)\n"
        "shown.say('done'); print('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TERM": "xterm"},
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done
