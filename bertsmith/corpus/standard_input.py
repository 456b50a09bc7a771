"""Standard input as a file: a pipe gives a text once, and a preparation reads it several times."""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bertsmith.errors import CorpusError

NAME = "-"
"""What stands for it where a corpus is named."""

_LONGEST_LOOK = 2**24  # bytes of a first line


@cache
def file_of_standard_input() -> Path:
    """A file with all that comes from standard input; it vanishes when the process ends.

    It lies where the system keeps temporary files (`TMPDIR` names another place).

    Raises:
        CorpusError: nothing is piped, or the disk is full.
    """
    stream = sys.stdin and sys.stdin.buffer
    if stream is None or stream.isatty():
        raise CorpusError(
            "The corpus - is standard input, which must be piped: "
            "zcat text.gz | bertsmith prepare --corpus - --output stores/mine."
        )
    try:
        folder = Path(tempfile.mkdtemp(prefix="bertsmith-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / "standard-input"
        with file.open("wb") as target:
            shutil.copyfileobj(stream, target, 2**20)
        return file.rename(file.with_suffix(".jsonl")) if _is_json_lines(file) else file
    except OSError as error:
        raise CorpusError(
            f"Cannot keep standard input in {tempfile.gettempdir()}: {error.strerror}. "
            "TMPDIR names another folder for it."
        ) from error


def refuse_standard_input(*names: Sequence[str]) -> None:
    """Raise `CorpusError` if one of the names of texts is standard input."""
    if any(NAME in some for some in names):
        raise CorpusError(
            "A run must have text that can be read again, by --resume and evaluate; the corpus - "
            "is standard input. Prepare it first: bertsmith prepare --corpus - --output "
            "stores/mine, then bertsmith pretrain --corpus stores/mine."
        )


def _is_json_lines(file: Path) -> bool:
    """Whether the first line is a JSON object: there is no name that could say so."""
    with file.open("rb") as stream:
        line = stream.readline(_LONGEST_LOOK)
    try:
        return line.startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
