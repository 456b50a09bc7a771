"""Names and paths into a corpus: the one place that knows which reader serves what."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bertsmith.config import near
from bertsmith.corpus.cache import cached_wikitext
from bertsmith.corpus.document import Corpus, Document, Reader
from bertsmith.corpus.files import expand, find_files, read_files
from bertsmith.corpus.holdout import with_validation
from bertsmith.corpus.rows import Columns
from bertsmith.corpus.wikitext import is_wikitext_folder, open_wikitext
from bertsmith.errors import CorpusError

NAMES = {
    "wikitext-2": "WikiText-2, word level: 600 Wikipedia articles, downloaded once (CC BY-SA 3.0)",
    "python-docs": "the documentation inside the running Python, always there",
}
"""Corpora known by name, and what they are."""


def absolute_names(names: Sequence[str]) -> tuple[str, ...]:
    """`names` with every path made absolute, so that they mean the same from any folder."""
    try:
        return tuple(
            str(Path(name).resolve()) if Path(name).exists() or glob.has_magic(name) else name
            for name in names
        )
    except OSError as error:
        raise CorpusError(f"Cannot read the corpus: {error.strerror}.") from error


def open_corpus(
    names: Sequence[str],
    *,
    language: str = "en",
    validation_fraction: float = 0.05,
    columns: Columns | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Corpus:
    """One corpus of all that `names` stand for, in their order, with `train` and `validation`.

    Args:
        names: names of `NAMES`, text files and tables, folders and patterns of these, WikiText
            folders.
        language: of plain text, for its sentences.
        validation_fraction: share held out of each part that has no validation split.
        columns: of tables; default: `Columns()`.
        progress: told of a download: the file's name, bytes so far, bytes in all.

    Raises:
        CorpusError: an unknown name, or a path that cannot be read as text.
    """
    parts = [
        with_validation(
            _open_one(name, language, columns or Columns(), progress), validation_fraction
        )
        for name in names
    ]
    if len(parts) == 1:
        return parts[0]
    splits = dict.fromkeys(split for part in parts for split in part.splits)
    return Corpus(
        name=" + ".join(part.name for part in parts),
        pretokenized=all(part.pretokenized for part in parts),
        splits={
            split: _chain([part.splits[split] for part in parts if split in part.splits])
            for split in splits
        },
    )


def _open_one(
    name: str, language: str, columns: Columns, progress: Callable[[str, int, int], None]
) -> Corpus:
    path = Path(name)
    if name == "python-docs":
        from bertsmith.corpus.python_docs import open_python_docs

        return open_python_docs()
    if name == "wikitext-2" and not path.exists():
        if (folder := cached_wikitext()) is None:
            # Imported here: the HTTP library takes a while to load, and only this needs it.
            from bertsmith.corpus.download import fetch_wikitext

            folder = fetch_wikitext(progress=progress)
        return open_wikitext(name, folder)
    if is_wikitext_folder(path):
        return open_wikitext(name, path)
    paths = [path] if path.exists() else expand(name)
    if not paths:
        raise CorpusError(
            f"There is no corpus and no path {name!r}; {near(name, NAMES)} "
            "Or name a text file or a folder."
        )
    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for one in paths:
        found, others = find_files(one)
        files += found
        skipped += others
    read = partial(read_files, files, skipped, language, columns)
    return Corpus(name=name, pretokenized=False, splits={"train": read})


def _chain(readers: list[Reader]) -> Reader:
    def read(left_out: Counter[str]) -> Iterator[Document]:
        return itertools.chain.from_iterable(reader(left_out) for reader in readers)

    return read
