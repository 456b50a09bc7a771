"""How a table of minimal pairs is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Names of columns; the defaults are those of BLiMP (Warstadt et al. 2020)."""

    good: str = "sentence_good"
    bad: str = "sentence_bad"
    paradigm: str = "UID"
    """What the pairs of a data set are grouped by; where a row lacks it, the name of its file."""
    phenomenon: str = "linguistics_term"
    """What paradigms are grouped by; a row may lack it."""
