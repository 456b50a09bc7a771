"""Plain text into sentences, by language."""

from __future__ import annotations

import sentencex


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of one paragraph, stripped, in order; no empty ones.

    The rules are those of the `sentencex` library (Wikimedia), which knows the abbreviations and
    full stops of some 240 languages and falls back to a related one for the rest.

    Args:
        paragraph: text without line breaks.
        language: ISO 639-1 code.
    """
    return [text for part in sentencex.segment(language, paragraph) if (text := part.strip())]
