"""Standard input as a file: a pipe gives a text once, and a preparation reads it several times."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bertsmith.errors import CorpusError

NAME = "-"
"""What stands for it where a corpus is named."""


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
        return file
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
