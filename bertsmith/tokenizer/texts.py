"""Texts on their way into a model: cut to its length, and what is said of that."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from bertsmith.errors import InputError
from bertsmith.tokenizer.truncation import NUM_SPECIAL_IN_PAIR, truncated_lengths

_SHOWN = 60  # characters of a text in a message


def kept_places(segments: Sequence[int], max_length: int) -> list[int]:
    """Places of [CLS] A [SEP] (B [SEP]) that stay when it is cut to `max_length`, longest first."""
    return cuts(segments, (), max_length)[0]


def cuts(segments: Sequence[int], wanted: Sequence[int], max_length: int) -> list[list[int]]:
    """Cut [CLS] A [SEP] (B [SEP]) to `max_length` such that each wanted place is in some cut.

    The longer text is cut first. Of a text without wanted places its beginning stays; of another
    what lies around them, as much before as behind. Places that are too far apart for one cut are
    in several, each with those that follow one another and fit.

    Args:
        segments: 0 of [CLS] A [SEP], 1 of B [SEP].
        wanted: places in A and B, rising.
        max_length: in tokens.

    Returns:
        The places that stay, rising, of each cut; a place may be in none if a text has no room.
    """
    total = len(segments)
    if total <= max_length:
        return [list(range(total))]
    begin_b = segments.index(1) if 1 in segments else total
    texts, rooms = [range(1, begin_b - 1)], [max_length - 2]
    if 1 in segments:
        texts.append(range(begin_b, total - 1))
        a, b = (np.array([len(text)]) for text in texts)
        rooms = [int(room[0]) for room in truncated_lengths(a, b, max_length - NUM_SPECIAL_IN_PAIR)]
    parts = [
        _stretches(text, [place for place in wanted if place in text], max(room, 0))
        for text, room in zip(texts, rooms, strict=True)
    ]
    found = []
    for number in range(max(map(len, parts))):
        kept = [0]
        for text, stretches in zip(texts, parts, strict=True):
            kept += [*stretches[min(number, len(stretches) - 1)], text.stop]
        found.append(kept)
    return found


def _stretches(text: range, wanted: Sequence[int], room: int) -> list[range]:
    """Parts of `text` of at most `room` places, with the wanted ones in their middles."""
    groups: list[list[int]] = []
    for place in wanted:
        if groups and place - groups[-1][0] < room:
            groups[-1].append(place)
        else:
            groups.append([place])
    last_begin = max(text.start, text.stop - room)
    begins = [
        min(max((group[0] + group[-1] + 1 - room) // 2, text.start), last_begin) for group in groups
    ] or [text.start]
    return [range(begin, min(begin + room, text.stop)) for begin in begins]


def refuse_no_text(text: object) -> None:
    """Raise `InputError` for what is no text that can be written in UTF-8, as a tokenizer needs."""
    if not isinstance(text, str):
        raise InputError(f"A text must be a string; got {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"A text must be valid Unicode; character {error.start + 1} of {shown(text)} is half a "
            "surrogate pair, as a byte that is not UTF-8 becomes on the command line."
        ) from error


def shown(text: str) -> str:
    """A text in a message: in quotes, its beginning if it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def say_what_was_cut(
    lengths: Iterable[int], max_length: int, *, kept: str = "", source: str = ""
) -> None:
    """Warn, in one line, if any of some texts was cut.

    Args:
        lengths: of the texts or pairs, uncut, in tokens.
        max_length: what they were cut to.
        kept: which part of a text was read, if it is not the beginning.
        source: what the texts are of.
    """
    every = list(lengths)
    cut = [length for length in every if length > max_length]
    if not cut:
        return
    num_lost = sum(cut) - max_length * len(cut)
    part = f" ({kept})" if kept else ""
    advice = "Give shorter parts, or train with a larger --max-length."
    if len(every) == 1 and not source:
        message = (
            f"The text was cut to the {max_length} tokens that the model was trained on{part}: of "
            f"its {cut[0]:,} tokens {num_lost:,} were not read. {advice}"
        )
    else:
        message = (
            f"{f'{source}: ' if source else ''}{len(cut):,} of {len(every):,} texts were cut to "
            f"{max_length} tokens{part}: of their {sum(cut):,} tokens {num_lost:,} were not read. "
            f"{advice}"
        )
    warn(message)


def say_what_is_unknown(number: int, total: int, *, source: str = "") -> None:
    """Warn, in one line, if a number of `total` texts have unknown words alone."""
    if not number:
        return
    one = total == 1 and not source
    what = "The text has" if one else f"{number:,} of {total:,} texts have"
    warn(
        f"{f'{source}: ' if source else ''}{what} no word that the model knows: it sees how many "
        "words there are, and not which."
    )


def warn(message: str) -> None:
    """Warn as from the line that called the package, not from one inside it or inside PyTorch."""
    frame, level = inspect.currentframe(), 0
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ("bertsmith", "torch"):
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level + 1)
