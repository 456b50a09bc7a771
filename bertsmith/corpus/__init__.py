"""Text into documents: `open_corpus` takes names and paths and gives a `Corpus` to read from."""

from bertsmith.corpus.assemble import Rules
from bertsmith.corpus.bad import FEWEST_TO_JUDGE, NUM_ROWS, refuse_bad, without_totals
from bertsmith.corpus.catalog import NAMES, absolute_names, open_corpus
from bertsmith.corpus.document import (
    UNKNOWN_WORD,
    Corpus,
    Document,
    Part,
    unwarned,
)
from bertsmith.corpus.holdout import digest
from bertsmith.corpus.sentences import Splitter
from bertsmith.corpus.tables import Columns

__all__ = [
    "FEWEST_TO_JUDGE",
    "NAMES",
    "NUM_ROWS",
    "UNKNOWN_WORD",
    "Columns",
    "Corpus",
    "Document",
    "Part",
    "Rules",
    "Splitter",
    "absolute_names",
    "digest",
    "open_corpus",
    "refuse_bad",
    "unwarned",
    "without_totals",
]
