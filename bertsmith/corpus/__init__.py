"""Text into documents: `open_corpus` takes names and paths and gives a `Corpus` to read from."""

from bertsmith.corpus.assemble import Rules
from bertsmith.corpus.catalog import NAMES, absolute_names, open_corpus
from bertsmith.corpus.document import (
    BAD_ROW,
    NUM_ROWS,
    UNKNOWN_WORD,
    Corpus,
    Document,
    NamedDocument,
    Part,
    unwarned,
)
from bertsmith.corpus.holdout import digest
from bertsmith.corpus.rows import FEWEST_TO_JUDGE, Columns, refuse_bad_rows
from bertsmith.corpus.sentences import Splitter

__all__ = [
    "BAD_ROW",
    "FEWEST_TO_JUDGE",
    "NAMES",
    "NUM_ROWS",
    "UNKNOWN_WORD",
    "Columns",
    "Corpus",
    "Document",
    "NamedDocument",
    "Part",
    "Rules",
    "Splitter",
    "absolute_names",
    "digest",
    "open_corpus",
    "refuse_bad_rows",
    "unwarned",
]
