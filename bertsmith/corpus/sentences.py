"""Paragraphs into sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import sentencex

FULL_STOP = " . "
"""Where the textbook splits (d2l.ai 15.9): between words that are parted by spaces already."""

_LONGEST_PARAGRAPH = 2**17
"""Characters of a paragraph that is looked at as one."""

_LONGEST_RUN = 2**14
"""Characters without a space of one that is."""

_WINDOW = 2**13
"""Characters of such paragraphs that are looked at together.

The library goes back to the last space from each full stop, and reads on to the end from a
quotation mark that is never closed, so that its work grows with the square of what it is given.
"""

_MARGIN = 2**10


@dataclass(frozen=True)
class Splitter:
    """How paragraphs are split. It can be sent to another process."""

    rule: Literal["language", "full-stop", "line", "none"] = "language"
    language: str = "en"
    """ISO 639-1 code."""

    def __call__(self, paragraph: str) -> list[str]:
        """The sentences of one paragraph, stripped, in order; no empty ones.

        The rules of a language are those of the `sentencex` library (Wikimedia), which knows the
        abbreviations and full stops of some 240 languages and falls back to a related one for the
        rest. At full stops, the stop between two sentences belongs to neither.

        Args:
            paragraph: text; with the rule `line`, sentences parted by line breaks, else without.
        """
        if self.rule == "language":
            pieces: Iterable[str] = _by_language(paragraph, self.language)
        elif self.rule == "full-stop":
            pieces = paragraph.split(FULL_STOP)
        else:
            pieces = paragraph.split("\n") if self.rule == "line" else [paragraph]
        return [text for piece in pieces if (text := piece.strip())]


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of one paragraph by the rules of a language."""
    return Splitter("language", language)(paragraph)


def _by_language(paragraph: str, language: str) -> Iterator[str]:
    """Sentences as the library finds them; of a paragraph of extraordinary length by windows.

    A window begins where a sentence does. Its last sentences, which may go on or lie in quotation
    marks that are closed behind it, are left to the next one.
    """
    if len(paragraph) <= _LONGEST_RUN or (
        len(paragraph) <= _LONGEST_PARAGRAPH
        and max(map(len, paragraph.split()), default=0) <= _LONGEST_RUN
    ):
        yield from sentencex.segment(language, paragraph)
        return
    begin = 0
    waiting: list[str] = []  # of a sentence that is longer than a window
    while begin < len(paragraph):
        window = paragraph[begin : begin + _WINDOW]
        is_last = begin + _WINDOW >= len(paragraph)
        if not is_last and window.count('"') % 2:
            # Of an odd number the library trusts none.
            window = window[: window.rindex('"')] or window
        found = sentencex.segment(language, window)
        if not is_last:
            ends = itertools.accumulate(map(len, found))
            surely = sum(end <= len(window) - _MARGIN for end in ends)
            found = found[:surely] or found[:-1]
        if not found:
            found = [_up_to_space(window)]
            waiting += found
        else:
            yield "".join([*waiting, found[0]])
            yield from found[1:]
            waiting = []
        begin += sum(map(len, found))
    yield "".join(waiting)


def _up_to_space(text: str) -> str:
    """The beginning of a text that is no whole sentence, up to its last space if it has one."""
    return text[: text.rfind(" ") + 1] or text
