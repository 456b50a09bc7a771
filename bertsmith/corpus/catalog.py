"""Names and paths into a corpus: the one place that knows which reader serves what."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bertsmith.config import STORE_MANIFEST_FILE, nearest
from bertsmith.corpus.assemble import Rules
from bertsmith.corpus.cache import cached_wikitext
from bertsmith.corpus.document import Corpus, labelled
from bertsmith.corpus.files import digest_of, find_files, is_address, parts_of_files
from bertsmith.corpus.folders import ABOUT_THE_TEXT, Selection, warn_of_encodings, warn_of_the_rest
from bertsmith.corpus.holdout import with_validation
from bertsmith.corpus.hub import PREFIX, is_saved_dataset, open_dataset
from bertsmith.corpus.kinds import UnfitError
from bertsmith.corpus.opened import UTF8
from bertsmith.corpus.standard_input import NAME as STANDARD_INPUT
from bertsmith.corpus.standard_input import file_of_standard_input
from bertsmith.corpus.tables import Columns
from bertsmith.corpus.wikitext import is_wikitext_folder, open_wikitext
from bertsmith.errors import CorpusError

NAMES = {
    "wikitext-2": "WikiText-2, word level: 600 Wikipedia articles, downloaded once (CC BY-SA 3.0)",
    "python-docs": "the documentation inside the running Python, always there",
}
"""Corpora known by name, and what they are."""


def absolute_names(names: Sequence[str]) -> tuple[str, ...]:
    """`names` with every path made absolute, so that they mean the same from any folder.

    Raises:
        CorpusError: one is a path that cannot be followed, or not be written down.
    """
    try:
        found = tuple(
            str(Path(name).resolve())
            if name != STANDARD_INPUT
            and not (is_address(name) or name.startswith(PREFIX))
            and (Path(name).exists() or glob.has_magic(name))
            else name
            for name in names
        )
        for name in found:
            name.encode()
        return found
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The path {error.object} must be UTF-8, since it is written down; it is not. "
            "Rename it."
        ) from error
    except OSError as error:
        raise CorpusError(f"Cannot read the corpus: {error.strerror}.") from error


def open_corpus(
    names: Sequence[str],
    *,
    validation: Sequence[str] = (),
    validation_fraction: float = 0.05,
    rules: Rules | None = None,
    columns: Columns | None = None,
    encoding: str = UTF8,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Corpus:
    """One corpus of all that `names` stand for, in their order, with `train` and `validation`.

    Args:
        names: names of `NAMES`, text files and tables, folders and patterns of these, addresses
            of any of them, `-` (standard input), WikiText folders, Hugging Face datasets.
        validation: names of what is validated on, all of it; then nothing is held out.
        validation_fraction: share held out of each text that has no validation split.
        rules: what documents, paragraphs and sentences are; default: `Rules()`.
        columns: of tables; default: `Columns()`.
        encoding: of files of text, where no byte-order mark says another.
        progress: told of a download: the file's name, bytes so far, bytes in all.

    Raises:
        CorpusError: an unknown name, or a path that cannot be read as text.
    """
    rules, columns = rules or Rules(), columns or Columns()
    open_one = partial(
        _open_one, rules=rules, columns=columns, encoding=encoding, progress=progress
    )
    is_all = len(names) + len(validation) == 1
    texts = [
        _in_place(f"text {number}", open_one(name, is_all=is_all))
        for number, name in enumerate(names)
    ]
    if validation:
        texts = [_only_training(text) for text in texts]
        texts += [
            _as_validation(_in_place(f"validation {number}", open_one(name)))
            for number, name in enumerate(validation)
        ]
    else:
        texts = [with_validation(text, validation_fraction) for text in texts]
    if len(texts) == 1:
        return texts[0]
    return Corpus(
        name=" + ".join(text.name for text in texts),
        pretokenized=all(text.pretokenized for text in texts),
        splits=tuple(dict.fromkeys(split for text in texts for split in text.splits)),
        find_parts=lambda: [part for text in texts for part in text.parts],
        has_tables=any(text.has_tables for text in texts),
        max_bad_rows=columns.max_bad_rows,
        content=tuple(digest for text in texts for digest in text.content),
    )


def _in_place(place: str, text: Corpus) -> Corpus:
    """The text with digests that tell where it stands among the others."""
    return replace(text, content=tuple(partial(labelled, place, one) for one in text.content))


def _only_training(text: Corpus) -> Corpus:
    return replace(
        text,
        splits=("train",),
        find_parts=lambda: [part for part in text.parts if part.split == "train"],
    )


def _as_validation(text: Corpus) -> Corpus:
    """All of a text that is named to be validated on; of one with splits, its own validation."""
    own = "validation" if "validation" in text.splits else "train"
    return replace(
        text,
        splits=("validation",),
        find_parts=lambda: [
            replace(part, split="validation") for part in text.parts if part.split == own
        ],
    )


def _select(name: str, columns: Columns, encoding: str, *, is_all: bool) -> Selection:
    """The files of a path, an address or a pattern. Raises: `CorpusError` if there is none."""
    place = str(file_of_standard_input()) if name == STANDARD_INPUT else name
    try:
        found = find_files(place, columns, encoding)
    except UnfitError as error:
        if is_all or not error.is_empty:
            raise
        found = Selection()  # nothing is lost where one of several is empty
        found.leave_out(Path(name), error.kind)
    if found is None and (is_address(name) or glob.has_magic(name)):
        raise CorpusError(f"There is no file at {name}, or nothing answers there.")
    if found is None:
        raise CorpusError(
            f"There is no corpus and no path {name!r}; {nearest(name, NAMES)} "
            "Or name a text file or a folder."
        )
    return found


def _open_one(
    name: str,
    rules: Rules,
    columns: Columns,
    encoding: str,
    progress: Callable[[str, int, int], None],
    *,
    is_all: bool = False,
) -> Corpus:
    path = Path(name)
    if name == "python-docs":
        from bertsmith.corpus.python_docs import open_python_docs

        return open_python_docs()
    if name == "wikitext-2" and not path.exists():
        if (folder := cached_wikitext()) is None:
            # Imported here: pyarrow takes a while to load, and only this needs it.
            from bertsmith.corpus.download import fetch_wikitext

            folder = fetch_wikitext(progress=progress)
        return open_wikitext(name, folder)
    if is_wikitext_folder(path):
        return open_wikitext(name, path)
    if name.startswith(PREFIX) or is_saved_dataset(path):
        return open_dataset(name, rules, columns)
    if (path / STORE_MANIFEST_FILE).is_file():
        raise CorpusError(f"{name} is a token store: it stands alone, without other texts.")
    if (path / ".work" / "plan.json").is_file():
        raise CorpusError(
            f"{name} is a token store that is not finished; `bertsmith prepare` goes on with it."
        )
    found = _select(name, columns, encoding, is_all=is_all)
    warn_of_the_rest(name, found)
    warn_of_encodings(name, found)
    # A licence that comes or goes changes no text.
    left_out = sorted((name, n) for name, n in found.left_out.items() if name != ABOUT_THE_TEXT)
    return Corpus(
        name=name,
        pretokenized=False,
        splits=("train",),
        find_parts=lambda: parts_of_files(found, rules, columns, is_all=is_all),
        has_tables=any(source.is_table for source in found.sources),
        max_bad_rows=columns.max_bad_rows,
        content=(
            *(partial(digest_of, source.file, source.read_as) for source in found.sources),
            partial(labelled, f"left out {left_out}"),
        ),
    )
