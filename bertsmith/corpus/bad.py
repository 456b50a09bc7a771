"""What of a corpus cannot be read, and how much of it may be left out.

Rows of tables, lines of plain text and whole files are each judged among their own kind. Readers
count all of them and the bad ones, by reason, in the same counter as all else that is left out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bertsmith.errors import CorpusError, printable

FEWEST_TO_JUDGE = 100_000
"""Rows or lines; before the end of a corpus bad ones may only stand together."""


@dataclass(frozen=True)
class Unit:
    """Something that can be bad."""

    total: str
    """How all of them are counted, good and bad."""
    prefix: str
    """How the reasons begin for which one is bad."""
    must: str
    """What must hold."""
    remedy: str


ROWS = Unit(
    "rows of tables",
    "rows: ",
    "have a text in all but {share} of its rows; {bad} of {total} have none",
    "Mend it, name another column with --text-column, or raise --max-bad-rows.",
)
LINES = Unit(
    "lines of plain text",
    "lines: ",
    "be text in all but {share} of its lines; {bad} of {total} are not",
    "Save it as UTF-8, or all of it in what --encoding says, or raise --max-bad-rows.",
)
FILES = Unit(
    "files that were begun",
    "files: ",
    "be readable to the end in all but {share} of its files; {bad} of {total} are not",
    "Mend or remove them, or raise --max-bad-rows.",
)
NUM_ROWS = ROWS.total
UNITS = (ROWS, LINES, FILES)


def count_bad(unit: Unit, reason: str, left_out: Counter[str]) -> bool:
    """Count a bad one; gives whether it is the first with its reason."""
    left_out[unit.prefix + reason] += 1
    return left_out[unit.prefix + reason] == 1


def warn_of(place: str, reason: str) -> None:
    """Name something that is left out. Warnings may be written down, where bytes must be text."""
    warnings.warn(printable(f"{place}: {reason}; left out."), stacklevel=3)


def refuse_bad(
    source: str,
    left_out: Counter[str],
    max_share: float,
    *,
    first: Iterable[str] = (),
    fewest: int = 0,
) -> None:
    """Raise `CorpusError` if more than a share of rows, of lines or of files is bad.

    Args:
        source: what is judged, for the message.
        left_out: what readers counted.
        max_share: of each unit.
        first: the first of each reason with its place; default: the reasons.
        fewest: units of which there are less are not judged yet.
    """
    for unit in UNITS:
        reasons = [reason for reason in left_out if reason.startswith(unit.prefix)]
        bad, total = sum(left_out[reason] for reason in reasons), left_out[unit.total]
        if total >= fewest and bad > max_share * total:
            told = list(first) or [reason.removeprefix(unit.prefix) for reason in reasons]
            must = unit.must.format(share=f"{max_share:.1%}", bad=f"{bad:,}", total=f"{total:,}")
            raise CorpusError(f"{source} must {must} ({'; '.join(told[:3])}). {unit.remedy}")


def without_totals(left_out: Counter[str]) -> Counter[str]:
    """What is left out alone; rows of tables are counted on, for the report."""
    totals = (LINES.total, FILES.total)
    return Counter({reason: left_out[reason] for reason in left_out if reason not in totals})
