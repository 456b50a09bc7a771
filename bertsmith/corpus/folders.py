"""What of a folder is its text: which files are there, what they are, and which of them are read.

What most of the bytes are decides between plain text and tables. Files that are about the text (a
licence beside the data) never decide, and a folder of which but a small part could be read is
refused: it holds something else than the few texts beside it.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bertsmith.corpus.kinds import (
    TABLE_FORMATS,
    TEXT_FORMATS,
    Source,
    UnfitError,
    look,
    told_ending,
)
from bertsmith.corpus.opened import File, encoding_of, format_of, size_of
from bertsmith.corpus.tables import Columns
from bertsmith.errors import CorpusError, printable

LEAST_SHARE = 0.1
"""Of a folder's bytes that must be readable."""

ABOUT_THE_TEXT = "files about the text (README, LICENSE …)"

_ABOUT = re.compile(
    r"(readme|licen[cs]e)([-_.].*)?|(copying|copyright|notice|citation|changelog|authors|"
    r"contributors|contributing|code_of_conduct|manifest|md5sums?|sha\d+sums?|checksums?)(\..*)?",
    re.IGNORECASE,
)


@dataclass
class Selection:
    """What is read of a folder, and what is not."""

    sources: list[Source] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Files by reason."""
    first: dict[str, str] = field(default_factory=dict)
    """The name of the first file of each reason."""
    bytes_left_out: int = 0
    """But for files about the text."""
    bytes_damaged: int = 0
    """In files whose names say that they can be read."""
    errors: list[UnfitError] = field(default_factory=list)
    """Of files that were looked at."""

    says_about: bool = False
    """Whether files about the text are to be named, since they may be meant."""

    def leave_out(self, file: object, reason: str, size: int = 0) -> None:
        """Count a file."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, str(file))
        self.bytes_left_out += size

    def leave_out_unfit(self, file: File, error: UnfitError) -> None:
        """Count a file, or an archive, that was looked at."""
        size = size_of(file)
        self.leave_out(file, error.kind, size)
        self.errors.append(error)
        self.bytes_damaged += size * error.is_damage

    def add(self, other: Selection) -> None:
        """Take in what is read of another folder, and what is not."""
        self.sources += other.sources
        self.left_out += other.left_out
        self.first = other.first | self.first
        self.says_about |= other.says_about

    @property
    def size(self) -> int:
        """Bytes of what is read."""
        return sum(size_of(source.file) for source in self.sources)

    def refuse_damage(self, place: str, max_share: float, size: int | None = None) -> None:
        """Raise `CorpusError` if too many bytes are in files whose names promise what they are not.

        Args:
            place: where they are.
            max_share: of the bytes of what can be read and what cannot.
            size: bytes of what can be read; None: of what is read.
        """
        size = self.size if size is None else size
        if self.bytes_damaged > max_share * (size + self.bytes_damaged):
            damaged = [error for error in self.errors if error.is_damage]
            raise CorpusError(
                f"{place} must have at most {max_share:.1%} of its bytes in files that are not "
                f"what their names say; {len(damaged):,} files have more "
                f"({str(damaged[0]).rstrip('.')}). Mend or remove them, or raise --max-bad-rows."
            )


def choose(
    place: str,
    files: Sequence[File],
    columns: Columns,
    *,
    by_pattern: bool = False,
    is_all: bool = True,
) -> Selection:
    """What is read of files that were found together.

    Args:
        place: the folder or the pattern, for messages.
        files: in their order.
        columns: that tables must have.
        by_pattern: whether a pattern found them, which says that all of them are meant: files of
            any ending, texts and tables side by side.
        is_all: whether nothing else was found with them.

    Raises:
        CorpusError: nothing in it can be read, or but a small part; too much is damaged.
    """
    found = Selection()
    about = [file for file in files if _is_about(file)]
    others = [file for file in files if not _is_about(file)]
    if not others and is_all:
        others, about = about, []
    for file in about:
        found.leave_out(file, ABOUT_THE_TEXT)
    texts, tables = _looked_at(others, columns, found, by_pattern=by_pattern)
    sizes = [sum(size_of(source.file) for source in sources) for sources in (texts, tables)]
    if by_pattern:
        found.sources = [*texts, *tables]  # whoever has the pattern sorts them
    elif sizes[0] >= sizes[1] and texts:
        found.sources = texts
        for source in tables:
            found.leave_out(source.file, f"tables beside texts ({told_ending(source.file)})")
    else:
        found.sources = tables
        for source in texts:
            found.leave_out(source.file, f"texts beside tables ({told_ending(source.file)})")
    bytes_about = sum(map(size_of, about))
    found.says_about = bool(about) and (by_pattern or bytes_about > found.size)
    if not found.sources:
        is_named_so = found.errors and len(found.errors) == len(others)
        raise found.errors[0] if is_named_so else _nothing(place, found)
    found.refuse_damage(place, columns.max_bad_rows, sum(sizes))
    _refuse_small_part(place, found, sum(sizes))
    return found


def _refuse_small_part(place: str, found: Selection, size: int) -> None:
    """Raise `CorpusError` if a folder holds mostly something else than text."""
    if size < LEAST_SHARE * (size + found.bytes_left_out):
        total = len(found.sources) + found.left_out.total()
        raise CorpusError(
            f"{place} must hold mostly text; of its {total:,} files only "
            f"{len(found.sources):,} ({_listed(_endings(found.sources))}) could be read, "
            f"{size / (size + found.bytes_left_out):.1%} of its bytes, beside "
            f"{_listed(found.left_out)}. Convert these, or name what is to be read, as with "
            f"{place.rstrip('/')}/*{told_ending(found.sources[0].file)} in quotes."
        )


def warn_of_the_rest(place: str, found: Selection) -> None:
    """Say what of a folder is not read, if that is more than files about the text."""
    rest = {
        f"{reason}{', as ' + found.first[reason] if reason in found.first else ''}": count
        for reason, count in found.left_out.items()
    }
    if found.says_about or set(found.left_out) - {ABOUT_THE_TEXT}:
        total = len(found.sources) + found.left_out.total()
        warnings.warn(
            printable(
                f"{place}: {len(found.sources):,} of {total:,} files are read "
                f"({_listed(_endings(found.sources))}); left out: {_listed(rest)}."
            ),
            stacklevel=2,
        )


def warn_of_encodings(place: str, found: Selection) -> None:
    """Say which files are UTF-8 though another encoding was named: read in it, they are garbled."""
    if doubtful := [source.file for source in found.sources if source.seems_utf8]:
        warnings.warn(
            printable(
                f"{place}: {len(doubtful):,} of {len(found.sources):,} files are valid UTF-8, as "
                f"{doubtful[0]}, and are read as {encoding_of(doubtful[0])}. Prepare them apart, "
                "without --encoding, if that is wrong."
            ),
            stacklevel=2,
        )


def _looked_at(
    files: Iterable[File], columns: Columns, found: Selection, *, by_pattern: bool
) -> tuple[list[Source], list[Source]]:
    """Texts and tables; the others are left out."""
    texts: list[Source] = []
    tables: list[Source] = []
    for file in files:
        ending = format_of(file)
        if not (by_pattern or _is_known(ending)):
            found.leave_out(file, f"files that are not text ({told_ending(file)})", size_of(file))
            continue
        try:
            source = look(file, [columns.text])
        except UnfitError as error:
            found.leave_out_unfit(file, error)
            continue
        (tables if source.is_table else texts).append(source)
    return texts, tables


def _is_about(file: File) -> bool:
    """Whether a file tells about the text, by its name; tables are text."""
    return bool(_ABOUT.fullmatch(file.name)) and format_of(file) not in TABLE_FORMATS


def _is_known(ending: str) -> bool:
    return not ending or ending in TEXT_FORMATS or ending in TABLE_FORMATS or ending[1:].isdigit()


def _nothing(place: str, found: Selection) -> UnfitError:
    kinds = ", ".join((*TEXT_FORMATS, *TABLE_FORMATS))
    rest = f" but {_listed(found.left_out)}" if found.left_out else ""
    return UnfitError(
        "matches of the pattern without text",
        f"{place} must hold text files ({kinds}, or without an ending); it holds none{rest}.",
    )


def _endings(sources: Iterable[Source]) -> Counter[str]:
    return Counter(told_ending(source.file) for source in sources)


def _listed(counts: dict[str, int]) -> str:
    every = sorted(counts.items(), key=lambda entry: -entry[1])
    rest = sum(count for _, count in every[6:])
    told = [f"{count:,} {reason}" for reason, count in every[:6]]
    return ", ".join([*told, f"{rest:,} others"] if rest else told)
