"""Words of a field, from a file, as entries of a tokenizer that is there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bertsmith.durable import read_small
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer.tokenizer import Tokenizer

_LARGEST_FILE = 2**24
"""Bytes of a file of tokens."""

_LONGEST_TOKEN = 100
"""Characters."""


class Extended(NamedTuple):
    """A tokenizer with added tokens."""

    tokenizer: Tokenizer
    tokens: list[str]
    """That were added."""
    num_known: int
    """Tokens of the file that were entries already, or the same as another of it."""


def extended(tokenizer: Tokenizer, file: Path) -> Extended:
    """`tokenizer` with the tokens of `file`, one a line, that are not entries of it.

    Raises:
        TokenizerError: the file cannot be read, has no token, or one that no text can have.
    """
    wanted = _read(file)
    tokens = tokenizer.not_entries(wanted)
    found = tokenizer.with_added(tokens)
    for number, token in enumerate(tokens, tokenizer.vocab_size):
        if number not in found.encode_text([f"a {token} b"])[0]:
            raise TokenizerError(
                f"{file}: every token must be found in a text that has it; {token!r} is not, since "
                "the tokenizer writes it otherwise. Leave it out."
            )
    return Extended(found, tokens, len(wanted) - len(tokens))


def _read(file: Path) -> list[str]:
    try:
        text = read_small(file, _LARGEST_FILE).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TokenizerError(f"Cannot read the tokens to add from {file}: {reason}.") from error
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if len(token) > _LONGEST_TOKEN or not token.isprintable():
            raise TokenizerError(
                f"{file}, line {number}: a token must be at most {_LONGEST_TOKEN} printable "
                f"characters; got {token[:_LONGEST_TOKEN]!r}."
            )
        tokens += [token] if token else []
    if not tokens:
        raise TokenizerError(f"{file} must have tokens to add, one a line; it has none.")
    return tokens
