"""What is shown is plain text, and showing it never fails."""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from bertsmith.cli.main import main
from bertsmith.display import Display, result_console, show
from bertsmith.streams import LenientStream
from bertsmith.training.run import Run

SPEAKS = "\x1b]0;x\x07[bold]:smile:[/nothing]\u202e"
SHOWN = "\\x1b]0;x\\x07[bold]:smile:[/nothing]\\u202e"


class Broken(io.StringIO):
    """A host's own stream."""

    def write(self, text: str) -> int:
        raise RuntimeError("no more")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def full() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO("/dev/full", "w"), line_buffering=True)


@pytest.mark.parametrize("make", [lambda: None, closed, Broken, full])
def test_a_display_never_fails(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if make is full and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    stream = make()
    monkeypatch.setattr(sys, "stderr", stream)
    display = Display()
    display.say("…")
    display.warn("…")
    with display.stage("Looking") as progress:
        progress(1, 2)
    with display.training() as show_step:
        show_step(0.5, 1, {"mlm_loss": 1.0, "segments_per_second": 1.0})
    if make is full:
        LenientStream(stream).let_go()
        stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    raw = io.BytesIO()
    stream = LenientStream(io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    stream.write("naïve – 河\udce9\n")
    stream.flush()
    assert not stream.failed
    text = "naïve – 河\udce9\n"
    assert raw.getvalue() == text.encode(encoding, "backslashreplace")


def test_what_was_refused_is_remembered_but_for_a_reader_that_left() -> None:
    stream = LenientStream(Broken())
    assert stream.write("x") == 1
    assert (stream.failed, str(stream.refusal)) == (True, "no more")

    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    stream = LenientStream(Left())
    stream.write("x")
    assert (stream.failed, stream.refusal) == (True, None)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_speaks_to_the_terminal(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_terminal:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TTY_INTERACTIVE", "0")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    from rich.table import Table

    display = Display()
    assert display._is_live == is_terminal
    display.say(SPEAKS)
    display.warn(f"two\nlines {SPEAKS}")
    with display.stage(SPEAKS) as progress:
        progress(1, 2)
    table = Table(SPEAKS, title=SPEAKS)
    table.add_row(SPEAKS)
    result_console(soft_wrap=True).print(table)
    show(SPEAKS)
    captured = capsys.readouterr()
    for text in captured:
        assert "\x1b]" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
        assert SHOWN in text
        assert "😄" not in text
    assert f"two\\nlines {SHOWN}\n" in captured.err


FAST = (
    "--hidden-size 16 --intermediate-size 32 --num-hidden-layers 1 --max-length 24 "
    "--batch-size 8 --device cpu"
).split()
ESCAPE = "\x1b]0;x\x07"


def test_no_escape_of_a_text_a_name_or_a_label_is_shown(
    tmp_path: Path, finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / f"a{ESCAPE}.jsonl"
    text = f"The crane{ESCAPE} lifts. The bird{ESCAPE} flies north{ESCAPE}."
    # A row that is left out, with a warning that names the file.
    corpus.write_text((json.dumps({"text": text}) + "\n") * 30 + '{"text": 1}\n')
    table = tmp_path / f"t{ESCAPE}.jsonl"
    rows = [{"text": "the crane", "label": f"a{ESCAPE}"}, {"text": "a bird", "label": "b"}] * 8
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": 1, "label": "b"}]))
    out = str(tmp_path / f"o{ESCAPE}")
    tables, briefly = ("--train", table, "--validation", table), ("--no-baseline", "--epochs", "1")
    allowed = ("--max-bad-rows", "0.5")
    words = ("--min-frequency", "1", "--tokenizer", "word")
    for command in (
        (
            "prepare",
            "--corpus",
            corpus,
            "--output",
            out + "1",
            "--processes",
            "1",
            *words,
            *allowed,
        ),
        ("pretrain", "--corpus", out + "1", "--output", out + "2", "--steps", "1", *FAST),
        ("pretrain", "--corpus", out + "1", "--output", out + "2", "--steps", "1", *FAST),
        ("finetune", finished_run.output, "--output", out + "3", *tables, *briefly, *allowed),
        ("fill", out + "2", f"the {ESCAPE} [MASK]"),
        ("encode", out + "2", f"the {ESCAPE}"),
        ("evaluate", out + "2", "--split", ESCAPE),
    ):
        with pytest.raises(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            main([str(argument) for argument in command])
        captured = capsys.readouterr()
        shown = captured.out + captured.err
        assert not {"\x1b", "\x07"} & set(shown), shown
        assert "Traceback" not in shown
