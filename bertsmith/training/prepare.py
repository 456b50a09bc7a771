"""From a corpus to what training reads: the tokenizer, the stores of both splits, the report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.config import DataConfig
from bertsmith.corpus import Columns, Corpus, open_corpus
from bertsmith.data.batches import Batches
from bertsmith.data.pairs import NUM_SPECIAL_IN_PAIR, make_pairing
from bertsmith.data.store import TokenStore, build_store
from bertsmith.errors import DataError, RunError
from bertsmith.evaluation.held_out import evaluation_batches
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.display import Display


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training reads."""

    tokenizer: Tokenizer
    batches: Batches
    validation: Batches | None
    """None if no pair was held out."""
    report: dict[str, Any]
    """What corpus.json says."""


def prepare(
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    display: Display,
    tokenizer: Tokenizer | None = None,
) -> Prepared:
    """Read the corpus, train its tokenizer, tokenize it, and lay out the pairs.

    Args:
        tokenizer: that of the run which is resumed; None: one is trained.

    Raises:
        BertsmithError: the corpus, the vocabulary or the pairs do not suffice.
    """
    with display.stage("Opening the corpus") as progress:
        corpus = open_corpus(
            data.corpus,
            language=data.language,
            validation_fraction=data.validation_fraction,
            columns=Columns(data.text_column, data.max_bad_rows),
            progress=lambda name, done, total: progress(done, total),
        )
    if tokenizer is None:
        with display.stage("Reading text, building the vocabulary"):
            tokenizer = Tokenizer.train(
                corpus.read("train"),
                kind=data.tokenizer,
                pretokenized=corpus.pretokenized,
                lowercase=data.lowercase,
                min_frequency=data.min_frequency,
                vocab_size=data.vocab_size,
                max_length=data.max_length,
            )
    display.say(f"Vocabulary: {tokenizer.vocab_size:,} entries ({data.tokenizer}).")
    report: dict[str, Any] = {
        "corpus": corpus.name,
        "vocabulary_entries": tokenizer.vocab_size,
        "sha256": {"tokenizer": tokenizer.sha256()},
        "splits": {},
    }
    stores = {}
    for split in ("train", "validation"):
        if split in corpus.splits:
            stores[split], report["splits"][split] = _store(corpus, split, tokenizer, data, display)
            report["sha256"][split] = stores[split].sha256()
    batches = _training_batches(stores["train"], tokenizer, data, batch_size, seed)
    report["splits"]["train"]["pairs"] = batches.num_pairs
    validation = None
    if "validation" in stores:
        validation = evaluation_batches(
            stores["validation"],
            tokenizer,
            pairing=data.pairing,
            max_length=data.max_length,
            short_pair_probability=data.short_pair_probability,
        )
        report["splits"]["validation"]["pairs"] = validation.num_pairs if validation else 0
    for split, counts in report["splits"].items():
        display.say(_describe(split, counts, data.max_length))
    return Prepared(tokenizer=tokenizer, batches=batches, validation=validation, report=report)


def refuse_other_text(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Hold the report of a resumed run's text against what corpus.json says of it.

    Raises:
        RunError: the text or the vocabulary is not the same.
    """
    old, new = before.get("sha256"), now["sha256"]
    if old == new:
        return
    old = old if isinstance(old, dict) else {}
    parts = sorted(part for part in {*old, *new} if old.get(part) != new.get(part))
    names = f"{before.get('corpus')} before, {now['corpus']} now"
    if before.get("corpus") == now["corpus"]:
        names = f"{now['corpus']}, changed since"
    raise RunError(
        f"A resumed run must have the text that it began with; `corpus` ({names}) gives another "
        f"{' and another '.join(parts)}. Put it back, or begin another run."
    )


def report_json(report: dict[str, Any]) -> str:
    """The report as the text of corpus.json."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _store(
    corpus: Corpus, split: str, tokenizer: Tokenizer, data: DataConfig, display: Display
) -> tuple[TokenStore, dict[str, Any]]:
    left_out: Counter[str] = Counter()
    with display.stage(f"Tokenizing the {split} split") as progress:
        store, counts = build_store(
            corpus.read(split, left_out), tokenizer, progress=lambda done: progress(done, 0)
        )
    figures: dict[str, Any] = dict(sorted(counts.items()))
    if data.pairing == "adjacent":
        figures["paragraphs_of_one_sentence"] = int(np.sum(np.diff(store.paragraph_offsets) < 2))
        figures["adjacent_pairs_over_max_length"] = _count_long_pairs(store, data.max_length)
    else:
        figures["documents_of_one_sentence"] = int(np.sum(np.diff(store.document_offsets) < 2))
    figures["left_out"] = dict(sorted(left_out.items()))
    return store, figures


def _training_batches(
    store: TokenStore, tokenizer: Tokenizer, data: DataConfig, batch_size: int, seed: int
) -> Batches:
    pairing = make_pairing(
        data.pairing,
        store,
        seed=seed,
        max_length=data.max_length,
        short_pair_probability=data.short_pair_probability,
    )
    if not pairing.num_pairs:
        unit = "paragraph" if data.pairing == "adjacent" else "document"
        raise DataError(
            f"The corpus must have a {unit} of two sentences or more to make pairs of; "
            "it has none. "
            "A line of a text file is a paragraph, an empty line ends a document."
        )
    if pairing.num_pairs < batch_size:
        raise DataError(
            f"The corpus must give at least one batch of {batch_size} sentence pairs; it gives "
            f"{pairing.num_pairs}. Add text, or lower --batch-size."
        )
    return Batches(
        store,
        pairing,
        tokenizer,
        batch_size=batch_size,
        max_length=data.max_length,
        mlm_probability=data.mlm_probability,
        seed=seed,
    )


def _count_long_pairs(store: TokenStore, max_length: int) -> int:
    """Adjacent pairs of a paragraph that do not fit and will be cut."""
    lengths = np.diff(store.sentence_offsets)
    is_first = np.zeros(store.num_sentences, dtype=bool)
    is_first[store.paragraph_offsets[:-1]] = True
    together = lengths[:-1] + lengths[1:] + NUM_SPECIAL_IN_PAIR
    return int(np.count_nonzero((together > max_length) & ~is_first[1:]))


def _describe(split: str, counts: dict[str, Any], max_length: int) -> str:
    unknown = counts["unknown_tokens"] / max(counts["tokens"], 1)
    text = (
        f"{split.capitalize()}: {counts['documents']:,} documents, "
        f"{counts['sentences']:,} sentences, "
        f"{counts['tokens']:,} tokens ({unknown:.1%} unknown), {counts['pairs']:,} pairs"
    )
    if long := counts.get("adjacent_pairs_over_max_length"):
        text += f" ({long / max(counts['pairs'], 1):.0%} are cut to {max_length} tokens)"
    left_out = {
        "empty sentences": counts.get("empty_sentences", 0),
        "paragraphs of one sentence (no pair)": counts.get("paragraphs_of_one_sentence", 0),
        "documents of one sentence (no pair)": counts.get("documents_of_one_sentence", 0),
        **counts["left_out"],
    }
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    return f"{text}.\n  left out: {reasons}." if reasons else f"{text}."
