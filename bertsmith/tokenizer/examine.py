"""What a tokenizer from elsewhere may do to a text: a file of some kilobytes must not fill memory.

A tokenizer.json is a small program: its steps replace, prepend and match as it says. Published ones
write a handful of characters and match simple patterns; what goes far beyond that is refused before
the library reads it. What still fails on a plain text is refused too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import msgspec
from tokenizers import Regex, normalizers
from tokenizers import Tokenizer as Backend

from bertsmith.errors import TokenizerError

_MOST_GROWTH = 100  # times that a text may become longer; NFKC by itself: 18
_MOST_STEPS = 100
_LONGEST_TEXT = 10_000  # characters that a step writes or matches; long patterns have some 500
_LONGEST_TABLE = 2**22  # of a "Precompiled" normalizer; XLM-R's has 316,000
_LONGEST_WORD = 10_000  # characters that WordPiece looks at as one; BERT has 100

_PROBES = (
    "The crane, lifts 1,234 beams!  \n\tÜber École ﷺ 河流 नदी ไทย \U0001f600.",
    *(f"{run}!\n" for run in [*(letter * 64 for letter in "aAxX1é河. \n_"), "the crane " * 8]),
)
"""Plain texts, and runs such as a pattern that looks back without end fails on."""

P = ParamSpec("P")
Result = TypeVar("Result")


class _Model(msgspec.Struct):
    max_input_chars_per_word: int | None = None


class _Rules(msgspec.Struct):
    """What is looked at; the vocabulary, which is most of the file, is passed over."""

    model: _Model | None = None
    normalizer: Any = None
    pre_tokenizer: Any = None
    decoder: Any = None


def guarded(call: Callable[P, Result], *args: P.args, **options: P.kwargs) -> Result:
    """The result of a call of the library, whose own errors are bare exceptions and panics.

    Raises:
        TokenizerError: it failed.
    """
    try:
        return call(*args, **options)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TokenizerError(f"The tokenizer fails on a text: {error}.") from error


def is_panic(error: BaseException) -> bool:
    """Whether it is what the library raises beside `Exception`."""
    return type(error).__name__ == "PanicException"


def examine(content: bytes) -> None:
    """Hold the steps of a tokenizer.json to bounds.

    Raises:
        TokenizerError: a step is beyond them.
        msgspec.MsgspecError, RecursionError: the file is damaged.
    """
    rules = msgspec.json.decode(content, type=_Rules)
    growth, num_steps = 1.0, 0
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(getattr(rules, name)):
            num_steps += 1
            _check_lengths(name, step)
            if name == "normalizer":
                growth *= _growth(step)
    if growth > _MOST_GROWTH:
        raise TokenizerError(
            f"Its normalizer may make a text at most {_MOST_GROWTH} times as long; it makes "
            f"some {growth:,.0f} times."
        )
    if num_steps > _MOST_STEPS:
        raise TokenizerError(f"It may have at most {_MOST_STEPS} steps; it has {num_steps}.")
    longest = rules.model and rules.model.max_input_chars_per_word
    if longest and longest > _LONGEST_WORD:
        raise TokenizerError(
            f"Its words may have at most {_LONGEST_WORD} characters "
            f"(max_input_chars_per_word); it says {longest}."
        )


def try_out(backend: Backend) -> None:
    """Read plain texts. Raises: `TokenizerError`, it panics, or makes far more of one."""
    for text in _PROBES:
        try:
            with _silent():
                num_tokens = len(backend.encode(text).ids)
        except BaseException as error:
            if is_panic(error):
                raise TokenizerError(f"It fails on a plain text: {error}.") from error
            if not isinstance(error, Exception):
                raise
            return  # as without a token for what is unknown: some texts can be read
        if num_tokens > _MOST_GROWTH * len(text):
            raise TokenizerError(
                f"It may make at most {_MOST_GROWTH} tokens of a character; it makes "
                f"{num_tokens // len(text):,}."
            )


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """The steps of a component, laid flat."""
    if not isinstance(component, dict):
        return
    parts = [part for part in component.values() if isinstance(part, list)]
    nested = [step for part in parts for step in part if isinstance(step, dict)]
    if component.get("type") != "Sequence":
        yield component
    for step in nested:
        yield from _steps(step)


def _check_lengths(name: str, step: dict[str, Any]) -> None:
    for key, value in step.items():
        texts = value.values() if isinstance(value, dict) else [value]
        most = _LONGEST_TABLE if key == "precompiled_charsmap" else _LONGEST_TEXT
        longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
        if longest > most:
            raise TokenizerError(
                f"`{key}` of its {name} ({step.get('type')}) may have at most {most:,} "
                f"characters; it has {longest:,}."
            )


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a text may become by a step."""
    written = len(str(step.get("content") or step.get("prepend") or ""))
    if step.get("type") == "Prepend":
        return max(1.0, written)  # of a text of one character, at worst
    if step.get("type") != "Replace":
        return 1.0
    pattern = step.get("pattern")
    if not isinstance(pattern, dict):
        return 1.0
    if (text := pattern.get("String")) is not None:
        return max(1.0, written / max(len(text), 1))
    if written > 1 or _matches_nothing(str(pattern.get("Regex"))):
        return 1.0 + written  # between characters too
    return 1.0


def _matches_nothing(pattern: str) -> bool:
    """Whether a pattern also matches between characters."""
    with _silent():
        try:
            found = normalizers.Replace(Regex(pattern), "x").normalize_str("b c")
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            return False
    return len(found) > len("b c")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The library writes where it panicked to standard error by itself; here it is tried out."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
