"""Text into token ids, by the `tokenizers` library: trained on a corpus, or read from a folder."""

from bertsmith.tokenizer.folder import SPECIAL_TOKENS, TOKENIZER_FILES
from bertsmith.tokenizer.tokenizer import TokenizedText, Tokenizer
from bertsmith.tokenizer.training import Spelling, train

__all__ = ["SPECIAL_TOKENS", "TOKENIZER_FILES", "Spelling", "TokenizedText", "Tokenizer", "train"]
