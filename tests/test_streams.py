"""What is shown is plain text, and showing it never fails."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from bertsmith.display import Display, result_console, show
from bertsmith.streams import LenientStream

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
