"""Text into documents: `open_corpus` takes names and paths and gives a `Corpus` to read from."""

from bertsmith.corpus.catalog import NAMES, open_corpus
from bertsmith.corpus.document import UNKNOWN_WORD, Corpus, Document

__all__ = ["NAMES", "UNKNOWN_WORD", "Corpus", "Document", "open_corpus"]
