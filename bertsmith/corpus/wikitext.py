"""WikiText-2, word level (Merity et al. 2016, arXiv:1609.07843): read from a folder or downloaded.

A line is a paragraph, words are parted by spaces, ` . ` ends a sentence, `= Title =` begins an
article. As in the textbook chapter (d2l.ai 15.9), lines without ` . ` (headings, empty lines) are
left out, and the full stop between two sentences belongs to neither.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bertsmith.corpus.document import UNKNOWN_WORD, Corpus, Document, Part, labelled
from bertsmith.corpus.files import digest_of
from bertsmith.corpus.lines import read_lines
from bertsmith.corpus.sentences import FULL_STOP, Splitter
from bertsmith.errors import CorpusError

FILES = {
    "train": "wiki.train.tokens",
    "validation": "wiki.valid.tokens",
    "test": "wiki.test.tokens",
}
"""The file of each split, by its published name."""

_TITLE = re.compile(r"= [^=].*=")
_split = Splitter("full-stop")


def is_wikitext_folder(path: Path) -> bool:
    """Whether `path` is a folder with a `wiki.*.tokens` file in it."""
    return path.is_dir() and any((path / file).is_file() for file in FILES.values())


def open_wikitext(name: str, folder: Path) -> Corpus:
    """The corpus in `folder`, with the splits whose files are there.

    Raises:
        CorpusError: there is no training file.
    """
    if not (folder / FILES["train"]).is_file():
        raise CorpusError(f"The folder {folder} must hold {FILES['train']}; it does not.")
    splits = {split: folder / file for split, file in FILES.items() if (folder / file).is_file()}
    return Corpus(
        name=name,
        pretokenized=True,
        splits=tuple(splits),
        find_parts=lambda: [
            Part(partial(_articles, path), split, size=path.stat().st_size)
            for split, path in splits.items()
        ],
        content=tuple(
            partial(labelled, f"wikitext {split}", partial(digest_of, path))
            for split, path in splits.items()
        ),
    )


def _articles(path: Path, left_out: Counter[str]) -> Iterator[Document]:
    article: Document = []
    for line in read_lines(path):
        text = line.strip()
        if _TITLE.fullmatch(text):
            if article:
                yield article
            article = []
        # The textbook looks for ` . ` before it strips: a line of one sentence ends in " . \n".
        if FULL_STOP in line:
            text = text.replace("<unk>", UNKNOWN_WORD)
            if sentences := _split(text):
                article.append(sentences)
        elif text:
            left_out["headings and lines without a sentence end"] += 1
    if article:
        yield article
