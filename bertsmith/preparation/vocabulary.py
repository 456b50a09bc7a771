"""The tokenizer of a store: trained on the text or a sample of it, or taken from a folder."""

from __future__ import annotations

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith.config import TOKENIZERS, PreparationConfig, nearest
from bertsmith.corpus import Corpus, Document, Part, digest, unwarned
from bertsmith.corpus.letters import Letters
from bertsmith.data.disk import StoreFolder
from bertsmith.data.manifest import TOKENIZER_FOLDER
from bertsmith.display import Display
from bertsmith.errors import TokenizerError
from bertsmith.preparation.engines import Engine, run_all
from bertsmith.preparation.language import (
    Passages,
    decides_accents,
    refuse_unknown,
    strips_accents,
    tell_of_language,
)
from bertsmith.preparation.work import NO_LENGTH, Job, kept_documents, text_bytes
from bertsmith.tokenizer import Spelling, Tokenizer, train
from bertsmith.tokenizer.added import Extended, extended
from bertsmith.tokenizer.folder import has_tokenizer

_MARGIN = 1.25  # how much more a part may give than its share, since sizes are estimates
_SAMPLE_SENTENCES = 3

_LOOK_BYTES = 2**25
"""Of text that are looked at for a tokenizer that is given, which is a second or two."""

_PLACES = 256  # in the corpus, from which they are

_CHECKPOINT = re.compile(r"step-(\d+)", re.ASCII)


def given_tokenizer(config: PreparationConfig) -> Extended | None:
    """The tokenizer that the settings name by its folder, with the tokens that they add to it.

    Returns:
        None: one is to be trained.

    Raises:
        TokenizerError: there is no such folder, no tokenizer in it, or nothing to add.
    """
    if config.tokenizer in TOKENIZERS:
        return None
    folder = Path(config.tokenizer)
    if not folder.is_dir():
        raise TokenizerError(
            f"There is no kind of tokenizer and no folder {config.tokenizer!r}; "
            f"{nearest(config.tokenizer, TOKENIZERS)} Or name a folder with a tokenizer.json."
        )
    tokenizer = Tokenizer.load(_tokenizer_folder(folder), default_max_length=NO_LENGTH)
    tokenizer.max_length = NO_LENGTH  # what another model was trained on does not bound a store
    if config.add_tokens is None:
        return Extended(tokenizer, [], 0)
    return extended(tokenizer, Path(config.add_tokens))


def _tokenizer_folder(path: Path) -> Path:
    """Where the tokenizer is: in `path`, or in the store or the run that `path` is."""
    steps = {
        int(named[1]): one
        for one in path.glob("checkpoints/step-*")
        if (named := _CHECKPOINT.fullmatch(one.name))
    }
    newest_first = [steps[step] for step in sorted(steps, reverse=True)]
    places = [path, path / TOKENIZER_FOLDER, path / "model", *newest_first]
    return next((place for place in places if has_tokenizer(place)), path)


def make_tokenizer(
    config: PreparationConfig,
    corpus: Corpus,
    job: Job,
    given: Tokenizer | None,
    display: Display,
    *,
    engine: Engine = "local",
    processes: int | None = None,
) -> Tokenizer:
    """The tokenizer that is given, or one that is trained; held against the text.

    Raises:
        TokenizerError: the text does not suffice, or most of its words are unknown.
    """
    passages = Passages()
    if given is None:
        documents = passages.watch(_to_learn_from(config, corpus, job, engine, processes))
        tokenizer = _learn(config, documents, passages, corpus.pretokenized, display)
    else:
        tokenizer = given
        with unwarned():
            deque(passages.watch(_to_look_at(corpus, job)), maxlen=0)
    letters = Letters(passages.texts)
    tell_of_language(config, letters, say=display.say, warn=display.warn)
    refuse_unknown(tokenizer, config, letters, passages.texts)
    return tokenizer


def _learn(
    config: PreparationConfig,
    documents: Iterable[Document],
    passages: Passages,
    pretokenized: bool,
    display: Display,
) -> Tokenizer:
    """Learn a vocabulary from `documents`, of which `passages` are kept meanwhile."""
    strip = bool(config.strip_accents)
    if decides_accents(config):  # by all of the text, which is held in memory for it anyway
        with unwarned():
            documents = list(documents)
        strip = strips_accents(config, Letters(passages.texts), passages.texts, say=display.say)
    kind: Any = config.tokenizer
    with unwarned():  # what is left out is told of when it is tokenized
        return train(
            documents,
            kind=kind,
            spelling=Spelling(
                lowercase=config.lowercase,
                strip_accents=strip,
                unicode_normalization=config.unicode_normalization,
                pre_tokenization=config.pre_tokenization,
                pretokenized=pretokenized,
            ),
            min_frequency=config.min_frequency,
            vocab_size=config.vocab_size,
            max_length=NO_LENGTH,
        )


def _to_learn_from(
    config: PreparationConfig,
    corpus: Corpus,
    job: Job,
    engine: Engine,
    processes: int | None,
) -> Iterable[Document]:
    """The training text, or a sample of it that does not depend on who draws it: the documents of
    the smallest digests.
    """
    parts = _training_parts(corpus, job)
    total = sum(part.size for _, _, part in parts)
    bound = config.tokenizer_sample_bytes
    if not bound or total <= bound:
        return (document for task in parts for document in _training(*task))
    tasks = [(*task, bound / total, bound) for task in parts]
    found = run_all(sample_part, tasks, engine=engine, processes=processes)
    return _smallest((entry for rows in found for entry in rows), bound)


def _to_look_at(corpus: Corpus, job: Job) -> Iterator[Document]:
    """The training text, or some of a long one from places that are as far apart as parts let it.

    A part is read from its beginning on. What one does not have, the next gives.
    """
    parts = _training_parts(corpus, job)
    ends = np.cumsum([max(part.size, 1) for _, _, part in parts])
    places = (np.arange(_PLACES) + 0.5) * (int(ends[-1]) / _PLACES) if parts else np.empty(0)
    counts = np.bincount(np.searchsorted(ends, places, side="right"), minlength=len(parts))
    room = 0
    for task, count in zip(parts, counts.tolist(), strict=True):
        room += count * (_LOOK_BYTES // _PLACES)
        for document in _training(*task) if count else ():
            yield document
            room -= text_bytes(document)
            if room <= 0:
                break


def _training_parts(corpus: Corpus, job: Job) -> list[tuple[Job, int, Part]]:
    return [
        (job, number, part) for number, part in enumerate(corpus.parts) if part.split == "train"
    ]


def sample_part(
    job: Job, number: int, part: Part, share: float, bound: int
) -> list[tuple[bytes, Document]]:
    """The documents of a part whose digests are the smallest, with these; about `share` of it."""
    limit = min(1.0, _MARGIN * share) * 2**64
    chosen: list[tuple[bytes, Document]] = []
    smallest: tuple[bytes, Document] | None = None  # so that there is one, however few there are
    with unwarned():
        for document in _training(job, number, part):
            found = digest(document)
            if smallest is None or found < smallest[0]:
                smallest = (found, list(document))
            if int.from_bytes(found[:8], "big") < limit:
                chosen.append((found, list(document)))
    if not chosen and smallest:
        return [smallest]
    return [(digest(document), document) for document in _smallest(chosen, bound)]


def measure_vocabulary(
    store: StoreFolder, kind: str, counts: dict[str, int], split: str = "train"
) -> dict[str, Any]:
    """How well a vocabulary suits a split.

    Returns:
        `kind`, `entries`, `unknown_share` of tokens, `tokens_a_word`, and a `sample`: the tokens of
        the first sentences.
    """
    tokenizer = store.tokenizer(NO_LENGTH)
    text = store.split(split)
    sample = []
    for shard, *_ in text.shards():
        ends = shard.sentence_offsets[: _SAMPLE_SENTENCES + 1].tolist()
        for first, end in itertools.pairwise(ends):
            sample.append(" ".join(tokenizer.token(int(i)) for i in shard.ids[first:end]))
        break
    return {
        "kind": kind,
        "entries": tokenizer.vocab_size,
        "unknown_share": counts["unknown_tokens"] / max(counts["tokens"], 1),
        "tokens_a_word": counts["tokens"] / max(counts["words"], 1),
        "sample": sample,
    }


def _training(job: Job, number: int, part: Part) -> Iterable[Document]:
    for split, document in kept_documents(job, number, part, Counter()):
        if split == "train":
            yield document


def _smallest(entries: Iterable[tuple[bytes, Document]], bound: int) -> list[Document]:
    """Documents by rising digest as long as their text is at most `bound` bytes, at least one."""
    found: list[Document] = []
    room = bound
    for _, document in sorted(entries, key=lambda entry: entry[0]):
        room -= text_bytes(document)
        if room < 0 and found:
            break
        found.append(document)
    return found
