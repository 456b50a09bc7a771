"""From a token store to what training reads: batches of both splits, the report."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import DataConfig, PreparationConfig, PretrainConfig, TrainingConfig
from bertsmith.data.batches import Batches
from bertsmith.data.disk import StoreFolder
from bertsmith.data.lengthening import LengtheningBatches, epoch_of
from bertsmith.data.pairs import Drawing, make_drawing
from bertsmith.display import Display
from bertsmith.errors import ConfigError, DataError, RunError
from bertsmith.evaluation.held_out import evaluation_batches
from bertsmith.preparation import describe_text, prepare_store, with_tokenizer_of
from bertsmith.ranks import ALONE, Ranks, local_rank
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.schedules import (
    batch_schedule,
    mask_schedule,
    num_short_steps,
    short_share,
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training reads."""

    tokenizer: Tokenizer
    batches: Batches | LengtheningBatches
    validation: Batches | None
    """None if no example was held out."""
    store: StoreFolder
    """Where both lie."""
    report: dict[str, Any]
    """What corpus.json says."""


def prepare(
    preparation: PreparationConfig,
    data: DataConfig,
    training: TrainingConfig,
    *,
    display: Display,
    ranks: Ranks = ALONE,
    checks: bool = True,
) -> Prepared:
    """Prepare the text, or find it prepared, and lay out the examples.

    Args:
        preparation, data, training: the run's settings.
        display: shows what goes on.
        ranks: who trains.
        checks: see `prepare_store`.

    Raises:
        BertsmithError: the corpus, the vocabulary or the examples do not suffice.
    """
    store = prepare_store(preparation, display=display, checks=checks)
    tokenizer = store.tokenizer(data.max_length)
    display.say(f"Vocabulary: {tokenizer.vocab_size:,} entries.")
    report = copy.deepcopy(store.manifest.report)
    batches = _training_batches(store, tokenizer, data, training, ranks, display)
    of_text = batches if isinstance(batches, Batches) else batches.long
    _add_examples(report["splits"]["train"], of_text)
    validation = None
    if "validation" in store.manifest.splits:
        validation = evaluation_batches(store.split("validation"), tokenizer, data)
        if validation is not None:
            _add_examples(report["splits"]["validation"], validation)
            if not validation.has_words():
                display.warn(
                    "The text that is held out has no word of the vocabulary: validation will "
                    "score no masked token."
                )
    for line in describe_text(report, data):
        display.say(line)
    return Prepared(
        tokenizer=tokenizer, batches=batches, validation=validation, report=report, store=store
    )


def prepare_on_ranks(
    config: PretrainConfig, newest: Path | None, ranks: Ranks, display: Display
) -> Prepared:
    """What training reads.

    The first rank prepares the text, or checks what is there, and shows how far it is; then one
    rank of each other machine does; the others find it prepared and checked.
    """
    preparation, prepared = config.preparation, None
    own_turn = 0 if ranks.is_first else 1 if local_rank() == 0 else 2
    for turn in range(3 if ranks.size > 1 else 1):
        with ranks.raising_on_all(is_long=True):
            if turn == own_turn:
                prepared = prepare(
                    preparation if newest is None else with_tokenizer_of(preparation, newest),
                    config.data,
                    config.training,
                    ranks=ranks,
                    display=display,
                    checks=own_turn < 2,
                )
    assert prepared is not None
    digests = prepared.report["sha256"]
    those_of_first = ranks.from_first(digests)
    with ranks.raising_on_all():
        if digests != those_of_first:
            raise DataError("All ranks must have the same text; this one has another.")
    return prepared


def refuse_other_text(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Hold the report of a resumed run's text against what corpus.json says of it.

    Raises:
        RunError: the text or the vocabulary is not the same.
    """
    old, new = before["sha256"], now["sha256"]
    if old == new:
        return
    parts = sorted(part for part in {*old, *new} if old.get(part) != new.get(part))
    names = f"{before.get('corpus')} before, {now['corpus']} now"
    if before.get("corpus") == now["corpus"]:
        names = f"{now['corpus']}, changed since"
    raise RunError(
        f"A resumed run must have the text that it began with; `corpus` ({names}) gives another "
        f"{' and another '.join(parts)}. Put it back, or begin another run."
    )


def _add_examples(counts: dict[str, Any], batches: Batches) -> None:
    counts["pairs" if batches.is_pairs else "segments"] = batches.num_examples
    counts.update(batches.counts)


def _training_batches(
    store: StoreFolder,
    tokenizer: Tokenizer,
    data: DataConfig,
    training: TrainingConfig,
    ranks: Ranks,
    display: Display,
) -> Batches | LengtheningBatches:
    train = store.split("train")
    lengths = [data.max_length]
    if data.first_max_length is not None:
        lengths.insert(0, data.first_max_length)
    with display.stage("Laying out examples") as progress:
        drawings = [
            make_drawing(train, data.of_length(length), seed=training.seed, progress=progress)
            for length in lengths
        ]
    for drawing in drawings:
        _refuse_too_few(drawing, data, training, ranks)
    num_examples = drawings[-1].num_examples
    if len(drawings) > 1:
        num_short = drawings[0].num_examples
        num_examples = epoch_of(num_short, num_examples, short_share(data, training))
    made = [
        Batches(
            train,
            drawing,
            tokenizer,
            batch_size=training.batch_size,
            max_length=length,
            first_examples=batch_schedule(training, num_examples),
            mlm_probability=mask_schedule(data, training, num_examples),
            masking=data.masking,
            seed=training.seed,
            rank=ranks.rank,
            num_ranks=ranks.size,
        )
        for drawing, length in zip(drawings, lengths, strict=True)
    ]
    if not made[-1].has_words():
        raise DataError(
            "The corpus must have words of the vocabulary for there to be anything to predict; "
            f"all tokens of its {made[-1].num_examples:,} examples are unknown. Name text in the "
            "language and spelling of the tokenizer, or another --tokenizer."
        )
    if len(made) == 1:
        return made[0]
    short, long = made
    num_steps = num_short_steps(data, training, num_examples)
    return LengtheningBatches(short, long, num_steps, num_examples)


def _refuse_too_few(
    drawing: Drawing, data: DataConfig, training: TrainingConfig, ranks: Ranks
) -> None:
    """Raise `BertsmithError` if the examples do not suffice for a batch."""
    if not drawing.num_examples:
        unit = "paragraph" if data.pairing == "adjacent" else "document"
        raise DataError(
            f"The corpus must have a {unit} of two sentences or more to make pairs of; "
            "it has none. "
            "A line of a text file is a paragraph, an empty line ends a document (--documents and "
            "--paragraphs say otherwise); --objective mlm needs no pairs."
        )
    if training.smallest_batch < ranks.size:
        raise ConfigError(
            f"`{training.setting_of(training.smallest_batch)}` must be at least one for each of "
            f"the {ranks.size} ranks; got {training.smallest_batch}."
        )
    if drawing.num_examples < training.largest_batch:
        name = "sentence pairs" if drawing.is_pairs else "segments"
        flag = training.setting_of(training.largest_batch).replace("_", "-")
        raise DataError(
            f"The corpus must give at least one batch of {training.largest_batch} {name}; it gives "
            f"{drawing.num_examples}. Add text, or lower --{flag}."
        )
