"""Text into token ids, with the `tokenizers` library: trained from a corpus, or read from a folder.

Two kinds. `word` is the textbook's: whole words seen often enough, everything else is [UNK].
`wordpiece` is BERT's (Schuster and Nakajima 2012; Devlin et al. 2018): frequent words whole, rare
ones in pieces. Both are saved as Hugging Face fast tokenizers and give the same ids there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tokenizers import (
    Tokenizer as Backend,
)
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from bertsmith.corpus import UNKNOWN_WORD, Document
from bertsmith.errors import TokenizerError

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", UNKNOWN_WORD, "[CLS]", "[SEP]", "[MASK]")

_LARGEST_FILE = 2**28  # bytes of a tokenizer.json; those of a million entries have a quarter of it
_NO_BOUND = 2**31 - 1  # entries; a vocabulary of words is bounded by frequency alone


class TokenizedText(NamedTuple):
    """A text as a model reads it: n tokens, special ones counted."""

    ids: list[int]
    segments: list[int]
    """0 = first text, 1 = second."""
    tokens: list[str]
    """Vocabulary entries."""
    words: list[str]
    """The same, but with what stood in the text in the place of [UNK]."""


class Tokenizer:
    """A trained vocabulary and the rules that turn text into ids of it.

    Attributes:
        vocab_size: entries, special ones counted.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
        special_ids: int64 [5], sorted.
        regular_ids: int64 [vocab_size - 5], sorted: the ids of words.
        max_length: longest sequence its model was trained on, in tokens.
    """

    def __init__(self, backend: Backend, max_length: int, *, lowercase: bool = True) -> None:
        self._backend = backend
        self._lowercase = lowercase
        self.max_length = max_length
        self.vocab_size = backend.get_vocab_size()
        vocabulary = backend.get_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise TokenizerError(f"The tokenizer must have {' '.join(missing)}; it has not.")
        if max(vocabulary.values()) >= self.vocab_size:
            raise TokenizerError(
                f"The tokenizer's {self.vocab_size} entries must have the ids from 0 to "
                f"{self.vocab_size - 1}; one has {max(vocabulary.values())}."
            )
        ids = [vocabulary[token] for token in SPECIAL_TOKENS]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.special_ids = np.array(sorted(ids), dtype=np.int64)
        self.regular_ids = np.setdiff1d(np.arange(self.vocab_size), self.special_ids)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(CLS, self.cls_id), (SEP, self.sep_id)],
        )

    @classmethod
    def train(
        cls,
        documents: Iterable[Document],
        *,
        kind: Literal["word", "wordpiece"],
        pretokenized: bool,
        lowercase: bool = True,
        min_frequency: int = 5,
        vocab_size: int = 30522,
        max_length: int = 512,
    ) -> Tokenizer:
        """Learn a vocabulary from `documents`.

        Args:
            documents: the training split.
            kind: whole words, or WordPieces.
            pretokenized: whether spaces already part words from punctuation.
            lowercase: whether "The" and "the" are one entry.
            min_frequency: least count of a word, or of a pair of pieces that is merged.
            vocab_size: most entries of a WordPiece vocabulary.
            max_length: recorded for those who load the tokenizer.

        Raises:
            TokenizerError: no word is frequent enough.
        """
        if kind == "word":
            backend = _train_words(
                _training_text(documents), pretokenized, lowercase, min_frequency
            )
        else:
            text = list(_training_text(documents))
            backend = _train_wordpieces(text, lowercase, min_frequency, vocab_size)
        if backend.get_vocab_size() <= len(SPECIAL_TOKENS):
            raise TokenizerError(
                f"The vocabulary needs words seen at least {min_frequency} times; the text has "
                "none. Give more text or a lower --min-frequency."
            )
        backend.add_special_tokens(list(SPECIAL_TOKENS))
        return cls(backend, max_length, lowercase=lowercase)

    def encode_text(self, sentences: Sequence[str]) -> list[list[int]]:
        """Ids of each sentence alone, without special tokens: corpus text on its way to the store.

        A special token that stands in the text by its name, such as "[MASK]" in an article about
        BERT, is an unknown word there: text must not be able to say where a sequence ends.
        """
        reserved = set(self.special_ids.tolist()) - {self.unk_id}
        encodings = self._backend.encode_batch_fast(list(sentences), add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        return [
            row
            if reserved.isdisjoint(row)
            else [self.unk_id if token in reserved else token for token in row]
            for row in rows
        ]

    def encode(self, text: str, text_pair: str | None = None) -> TokenizedText:
        """[CLS] text [SEP] (text_pair [SEP]), uncut."""
        encoding = self._backend.encode(text, text_pair)
        texts = (text, text_pair or "")
        words = [
            token if sequence is None or token != UNK else texts[sequence][slice(*place)]
            for token, sequence, place in zip(
                encoding.tokens, encoding.sequence_ids, encoding.offsets, strict=True
            )
        ]
        return TokenizedText(encoding.ids, encoding.type_ids, encoding.tokens, words)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return str(self._backend.decode(list(ids)))

    def token(self, token_id: int) -> str:
        """The vocabulary entry with the id `token_id`."""
        return str(self._backend.id_to_token(int(token_id)))

    def sha256(self) -> str:
        """A digest of all that says how text becomes ids."""
        return hashlib.sha256(self._backend.to_str().encode("utf-8")).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `AutoTokenizer` reads them."""
        config = {
            # The general class takes tokenizer.json as it stands; BERT's own would rebuild it.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "do_lower_case": self._lowercase,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            **{
                f"{name}_token": token
                for name, token in zip(
                    ("pad", "unk", "cls", "sep", "mask"), SPECIAL_TOKENS, strict=True
                )
            },
        }
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config, indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path, *, default_max_length: int) -> Tokenizer:
        """Read a Hugging Face fast tokenizer.

        Args:
            folder: holds `tokenizer.json`, and `tokenizer_config.json` or not.
            default_max_length: taken where the folder does not say one.

        Raises:
            TokenizerError: the files are missing, damaged, or lack BERT's special tokens.
        """
        path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        if not path.is_file():
            raise TokenizerError(f"The folder {folder} must hold tokenizer.json; it does not.")
        for file in (path, config_path):
            if file.is_file() and file.stat().st_size > _LARGEST_FILE:
                raise TokenizerError(
                    f"{file} must be at most {_LARGEST_FILE} bytes; it has {file.stat().st_size}."
                )
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
            config = json.loads(config_path.read_text("utf-8")) if config_path.is_file() else {}
            max_length = min(
                int(config.get("model_max_length", default_max_length)), default_max_length
            )
            lowercase = bool(config.get("do_lower_case", True))
        # The library raises its bare Exception for a file it cannot parse, or its own panic.
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise TokenizerError(f"The tokenizer in {folder} is damaged: {error}.") from error
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, max_length, lowercase=lowercase)


def _train_words(
    text: Iterator[str], pretokenized: bool, lowercase: bool, min_frequency: int
) -> Backend:
    backend = Backend(models.WordLevel(unk_token=UNK))
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    spaces = pre_tokenizers.WhitespaceSplit()
    backend.pre_tokenizer = (
        spaces if pretokenized else pre_tokenizers.Sequence([spaces, pre_tokenizers.Punctuation()])
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=_NO_BOUND,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    return backend


def _train_wordpieces(
    text: list[str], lowercase: bool, min_frequency: int, vocab_size: int
) -> Backend:
    """Learn pieces, the same ones every time.

    Left alone, the library's trainer numbers the pieces of one letter ("##e") in the order in which
    a hash map gives words, breaks ties between merges by those numbers, and so learns another
    vocabulary each time. Named beforehand, in alphabetical order, they have fixed numbers.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    most_letters = vocab_size // 3  # scripts of thousands of characters keep the frequent ones
    counts: Counter[str] = Counter()
    for char, count in Counter(chain.from_iterable(text)).items():
        for letter in normalizer.normalize_str(char).split():
            counts[letter] += count
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:most_letters])
    learner = _wordpiece_backend(models.WordPiece(unk_token=UNK), normalizer)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    learner.train_from_iterator(text, trainer)
    # The trainer took those names for special tokens; a tokenizer made anew has only true ones.
    vocabulary = models.WordPiece(learner.get_vocab(with_added_tokens=False), unk_token=UNK)
    return _wordpiece_backend(vocabulary, normalizer)


def _wordpiece_backend(model: models.WordPiece, normalizer: normalizers.BertNormalizer) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _training_text(documents: Iterable[Document]) -> Iterator[str]:
    """Sentences without the mark for unknown words, which is not a word to learn."""
    for document in documents:
        for paragraph in document:
            for sentence in paragraph:
                yield sentence.replace(UNKNOWN_WORD, " ")
