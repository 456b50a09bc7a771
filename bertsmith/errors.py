"""What can go wrong, as a tree: everything a user can mend derives from `BertsmithError`.

A message says what must hold, what was found, and what to do. The command line prints it as one
line and leaves with exit status 1; from Python it is an ordinary exception. `RunStopped` is no
error: somebody asked for it.
"""

import signal
import unicodedata

_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, surrogates, line ends
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the order in which what follows is shown."""


def printable(text: str) -> str:
    """`text` with the characters escaped that would speak to a terminal, as Python writes them.

    A text, a file's name or a vocabulary entry may hold terminal escapes, line ends, overrides of
    the direction, or half a surrogate pair. Joiners stay, which Persian and Hindi are written with.
    """
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) in _CONTROLS or c in _DIRECTIONS
        else c
        for c in text
    )


class BertsmithError(Exception):
    """Base of every error that the user can mend."""

    def __str__(self) -> str:
        """The message in one line: what a file brought in must not speak to the terminal."""
        return printable(super().__str__())


class ConfigError(BertsmithError):
    """A setting has an impossible value, an unknown name, or contradicts another one."""


class MissingExtraError(BertsmithError):
    """A library that only some commands need is not installed."""


class CorpusError(BertsmithError):
    """A corpus is missing, unreadable, or holds no text to learn from."""


class DownloadError(CorpusError):
    """No source gave the file that was asked for."""


class TokenizerError(BertsmithError):
    """A tokenizer cannot be trained from the text or read from its folder."""


class DataError(BertsmithError):
    """The text is there, but no batch of examples can be made of it."""


class ModelError(BertsmithError):
    """A model folder is incomplete, damaged, or not the BERT that is asked for."""


class InputError(BertsmithError):
    """A text given to a trained model does not suit what is asked of it."""


class RunError(BertsmithError):
    """A run's folder is in use, is not a run, or cannot be written."""


class DeviceError(BertsmithError):
    """The device that was asked for is not on this machine."""


class SaidElsewhere(BertsmithError):  # noqa: N818
    """Another process of the job met the error, or the launcher did, and says what it was."""


class DivergenceError(BertsmithError):
    """A loss or a gradient is no longer a finite number."""


class RunStopped(KeyboardInterrupt):
    """A signal asked a run to stop. What it has done is in a checkpoint, and it can be resumed.

    Attributes:
        by: the signal.
    """

    def __init__(self, by: signal.Signals, message: str = "") -> None:
        super().__init__(message or f"stopped by {by.name}")
        self.by = by
