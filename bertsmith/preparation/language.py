"""What language a text is in: what is said of it, and what its vocabulary is learned by."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from bertsmith.config import TOKENIZERS, PreparationConfig
from bertsmith.config.languages import NAMES, languages_in, scripts_of
from bertsmith.corpus import Document
from bertsmith.corpus.letters import UNSPACED_SCRIPTS, Letters
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer import Tokenizer

_PASSAGE = 1024
"""Characters, about, of a passage: enough to tell French from English that names somebody."""

_LONGEST_PASSAGE = 2 * _PASSAGE

_MOST_MARKED = 0.005
"""Share of letters with accents that a text without a stated language may have to be stripped of
them. WikiText-2, English with foreign names, has 0.0004 (0.001 in its most accented twentieth);
by published letter frequencies, Italian has 0.011, German 0.02, Spanish and French 0.03, and most
others more."""

_MOST_MARKED_BESIDE_LATIN = 1e-4
"""Share of letters that are marked and in another script: in WikiText-2 3e-6, and 1e-5 in the
eighth that has most. Of Russian and Ukrainian, a hundredth of the letters are marked."""

_MARKED_PASSAGE = 0.01
_LEAST_MARKED = 3
"""Share and number of a passage's letters that have accents, where it is not English."""

_MOST_MARKED_PASSAGES = 0.05
"""Share of the text in such passages that may be stripped: in WikiText-2 0.007, and 0.018 in the
eighth that has most."""

_MOST_UNKNOWN = 0.5
"""Share of words that may be unknown: over it, the mask most often stands for nothing that can be
learned, and a model that always says [UNK] is right more often than not."""


class Passages:
    """Passages drawn evenly from all of a text, half a million to a million characters of it.

    Which ones does not depend on who reads the text, but on the order of its documents alone.

    Attributes:
        texts: the passages, in their order.
    """

    def __init__(self, most: int = 2**20) -> None:
        self._most = most
        self._draw = random.Random(0).random  # noqa: S311  # no secret
        self._share = 1.0  # of passages that are kept
        self._kept: list[tuple[float, str]] = []
        self._size = 0

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self._kept]

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents, of which passages are kept as they pass."""
        for document in documents:
            passage: list[str] = []
            size = 0
            for sentence in itertools.chain.from_iterable(document):
                passage.append(sentence)
                size += len(sentence)
                if size >= _PASSAGE:
                    self._add(passage, size)
                    passage, size = [], 0
            if passage:
                self._add(passage, size)
            yield document

    def _add(self, sentences: list[str], size: int) -> None:
        if size <= _LONGEST_PASSAGE:
            self._keep(sentences)
            return
        text = " ".join(sentences)
        for begin in range(0, len(text), _PASSAGE):
            self._keep([text[begin : begin + _PASSAGE]])

    def _keep(self, sentences: list[str]) -> None:
        drawn = self._draw()
        if drawn >= self._share:
            return
        self._kept.append((drawn, " ".join(sentences)))
        self._size += len(self._kept[-1][1])
        while self._size > self._most and len(self._kept) > 1:
            self._share /= 2
            self._kept = [entry for entry in self._kept if entry[0] < self._share]
            self._size = sum(len(text) for _, text in self._kept)


def tell_of_language(
    config: PreparationConfig,
    letters: Letters,
    *,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Say which letters a text is in, where that is not what the settings take it for."""
    scripts = letters.scripts()
    if not scripts:
        return
    main = next(iter(scripts))
    found = f"{scripts[main]:.0%} of the text's letters are {_named(main)}"
    if config.language is None:
        if config.sentences == "language" and main not in scripts_of("en"):
            known = languages_in(main)[:3]
            example = f", such as {' or '.join(known)}" if known else ""
            say(
                f"{found}; its sentences are split as English ones are. --language says what it "
                f"is in{example}."
            )
        return
    written = scripts_of(config.language)
    if sum(scripts.get(script, 0.0) for script in written) < 0.5:
        name = NAMES.get(config.language.partition("-")[0], config.language)
        warn(
            f"--language {config.language} says that the text is {name} "
            f"({' or '.join(sorted(map(_named, written)))} letters), and {found}."
        )


def decides_accents(config: PreparationConfig) -> bool:
    """Whether the text says if its accents are stripped, so that it is looked at beforehand."""
    return config.strip_accents is None and config.tokenizer == "wordpiece" and config.lowercase


def strips_accents(
    config: PreparationConfig,
    letters: Letters,
    passages: Sequence[str],
    *,
    say: Callable[[str], None],
) -> bool:
    """Whether a vocabulary is learned of a text without its accents.

    As BERT has it, they are stripped of lower-cased English in pieces. In most other languages
    letters with marks are other letters, and a text without a stated language keeps them if a part
    of it would lose them.
    """
    if not decides_accents(config):
        return bool(config.strip_accents)
    if config.language is not None:
        is_latin = next(iter(letters.scripts()), "Latin") == "Latin"
        return config.language.partition("-")[0] == "en" and is_latin
    beside = letters.marked_beside_latin()
    if sum(beside.values()) > _MOST_MARKED_BESIDE_LATIN:
        script = next(iter(beside))
        found = (
            f"{letters.scripts().get(script, 0.0):.1%} of the text's letters are {_named(script)}"
        )
        say(f"{found}, of which some have accents or other marks: they are kept.")
        return False
    share, marked = letters.marked_share(), _share_marked(passages)
    if share <= _MOST_MARKED and marked <= _MOST_MARKED_PASSAGES:
        return True
    where = "" if share > _MOST_MARKED else f", most of them in {marked:.0%} of it"
    say(f"{share:.1%} of the text's letters have accents or other marks{where}: they are kept.")
    return False


def _share_marked(passages: Sequence[str]) -> float:
    """The share of a text's letters that are in passages with many accents."""
    total = marked = 0
    for letters in (Letters([passage]) for passage in passages):
        total += letters.num_letters()
        if letters.num_marked() >= _LEAST_MARKED and letters.marked_share() > _MARKED_PASSAGE:
            marked += letters.num_letters()
    return marked / max(total, 1)


def refuse_unknown(
    tokenizer: Tokenizer, config: PreparationConfig, letters: Letters, passages: Sequence[str]
) -> None:
    """Refuse a vocabulary that does not know the text. Raises: `TokenizerError`."""
    ids, _ = tokenizer.encode_text(passages)
    num_unknown = int(np.count_nonzero(ids == tokenizer.unk_id))
    num_words = num_unknown + int(np.count_nonzero(tokenizer.begins_word()[ids]))
    if num_unknown <= _MOST_UNKNOWN * num_words:
        return
    raise TokenizerError(
        f"At least half of a text's words must be in the vocabulary; "
        f"{num_unknown / num_words:.0%} of them are unknown. {_advice(config, letters)}"
    )


def _advice(config: PreparationConfig, letters: Letters) -> str:
    """What to choose instead of a vocabulary that does not know the text."""
    if config.tokenizer not in TOKENIZERS:
        return "Take a tokenizer of the text's language, or train one (--tokenizer bpe)."
    main = next(iter(letters.scripts()), "")
    if main in UNSPACED_SCRIPTS and config.pre_tokenization != "characters":
        return (
            f"No spaces part words in {_named(main)} writing: take --tokenizer bpe or unigram, or "
            "--pre-tokenization characters."
        )
    if config.tokenizer == "word":
        return (
            "Take pieces of words (--tokenizer wordpiece, bpe or unigram), or a --min-frequency "
            f"under {config.min_frequency}, or more text."
        )
    return "Take --tokenizer bpe, which knows every text; wordpiece, no word of over 100 letters."


def _named(script: str) -> str:
    return "Chinese" if script == "Cjk" else script
