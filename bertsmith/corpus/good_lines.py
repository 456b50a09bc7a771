"""Lines of plain text without those that are none: each of these is as if it were empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bertsmith.corpus.bad import LINES, count_bad, warn_of
from bertsmith.corpus.kinds import Source
from bertsmith.corpus.lines import BadLineError, Range, decode, line_number, raw_lines
from bertsmith.corpus.opened import encoding_of
from bertsmith.errors import CorpusError


class GoodLines:
    """The lines of a file or of a part of it, in which a bad one is an empty one.

    What stands before and after it are no neighbours, so that its document ends there.

    Args:
        source: plain text.
        part: only the lines that begin in it; None: all of it.
        left_out: counts the lines, and the bad ones by reason.
    """

    def __init__(self, source: Source, part: Range | None, left_out: Counter[str]) -> None:
        self._source = source
        self._part = part
        self._left_out = left_out
        self._first: list[
            tuple[int, BadLineError]
        ] = []  # of each reason, with its number in the part
        self._num_lines = self._num_bad = 0
        self.ends_empty = True
        """Whether the last line that was read is empty."""

    def __iter__(self) -> Iterator[str]:
        source = self._source
        lines = raw_lines(source.file, self._part, cr=source.ends_lines_with_cr)
        for number, (place, raw) in enumerate(lines, start=1):
            self.ends_empty = raw.isspace()
            self._num_lines += not self.ends_empty
            try:
                yield decode(raw, place, encoding_of(source.file))
            except BadLineError as bad:
                self._num_bad += 1
                if count_bad(LINES, bad.reason, self._left_out):
                    self._first.append((number, bad))
                yield "\n"

    def tell(self, max_share: float | None) -> None:
        """Count what was read, and warn of the first bad line of each reason.

        Args:
            max_share: of bad lines in the corpus, of which this file is all; None: there is more.

        Raises:
            CorpusError: more is bad, or there is no text at all.
        """
        self._left_out[LINES.total] += self._num_lines
        # Parts are judged together by whoever reads them; one without a good line ends it here.
        allowed = (max_share or 0.0) * self._num_lines
        if self._part:
            allowed = max(allowed, self._num_lines - 1)
        if max_share is not None and self._num_bad > max(allowed, 0):
            _, bad = self._first[0]
            raise CorpusError(
                f"{self._source.file} {bad.must} Of {self._num_lines:,} lines {self._num_bad:,} "
                f"are bad; --max-bad-rows leaves out up to {max_share:.1%}."
            )
        if not self._num_lines and self._part is None:
            if max_share is not None:
                raise CorpusError(f"{self._source.file} must hold text; it is empty.")
            self._left_out["empty files"] += 1
        if not self._first:
            return
        before = line_number(self._source.file, self._part[0]) - 1 if self._part else 0
        for number, bad in self._first:
            place = f"{self._source.file}, line {before + number} (byte {bad.place})"
            warn_of(place, bad.reason)
