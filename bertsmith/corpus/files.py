"""Files and folders of text, here or at an address: plain text and tables, packed or not.

In plain text a line is a paragraph and an empty line ends a document, as does a file's end; in a
table a row is a document. `Rules` may say otherwise.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec
from upath import UPath

from bertsmith.corpus.assemble import CUT_DOCUMENTS, Rules, assemble
from bertsmith.corpus.bad import FILES, count_bad, warn_of
from bertsmith.corpus.document import Document, Part
from bertsmith.corpus.folders import Selection, choose
from bertsmith.corpus.good_lines import GoodLines
from bertsmith.corpus.kinds import Source, UnfitError, look
from bertsmith.corpus.lines import PART_BYTES, Range, parts_of, raw_lines
from bertsmith.corpus.opened import (
    UTF8,
    File,
    encoding_of,
    files_in,
    format_of,
    in_encoding,
    is_archive,
    is_local,
    is_member,
    opened_as_it_is,
    place_of,
    size_of,
    told_errors,
    version_at_address,
)
from bertsmith.corpus.rows import parts_of_table, read_texts
from bertsmith.corpus.tables import Columns
from bertsmith.corpus.walk import REPEATED, each_once, real_name, visible_files
from bertsmith.errors import CorpusError

_LINE_END = re.compile(r"\r\n|\r|\n")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Piece = tuple[Source, Range | None]
"""A file, or a part of it."""


def is_address(name: str) -> bool:
    """Whether `name` is an address such as "s3://bucket/folder"."""
    return _ADDRESS.match(name) is not None


def find_files(name: str, columns: Columns, encoding: str = UTF8) -> Selection | None:
    """What is read of what a path, a pattern or an address stands for; None: there is nothing.

    An archive is read as a folder is, in its own order.

    Args:
        name: of `expand`.
        columns: that tables must have.
        encoding: of text that has no byte-order mark.

    Raises:
        CorpusError: there is nothing to read in it, or another format.
    """
    paths = expand(name)
    if not paths:
        if Path(name).is_symlink():
            raise CorpusError(f"{name} must be a file or a folder; its link leads nowhere.")
        return None
    if len(paths) > 1 or (glob.has_magic(name) and paths != [Path(name)]):
        return _of_pattern(name, paths, columns, encoding)
    (path,) = paths
    with told_errors(path):
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder or (is_file and is_archive(path)):
        return _of_folder(path, columns, encoding)
    if not is_file:
        raise _not_regular(path)
    return Selection([look(in_encoding(path, encoding), [columns.text])])


def _of_folder(folder: Path | UPath, columns: Columns, encoding: str) -> Selection:
    """Of a folder, or of an archive."""
    with told_errors(folder):
        is_folder = folder.is_dir()
    try:
        files, unfollowed = visible_files(folder) if is_folder else files_in(folder)
    except CorpusError as error:
        raise UnfitError("archives that cannot be read", str(error), is_damage=True) from error
    found = choose(str(folder), [in_encoding(file, encoding) for file in files], columns)
    found.left_out += unfollowed
    return found


def _of_pattern(name: str, paths: list[Path | UPath], columns: Columns, encoding: str) -> Selection:
    """All that a pattern matches: files of any ending, and folders as if each were named."""
    with told_errors(paths[0]):
        paths, repeated = each_once(paths)
        folders = [path for path in paths if path.is_dir() or is_archive(path)]
        files = [path for path in paths if path not in set(folders) and path.is_file()]
    if "**" in name:  # what is in a folder is matched by itself
        above = set(map(real_name, {parent for file in files for parent in file.parents}))
        folders = [path for path in folders if real_name(path) not in above]
    finders = [(folder, partial(_of_folder, folder, columns, encoding)) for folder in folders]
    if files:
        is_all = not folders
        texts = [in_encoding(file, encoding) for file in files]
        choice = partial(choose, name, texts, columns, by_pattern=True, is_all=is_all)
        finders.insert(0, (files[0], choice))
    found = Selection(left_out=repeated)
    for first, find in finders:
        try:
            found.add(find())
        except UnfitError as error:
            found.leave_out_unfit(first, error)
    if not found.sources:
        raise found.errors[0] if found.errors else _not_regular(name)
    found.refuse_damage(name, columns.max_bad_rows)
    found.sources = _each_once(found)
    # Members of an archive keep its order, in which it is unpacked once.
    found.sources.sort(key=lambda source: str(place_of(source.file)))
    return found


def _each_once(found: Selection) -> list[Source]:
    """The sources without those that links in a folder led to, and that are read already."""
    first: dict[tuple[str, str], Source] = {}
    for source in found.sources:
        place = place_of(source.file)
        key = (real_name(place), str(source.file) if is_member(source.file) else "")
        if first.setdefault(key, source) is not source:
            found.leave_out(source.file, REPEATED)
    return list(first.values())


def _not_regular(name: object) -> CorpusError:
    return CorpusError(f"{name} must be a regular file or a folder of text files; it is neither.")


def expand(name: str) -> list[Path | UPath]:
    """The paths that a path, a pattern with `*`, `?`, `[…]` or `**`, or an address stands for.

    Raises:
        CorpusError: an address that nothing installed can read, or that does not answer.
    """
    if not is_address(name):
        if Path(name).exists():
            return [Path(name)]
        # Not `Path.glob`, which takes no absolute pattern.
        return [Path(found) for found in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    try:
        system, path = fsspec.core.url_to_fs(name)
        found = sorted(system.glob(path)) if glob.has_magic(path) else [path]
        return [UPath(system.unstrip_protocol(one)) for one in found if system.exists(one)]
    except ImportError as error:
        raise CorpusError(
            f"{name} cannot be read: {str(error).rstrip('.')}. Addresses need the library of their "
            "kind: pip install 'bertsmith[s3]' for s3://, 'bertsmith[http]' for https://, gcsfs "
            "for gs://, adlfs for abfs://."
        ) from error
    except ValueError as error:
        raise CorpusError(f"{name} cannot be read: {str(error).rstrip('.')}.") from error
    except Exception as error:  # of whichever library talks to the other side
        raise CorpusError(f"Cannot read {name}: {type(error).__name__}: {error}.") from error


def parts_of_files(
    found: Selection, rules: Rules, columns: Columns, *, is_all: bool = False
) -> list[Part]:
    """Parts of files in the order given, each of about `PART_BYTES`.

    Args:
        found: the files; the first part counts those that are left out.
        rules: what documents are.
        columns: of tables.
        is_all: whether the corpus is these files alone; a single one is then read whole or refused.

    Raises:
        CorpusError: a file cannot be read.
    """
    groups: list[list[Piece]] = [[]]
    sizes = [0]
    for source in found.sources:
        ranges = _ranges(source, rules)
        for part in ranges:
            size = size_of(source.file) // len(ranges)
            if groups[-1] and sizes[-1] + size > PART_BYTES:
                groups.append([])
                sizes.append(0)
            groups[-1].append((source, part))
            sizes[-1] += size
    reading = Reading(rules, columns, is_all and len(found.sources) == 1)
    return [
        Part(
            partial(_read, tuple(group), reading, Counter() if number else found.left_out),
            size=size,
        )
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True))
    ]


def documents_of_rows(
    texts: Iterator[str], rules: Rules, left_out: Counter[str]
) -> Iterator[Document]:
    """Documents of a table's texts: a row each, or as `rules` say."""
    if rules.documents != "auto":
        lines = itertools.chain.from_iterable(_LINE_END.split(text) for text in texts)
        yield from assemble(lines, rules, rules.documents, left_out)
        return
    for text in texts:
        is_empty = True
        for document in assemble(_LINE_END.split(text), rules, "file", left_out):
            is_empty = False
            yield document
        if is_empty:
            left_out["rows of white space"] += 1


def digest_of(file: File, read_as: str | None = None) -> str:
    """A digest of a file's bytes; of one at an address, of what its host says of its version.

    Args:
        file: any.
        read_as: `Source.read_as`; None: as its name says.
    """
    usual = format_of(file)
    read_as = usual if read_as is None else read_as
    if not is_local(file):
        told = "" if read_as == usual else f"{read_as} "
        return f"{told}{file} {version_at_address(file)}"
    found, end = hashlib.sha256(), ""
    try:
        with opened_as_it_is(file) as stream:
            while block := stream.read(2**20):
                found.update(block)
    except CorpusError:
        if not is_member(file):
            raise
        end = ", damaged"  # what stands before is read
    return f"{encoding_of(file)}{read_as} {found.hexdigest()}{end}"


def _ranges(source: Source, rules: Rules) -> list[Range | None]:
    """Parts of one file that end where documents end."""
    if source.is_table:
        return parts_of_table(source) if rules.documents == "auto" else [None]
    if rules.documents == "file" or source.ends_lines_with_cr:
        return [None]
    return parts_of(source.file, at_empty_lines=rules.documents != "line")


@dataclass(frozen=True)
class Reading:
    """How files are read. It can be sent to another process."""

    rules: Rules
    columns: Columns
    is_all: bool
    """Whether one file is the whole of the corpus."""


def _read(
    pieces: tuple[Piece, ...], reading: Reading, skipped: Counter[str], left_out: Counter[str]
) -> Iterator[Document]:
    left_out.update(skipped)
    for source, part in pieces:
        left_out[FILES.total] += not (part and part[0])
        try:
            yield from _documents(source, part, reading, left_out)
        except CorpusError as error:
            if reading.is_all:
                raise
            if count_bad(FILES, "cannot be read to the end", left_out):
                warn_of(str(error).rstrip("."), "the rest of it cannot be read")


def _documents(
    source: Source, part: Range | None, reading: Reading, left_out: Counter[str]
) -> Iterator[Document]:
    rules, columns = reading.rules, reading.columns
    if not source.is_table:
        yield from _text(source, part, reading, left_out)
        return
    texts = read_texts(source, part, columns, left_out, is_all=reading.is_all)
    yield from documents_of_rows(texts, rules, left_out)


def _text(
    source: Source, part: Range | None, reading: Reading, left_out: Counter[str]
) -> Iterator[Document]:
    rules = reading.rules
    rule = "empty-line" if rules.documents == "auto" else rules.documents
    lines = GoodLines(source, part, left_out)
    yield from assemble(lines, rules, rule, left_out)
    lines.tell(reading.columns.max_bad_rows if reading.is_all else None)
    if part and rule == "empty-line" and not lines.ends_empty:
        _, following = next(raw_lines(source.file, (part[1], part[1] + 1)), (0, b""))
        # No empty line was within reach of the part's end.
        left_out[CUT_DOCUMENTS] += bool(following and not following.isspace())
