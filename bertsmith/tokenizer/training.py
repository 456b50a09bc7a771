"""Vocabularies of four kinds, learned from text.

`word` is the textbook's: whole words seen often enough, everything else is unknown. `wordpiece` is
BERT's (Schuster and Nakajima 2012; Devlin et al. 2018): frequent words whole, rare ones in pieces.
`bpe` merges bytes (Sennrich et al. 2016; Radford et al. 2019), so that nothing is unknown.
`unigram` keeps the pieces that make the text likeliest (Kudo 2018), and may cross no space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from bertsmith.corpus import UNKNOWN_WORD, Document
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer.bounds import batches, part_long_runs, pieces
from bertsmith.tokenizer.folder import SPECIAL_TOKENS
from bertsmith.tokenizer.tokenizer import MASK, UNK, Tokenizer

_NO_BOUND = 2**31 - 1  # entries; a vocabulary of words is bounded by frequency alone

_SENTENCES_AT_ONCE = 256
_SENTENCES_TO_COUNT = 2**14
_SCORE_DIGITS = 4  # of log probabilities

_UNSPACED = Regex(
    r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}\p{Han}]\p{M}*"
)  # a character, with its marks, of a script that is written without spaces


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """What text is brought to before pieces are looked for, and what pieces may not cross."""

    lowercase: bool = True
    """Whether "The" and "the" are one."""
    strip_accents: bool | None = None
    """None: by WordPiece if it lower-cases, as BERT does it; else not."""
    unicode_normalization: Literal["none", "nfc", "nfkc"] = "none"
    pre_tokenization: Literal["words", "scripts", "characters"] = "words"
    """Words, changes of script as well, or characters of scripts without spaces as well."""
    pretokenized: bool = False
    """Whether spaces already part words from punctuation; heeded by `word` alone."""

    def steps(self, *, strip_accents: bool) -> list[normalizers.Normalizer]:
        """The normalisation but for BERT's own."""
        forms = {"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}
        found = [forms[form]() for form in (self.unicode_normalization,) if form in forms]
        if strip_accents:
            found += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
        return found + ([normalizers.Lowercase()] if self.lowercase else [])

    def borders(self) -> list[pre_tokenizers.PreTokenizer]:
        """What is parted beside words."""
        if self.pre_tokenization == "scripts":
            return [pre_tokenizers.UnicodeScripts()]
        if self.pre_tokenization == "characters":
            return [pre_tokenizers.Split(_UNSPACED, "isolated")]
        return []


def train(
    documents: Iterable[Document],
    *,
    kind: Literal["word", "wordpiece", "bpe", "unigram"],
    spelling: Spelling | None = None,
    min_frequency: int = 5,
    vocab_size: int = 30522,
    max_length: int = 512,
) -> Tokenizer:
    """Learn a vocabulary from `documents`.

    The same documents give the same vocabulary, whatever the number of threads. (Of `unigram`, sums
    in another order may, rarely, round a score's fourth digit otherwise.)

    Args:
        documents: the training split, or a sample of it.
        kind: see above.
        spelling: default: `Spelling()`.
        min_frequency: least count of a word, or of a pair of pieces that is merged; not for
            `unigram`.
        vocab_size: most entries; not for `word`.
        max_length: recorded for those who load the tokenizer.

    Raises:
        TokenizerError: no word is frequent enough, or the size does not hold the letters.
    """
    spelling = spelling or Spelling()
    text = _text(documents)
    if kind == "word":
        backend = _words(text, spelling, min_frequency)
    elif kind == "wordpiece":
        backend = _wordpieces(list(text), spelling, min_frequency, vocab_size)
    elif kind == "bpe":
        backend = _bytes(text, spelling, min_frequency, vocab_size)
    else:
        backend = _unigrams(list(text), spelling, vocab_size)
    if backend.get_vocab_size() <= len(SPECIAL_TOKENS):
        raise TokenizerError(
            f"The vocabulary needs words seen at least {min_frequency} times; the text has "
            "none. Give more text or a lower --min-frequency."
        )
    # Of vocabularies whose pieces hold the space before them, the mask stands for that space too.
    holds_space = kind in ("bpe", "unigram")
    backend.add_special_tokens(
        [
            AddedToken(token, lstrip=holds_space and token == MASK, special=True)
            for token in SPECIAL_TOKENS
        ]
    )
    return Tokenizer(backend, max_length, lowercase=spelling.lowercase)


def _words(text: Iterable[str], spelling: Spelling, min_frequency: int) -> Backend:
    backend = Backend(models.WordLevel(unk_token=UNK))
    _normalize(backend, spelling.steps(strip_accents=bool(spelling.strip_accents)))
    punctuation = [] if spelling.pretokenized else [pre_tokenizers.Punctuation()]
    steps = [pre_tokenizers.WhitespaceSplit(), *punctuation, *spelling.borders()]
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    trainer = trainers.WordLevelTrainer(
        vocab_size=_NO_BOUND,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    backend.train_from_iterator(_joined(text), trainer)
    return backend


def _wordpieces(
    text: list[str], spelling: Spelling, min_frequency: int, vocab_size: int
) -> Backend:
    """Learn pieces, the same ones every time.

    Left alone, the library's trainer numbers the pieces of one letter ("##e") in the order in which
    a hash map gives words, breaks ties between merges by those numbers, and so learns another
    vocabulary each time. Named beforehand, in alphabetical order, they have fixed numbers.
    """

    def backend(model: models.WordPiece) -> Backend:
        found = Backend(model)
        bert = normalizers.BertNormalizer(
            lowercase=spelling.lowercase, strip_accents=spelling.strip_accents
        )
        form = Spelling(lowercase=False, unicode_normalization=spelling.unicode_normalization)
        _normalize(found, [*form.steps(strip_accents=False), bert])
        steps = [pre_tokenizers.BertPreTokenizer(), *spelling.borders()]
        found.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
        found.decoder = decoders.WordPiece()
        return found

    learner = backend(models.WordPiece(unk_token=UNK))
    # Scripts of thousands of characters keep the frequent ones.
    letters = _letters(text, learner.normalizer, most=vocab_size // 3)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    learner.train_from_iterator(_joined(text), trainer)
    # The trainer took those names for special tokens; a tokenizer made anew has only true ones.
    return backend(models.WordPiece(learner.get_vocab(with_added_tokens=False), unk_token=UNK))


def _bytes(text: Iterable[str], spelling: Spelling, min_frequency: int, vocab_size: int) -> Backend:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise TokenizerError(
            f"A vocabulary of bytes needs at least {len(alphabet) + len(SPECIAL_TOKENS)} entries; "
            f"--vocab-size is {vocab_size}."
        )
    backend = Backend(models.BPE())
    _normalize(backend, spelling.steps(strip_accents=bool(spelling.strip_accents)))
    borders = spelling.borders()
    # A space before the first word makes it the same piece there as elsewhere. Where text is parted
    # before, each part would get one.
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=not borders)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*borders, pieces]) if borders else pieces
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    return backend


def _unigrams(text: list[str], spelling: Spelling, vocab_size: int) -> Backend:
    backend = Backend(models.Unigram())
    steps = spelling.steps(strip_accents=bool(spelling.strip_accents))
    _normalize(backend, [*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    borders = spelling.borders()
    scheme = "first" if borders else "always"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*borders, pre_tokenizers.Metaspace(prepend_scheme=scheme), pre_tokenizers.Punctuation()]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    letters = _letters(text, backend.normalizer, most=vocab_size // 3)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token=UNK,
        initial_alphabet=letters,
        show_progress=False,
    )
    try:
        backend.train_from_iterator(text, trainer)
    except Exception as error:  # the library's bare one
        raise TokenizerError(f"No vocabulary can be learned from this text: {error}.") from error
    # Sums over a hash map differ in their last digits, and pieces of one score in their order.
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    learned = {piece: round(score, _SCORE_DIGITS) for piece, score in pieces}
    special = [(token, learned.pop(token, 0.0)) for token in SPECIAL_TOKENS]
    regular = sorted(learned.items(), key=lambda entry: (-entry[1], entry[0]))
    backend.model = models.Unigram([*special, *regular], unk_id=SPECIAL_TOKENS.index(UNK))
    return backend


def _normalize(backend: Backend, steps: list[normalizers.Normalizer]) -> None:
    if steps:
        backend.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)


def _letters(text: list[str], normalizer: normalizers.Normalizer | None, *, most: int) -> list[str]:
    """The `most` frequent characters of `text` as they are after normalisation, sorted."""
    seen = np.zeros(0x110000, dtype=np.int64)
    for joined in _joined(text, _SENTENCES_TO_COUNT):
        codes = joined.encode("utf-32-le")
        seen += np.bincount(np.frombuffer(codes, dtype="<u4"), minlength=len(seen))
    counts: dict[str, int] = {}
    for code in np.flatnonzero(seen):
        char = chr(code)
        for letter in (normalizer.normalize_str(char) if normalizer else char).split():
            counts[letter] = counts.get(letter, 0) + int(seen[code])
    letters = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(letters[:most])


def _joined(text: Iterable[str], count: int = _SENTENCES_AT_ONCE) -> Iterator[str]:
    """Some sentences at a time as one: no word reaches over a space, and calls are costly."""
    for some in batches(text, count):
        yield " ".join(some)


def _text(documents: Iterable[Document]) -> Iterator[str]:
    """Sentences without the mark for unknown words, which is not a word to learn.

    Runs of letters are bounded: merging pieces takes time by the square of a run's length, and the
    library's trainer of `unigram` overflows its stack.
    """
    for document in documents:
        for paragraph in document:
            for sentence in paragraph:
                yield from pieces(part_long_runs(sentence.replace(UNKNOWN_WORD, " ")))
