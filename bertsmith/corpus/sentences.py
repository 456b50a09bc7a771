"""Paragraphs into sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sentencex

FULL_STOP = " . "
"""Where the textbook splits (d2l.ai 15.9): between words that are parted by spaces already."""


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
            pieces = sentencex.segment(self.language, paragraph)
        elif self.rule == "full-stop":
            pieces = paragraph.split(FULL_STOP)
        else:
            pieces = paragraph.split("\n") if self.rule == "line" else [paragraph]
        return [text for piece in pieces if (text := piece.strip())]


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of one paragraph by the rules of a language."""
    return Splitter("language", language)(paragraph)
