"""What language a text is in: what is said of it, and what its vocabulary is learned by."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bertsmith.config import TOKENIZERS, PreparationConfig
from bertsmith.config.languages import NAMES, languages_in, scripts_of
from bertsmith.corpus import Corpus, Part, unwarned
from bertsmith.corpus.letters import UNSPACED_SCRIPTS, Letters
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer import Tokenizer

_CHARACTERS = 2**20  # that are looked at
_PARTS = 16  # of the corpus, from which they are

_MOST_MARKED = 0.005
"""Share of letters with accents that a text without a stated language may have to be stripped of
them. WikiText-2, English with foreign names, has 0.0004 (0.001 in its most accented twentieth);
by published letter frequencies, Italian has 0.011, German 0.02, Spanish and French 0.03, and most
others more."""

_MOST_UNKNOWN = 0.5
"""Share of words that may be unknown: over it, the mask most often stands for nothing that can be
learned, and a model that always says [UNK] is right more often than not."""


def look_at(corpus: Corpus) -> list[str]:
    """Sentences from the beginnings of some training parts, a million characters at most."""
    parts = [part for part in corpus.parts if part.split == "train"]
    step = max(1, -(-len(parts) // _PARTS))
    chosen = parts[::step]
    with unwarned():
        return [text for part in chosen for text in _beginning(part, _CHARACTERS // len(chosen))]


def _beginning(part: Part, most: int) -> Iterator[str]:
    room = most
    for split, document in part.read(Counter()):
        if split == "train":
            for sentence in itertools.chain.from_iterable(document):
                yield sentence[:room]
                room -= len(sentence)
                if room <= 0:
                    return


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


def strips_accents(
    config: PreparationConfig, letters: Letters, *, say: Callable[[str], None]
) -> bool:
    """Whether a vocabulary is learned of a text without its accents.

    As BERT has it, they are stripped of lower-cased English in pieces. In most other languages
    letters with marks are other letters.
    """
    if config.strip_accents is not None:
        return config.strip_accents
    if config.tokenizer != "wordpiece" or not config.lowercase:
        return False
    if config.language is not None:
        is_latin = next(iter(letters.scripts()), "Latin") == "Latin"
        return config.language.partition("-")[0] == "en" and is_latin
    if (share := letters.marked_share()) <= _MOST_MARKED:
        return True
    say(f"{share:.1%} of the text's letters have accents or other marks: they are kept.")
    return False


def refuse_unknown(
    tokenizer: Tokenizer, config: PreparationConfig, letters: Letters, sentences: Sequence[str]
) -> None:
    """Refuse a vocabulary that does not know the text. Raises: `TokenizerError`."""
    ids, _ = tokenizer.encode_text(sentences)
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
