"""Words in context: the places where a word stands, by the nearness of its vectors.

A static vector has one crane; here every place where the word stands has a vector of its own, and
those in which it means the same lie near each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bertsmith.corpus.letters import UNSPACED_SCRIPTS, joining, script_of
from bertsmith.errors import InputError
from bertsmith.inference.model import Float32, PretrainedModel, cosine_similarity
from bertsmith.tokenizer.bounds import pieces as pieces_of

_LINES_AT_ONCE = 1024
SHOWN = 40
"""Characters on either side of a word."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a word stands."""

    line: int
    """From 1."""
    left: str
    """Text before it, cut to what is shown."""
    word: str
    """As it stands there."""
    right: str
    vector: Float32 = field(repr=False)
    """[H]; the mean over its pieces."""


class Ranked(NamedTuple):
    """Places by nearness to one."""

    reference: Place
    others: list[tuple[Place, float]]
    """With the cosine of both vectors, the nearest first."""


class _Row(NamedTuple):
    ids: list[int]
    segments: list[int]


def similar_places(
    model: PretrainedModel,
    word: str,
    lines: Iterable[str],
    *,
    to: str | None = None,
    place: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ranked:
    """Rank the places where `word` stands in `lines`.

    A place is read in its line, or in as much of it around the word as the model takes.

    Args:
        model: any encoder.
        word: as it is written; upper case counts if it does for the model.
        lines: of a text.
        to: a text that holds the word: nearness is to its place there. None: to a place in `lines`.
        place: without `to`, the number of that place, from 1.
        progress: told the places found.

    Raises:
        InputError: the word does not stand there, or is unknown to the model.
    """
    if not word.strip():
        raise InputError("The word must not be empty.")
    if place < 1:
        raise InputError(f"`place` must be at least 1; got {place}.")
    found = _places(model, word, lines, progress)
    if to is not None:
        reference = next(iter(_places(model, word, [to])), None)
        if reference is None:
            raise InputError(f"The text given with --to must hold the word {word!r}; got {to!r}.")
    elif place > len(found):
        raise InputError(
            f"The text must hold the word {word!r} at least {max(place, 2)} times to compare its "
            f"places; it stands there {len(found)} times."
        )
    else:
        reference = found.pop(place - 1)
    if not found:
        raise InputError(f"The text must hold the word {word!r} at another place; it does not.")
    ranked = [(other, cosine_similarity(reference.vector, other.vector)) for other in found]
    return Ranked(reference, sorted(ranked, key=lambda pair: -pair[1]))


def _places(
    model: PretrainedModel,
    word: str,
    lines: Iterable[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Place]:
    pattern = pattern_of(word, ignores_case=model.tokenizer.lowercase)
    found: list[Place] = []
    num_unknown = 0
    waiting: list[tuple[int, str, re.Match[str], _Row, slice]] = []

    def flush() -> None:
        vectors = model.hidden_states([row for *_, row, _ in waiting])
        for (number, text, match, _, pieces), rows in zip(waiting, vectors, strict=True):
            found.append(
                Place(
                    line=number,
                    left=text[max(0, match.start() - SHOWN) : match.start()],
                    word=match[0],
                    right=text[match.end() : match.end() + SHOWN],
                    vector=rows[pieces].mean(axis=0),
                )
            )
        waiting.clear()
        progress(len(found), 0)

    numbered = (
        (number, piece)
        for number, line in enumerate(lines, start=1)
        for piece in pieces_of(line.strip())
    )
    for number, text in numbered:
        matches = list(pattern.finditer(text))
        if not matches:
            continue
        ids, spans = model.tokenizer.encode_with_spans(text)
        starts, ends = np.array(spans).reshape(-1, 2).T
        for match in matches:
            pieces = np.flatnonzero((starts < match.end()) & (ends > match.start()))
            if all(ids[piece] == model.tokenizer.unk_id for piece in pieces):
                num_unknown += 1
                continue
            row, within = _window(model, ids, pieces)
            waiting.append((number, text, match, row, within))
        if len(waiting) >= _LINES_AT_ONCE:
            flush()
    flush()
    if num_unknown and not found:
        raise InputError(
            f"The word must be in the model's vocabulary; {word!r} is not. Take another word, or a "
            "model of word pieces."
        )
    return found


def _window(model: PretrainedModel, ids: list[int], pieces: np.ndarray) -> tuple[_Row, slice]:
    """[CLS] … [SEP] around a word, as much as the model takes; and where the word is in it."""
    tokenizer = model.tokenizer
    room = tokenizer.max_length - 2
    first, last = int(pieces[0]), min(int(pieces[-1]) + 1, int(pieces[0]) + room)
    begin = max(0, min((first + last - room) // 2, len(ids) - room))
    part = ids[begin : begin + room]
    row = [tokenizer.cls_id, *part, tokenizer.sep_id]
    return _Row(row, [0] * len(row)), slice(first - begin + 1, last - begin + 1)


def pattern_of(word: str, *, ignores_case: bool) -> re.Pattern[str]:
    """The word by itself; where a script has no spaces, wherever its letters stand."""
    escaped = re.escape(word.strip())
    if not any(script_of(letter) in UNSPACED_SCRIPTS for letter in word):
        inside = rf"[\w{joining()}]"  # behind the word first, which is rare
        escaped = f"{escaped}(?!{inside})(?<!{inside}{escaped})"
    return re.compile(escaped, re.IGNORECASE if ignores_case else 0)
