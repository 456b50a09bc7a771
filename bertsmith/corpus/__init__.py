"""Text into documents: `open_corpus` takes names and paths and gives a `Corpus` to read from."""

from bertsmith.corpus.catalog import NAMES, absolute_names, open_corpus
from bertsmith.corpus.document import UNKNOWN_WORD, Corpus, Document
from bertsmith.corpus.rows import Columns

__all__ = [
    "NAMES",
    "UNKNOWN_WORD",
    "Columns",
    "Corpus",
    "Document",
    "absolute_names",
    "open_corpus",
]
