"""What a text is written in: scripts, marks on letters, and where words begin and end."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np

_MARKS_END = 0x1F000  # behind it only such as choose a variant of a glyph

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Kana, Han
)
"""The inside of a regular expression's class: scripts without spaces between words."""

UNSPACED_SCRIPTS = frozenset(["Cjk", "Hiragana", "Katakana", "Khmer", "Lao", "Myanmar", "Thai"])
"""The same, as `script_of` names them."""

_OF_LATIN = frozenset(["Latin", "Combining", "Kelvin", "Angstrom"])
"""How the names begin of Latin letters and of the accents on them."""

_ASCII_WORD = re.compile(r"\w+")
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")

_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_ALIKE = re.compile("[\u0370-\u052f]")  # Greek and Cyrillic, with letters that look like Latin ones
_MIXED = re.compile(f"{_LATIN.pattern}{_ALIKE.pattern}|{_ALIKE.pattern}{_LATIN.pattern}")


@cache
def joining() -> str:
    """The inside of a regular expression's class: what goes on with a word beside its letters.

    Combining marks, without which a word of Hindi or Thai would end at most of its vowels, and
    joiners, which stand inside words of Persian and Hindi.
    """
    marks = [unicodedata.category(chr(code))[0] == "M" for code in range(_MARKS_END)]
    edges = np.flatnonzero(np.diff(np.array(marks, dtype=np.int8), prepend=0)).tolist()
    ranges = zip(edges[::2], edges[1::2], strict=True)
    return r"\u200c\u200d" + "".join(f"{chr(begin)}-{chr(end - 1)}" for begin, end in ranges)


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A word; and what of it stands alone, as each character of a script without spaces does."""
    return (  # most words end before a space, for which the long class need not be looked through
        re.compile(rf"\w+(?:(?=[^\x00-\u02ff])[{joining()}]+\w*)*"),
        re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+"),
    )


def words_of(text: str) -> list[str]:
    """The words of a text without its punctuation; of scripts without spaces, the characters."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    word, alone = _patterns()
    found: list[str] = word.findall(text)
    if not _UNSPACED_CHARACTER.search(text):
        return found
    return [part for one in found for part in alone.findall(one)]


def script_of(letter: str) -> str:
    """The script of a letter, as Unicode's name for it begins; empty if it has no name."""
    words = re.split("[ -]", unicodedata.name(letter, ""))
    return (words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH") else words[0]).capitalize()


class Letters:
    """The letters of some text, and the marks that follow them, counted.

    Args:
        texts: any.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")
        found, counts = np.unique(codes, return_counts=True)
        self._counts = {
            char: count
            for char, count in zip(map(chr, found.tolist()), counts.tolist(), strict=True)
            if unicodedata.category(char)[0] in "LM"
        }
        self._marked = Counter(
            {char: count for char, count in self._counts.items() if _bare(char) != char}
        )

    def scripts(self) -> dict[str, float]:
        """The share of letters in each script, the largest first; empty if there are none."""
        counts: Counter[str] = Counter()
        for char, count in self._counts.items():
            if char.isalpha():
                counts[script_of(char)] += count
        return {script: count / counts.total() for script, count in counts.most_common()}

    def num_letters(self) -> int:
        """How many letters and marks there are."""
        return sum(self._counts.values())

    def num_marked(self) -> int:
        """How many letters and marks are not the same when accents are stripped."""
        return self._marked.total()

    def marked_share(self) -> float:
        """The share of letters and marks that are not the same when accents are stripped."""
        return self.num_marked() / max(self.num_letters(), 1)

    def marked_beside_latin(self) -> dict[str, float]:
        """The same share by script, of all that are not Latin; the largest first."""
        counts: Counter[str] = Counter()
        for char, count in self._marked.items():
            if (script := script_of(char)) not in _OF_LATIN:
                counts[script] += count
        total = self.num_letters()
        return {script: count / total for script, count in counts.most_common()}


def count_mixed_words(texts: Iterable[str]) -> int:
    """Words with a Greek or Cyrillic letter beside a Latin one, which may look like it."""
    return sum(
        sum(_MIXED.search(word) is not None for word in text.split())
        for text in texts
        if not text.isascii() and _ALIKE.search(text) and _LATIN.search(text)
    )


def _bare(char: str) -> str:
    """A character without its accents, as BERT strips them."""
    parts = unicodedata.normalize("NFD", char)
    return "".join(part for part in parts if unicodedata.category(part) != "Mn")
