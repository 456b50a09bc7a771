"""Evaluating a saved model on a split of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from bertsmith.architectures import NSP_HEAD, Encoder
from bertsmith.config import DataConfig, PreparationConfig, PretrainConfig, resolve
from bertsmith.corpus import absolute_names, open_corpus
from bertsmith.data.store import TokenStore, build_store, word_counts
from bertsmith.display import Display
from bertsmith.errors import BertsmithError, CorpusError, DataError, ModelError
from bertsmith.evaluation.held_out import CountsOf, Evaluation, evaluate, evaluation_batches
from bertsmith.evaluation.pseudo import pseudo_perplexity
from bertsmith.hardware.device import autocast, choose_device, usual_micro_batch
from bertsmith.objectives import objective_of
from bertsmith.preparation import (
    columns_of,
    find_store,
    finished_store,
    prepare_store,
    rules_of,
    with_tokenizer_of,
)
from bertsmith.random_bits import Int64
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import find_run_config, read_newest
from bertsmith.tokenizer import Tokenizer

_MANY_UNKNOWN = 0.5  # share of the tokens

Pairing = Literal["adjacent", "filled"]


class _Wishes(NamedTuple):
    """Which examples are asked for; None: as in the run's training."""

    objective: str | None
    pairing: Pairing | None
    max_length: int | None


class _Opened(NamedTuple):
    """A model with the text it is evaluated on."""

    folder: Path
    model: Encoder
    tokenizer: Tokenizer
    data: DataConfig
    """Which examples are made of the text."""
    store: TokenStore
    counts: Int64 | None
    """Of the words in the training text, if that is at hand."""


def evaluate_folder(
    path: Path,
    *,
    corpus: Sequence[str] | None = None,
    split: str = "validation",
    num_sentences: int = 0,
    objective: str | None = None,
    pairing: Pairing | None = None,
    max_length: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    display: Display | None = None,
) -> Evaluation:
    """Losses and accuracies of the model in `path`, at fixed masks of 15 %.

    Word frequencies, which give a floor, are those of the run's training text, if that is still at
    hand; else those of the evaluated text itself, a floor that has read the answers.

    Two models with one tokenizer meet the same examples and masks if `objective`, `pairing` and
    `max_length` are the same.

    Args:
        path: a run, a checkpoint, a Hugging Face folder, or hf:owner/name. Of a run, examples are
            made and cut as they were in its training.
        corpus: names or paths, or a prepared store; default: the run's own.
        split: of the corpus; a text without splits that the run was not trained on is taken whole.
        num_sentences: whose pseudo-perplexity is taken as well; 0: none.
        objective, pairing, max_length: of the examples; default: as in the run's training.
        device: auto, cpu, cuda, mps.
        precision: of matrix products: float32, bfloat16, or auto.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: no such model, corpus or split; no pair to evaluate on; no NSP or MLM head.
    """
    display = display or Display(quiet=True)
    where = choose_device(device)
    wishes = _Wishes(objective, pairing, max_length)
    opened = read_newest(path, lambda folder: _open(path, folder, corpus, split, wishes, display))
    with autocast(where, precision):
        found = _evaluate(opened, split, num_sentences, where, display)
    if not found.is_finite:
        raise ModelError(
            f"{opened.folder}: the model's losses are not finite numbers; its weights are far too "
            "large."
        )
    _warn_of_what_was_not_scored(found, opened, display)
    return found


def held_out_text(
    path: Path, folder: Path, tokenizer: Tokenizer, display: Display
) -> tuple[TokenStore, DataConfig] | None:
    """What a run held out, and which examples its training made of text; None: there is no such.

    Args:
        path: maybe a run's, or in it.
        folder: the model's.
        tokenizer: the model's.
        display: shows what goes on, where the text is prepared anew.
    """
    run_config = find_run_config(path)
    if run_config is None:
        return None
    config = resolve(file=run_config)
    preparation = with_tokenizer_of(config.preparation, folder)
    try:
        store = _open_text(preparation, tokenizer, None, "validation", display)
    except BertsmithError:  # moved, changed since, or nothing was held out
        return None
    return store, replace(config.data, max_length=tokenizer.max_length)


def _open(
    path: Path,
    folder: Path,
    corpus: Sequence[str] | None,
    split: str,
    wishes: _Wishes,
    display: Display,
) -> _Opened:
    """The model in `folder`, which `path` stands for, and the text to evaluate it on."""
    model, tokenizer, missing = load_model(folder)
    run_config = find_run_config(path)
    config = resolve(file=run_config) if run_config else PretrainConfig()
    data = replace(config.data, max_length=tokenizer.max_length)
    if not run_config and NSP_HEAD in missing:
        data = replace(data, objective="mlm")
    data = _with_wishes(data, wishes)
    _refuse_missing(folder, data, missing)
    if corpus is None and run_config is None:
        raise CorpusError(f"{path} is not a run, so the corpus must be named: --corpus NAME|PATH.")
    preparation = with_tokenizer_of(config.preparation, folder)
    store = _open_text(preparation, tokenizer, corpus, split, display)
    text = training_text(path, folder, tokenizer)
    counts = None if text is None else word_counts(text, tokenizer)
    return _Opened(folder, model, tokenizer, data, store, counts)


def _evaluate(
    opened: _Opened, split: str, num_sentences: int, device: torch.device, display: Display
) -> Evaluation:
    """The figures, with a pseudo-perplexity if `num_sentences` is not 0."""
    _, model, tokenizer, data, store, counts = opened
    counts_of: CountsOf = "training text"
    if counts is None:
        counts, counts_of = word_counts(store, tokenizer), "evaluated text"
    batches = evaluation_batches(store, tokenizer, data)
    if batches is None:
        raise DataError(f"The split {split} must have a sentence pair to evaluate on; it has none.")
    model = model.to(device)
    at_once = usual_micro_batch(device, model.config)
    with display.stage(f"Evaluating on {split}") as progress:
        found = evaluate(
            model,
            objective_of(data.objective),
            batches,
            device=device,
            micro_batch=at_once,
            counts=counts,
            progress=progress,
        )
    found = replace(found, counts_of=counts_of)
    if num_sentences <= 0:
        return found
    with display.stage("Masking every token of some sentences") as progress:
        pseudo = pseudo_perplexity(
            model,
            store,
            tokenizer,
            num_sentences=num_sentences,
            device=device,
            tokens_at_once=at_once,
            counts=counts,
            progress=progress,
        )
    return replace(found, pseudo=pseudo)


def _warn_of_what_was_not_scored(found: Evaluation, opened: _Opened, display: Display) -> None:
    terms = objective_of(opened.data.objective).terms
    if any(term.predicts_masked_tokens for term in terms) and not found.num_masked_tokens:
        display.warn(
            f"No masked token was scored: none of the {found.num_pairs:,} {found.unit} has a word "
            "that the model knows. Evaluate on text in the language and spelling of its vocabulary."
        )
    elif (share := _share_unknown(opened.store, opened.tokenizer)) > _MANY_UNKNOWN:
        display.warn(
            f"{share:.0%} of the tokens of this text are unknown to the model, and not scored: the "
            "figures are of the others."
        )
    if found.pseudo is not None and not found.pseudo.num_tokens:
        display.warn("No sentence has a known word and fits in the model: no pseudo-perplexity.")


def _share_unknown(store: TokenStore, tokenizer: Tokenizer) -> float:
    counts = store.frequencies(tokenizer.vocab_size)
    return float(counts[tokenizer.unk_id] / max(counts.sum(), 1))


def _with_wishes(data: DataConfig, wishes: _Wishes) -> DataConfig:
    """`data` with what is asked for. Raises: `ModelError` for what the model cannot take."""
    if wishes.max_length is not None and wishes.max_length > data.max_length:
        raise ModelError(
            f"`max_length` must be at most the {data.max_length} tokens that the model was trained "
            f"on; got {wishes.max_length}."
        )
    asked = {name: value for name, value in wishes._asdict().items() if value is not None}
    return replace(data, **asked)


def _refuse_missing(folder: Path, data: DataConfig, missing: frozenset[str]) -> None:
    """Raise `ModelError` if a head that is to be judged has no weights."""
    wanted = objective_of(data.objective).heads
    if missing & wanted:
        raise ModelError(
            f"{folder} must have its pretraining heads to be evaluated; it lacks "
            f"{' and '.join(sorted(missing & wanted))}."
        )


def _open_text(
    config: PreparationConfig,
    tokenizer: Tokenizer,
    corpus: Sequence[str] | None,
    split: str,
    display: Display,
) -> TokenStore:
    """What to evaluate on, in the tokens of the model."""
    if (prepared := finished_store(config.corpus if corpus is None else corpus)) is not None:
        if prepared.tokenizer(tokenizer.max_length).sha256() != tokenizer.sha256():
            raise DataError(
                f"The store {prepared.path} must have the model's tokenizer; it has another. "
                "Name the text itself."
            )
        _refuse_unknown(str(prepared.path), split, prepared.manifest.splits)
        return prepared.split(split)
    # Of the run's own corpus the part that was held out; of any other text all of it.
    own = corpus is None or absolute_names(corpus) == absolute_names(config.corpus)
    if own:
        prepared = prepare_store(config, display=display)  # as a rule it is still in the cache
        same = prepared.tokenizer(tokenizer.max_length).sha256() == tokenizer.sha256()
        if same and split in prepared.manifest.splits:
            return prepared.split(split)
    text = open_corpus(
        config.corpus if corpus is None else corpus,
        validation=config.validation if own else (),
        validation_fraction=config.validation_fraction if own else 0.0,
        rules=rules_of(config),
        columns=columns_of(config),
        encoding=config.encoding if own else "utf-8",
    )
    if not own and split == "validation" and text.splits == ("train",):
        split = "train"
    _refuse_unknown(text.name, split, text.splits)
    return build_store(text.read(split), tokenizer)[0]


def training_text(path: Path, folder: Path, tokenizer: Tokenizer) -> TokenStore | None:
    """The training text of a run, if it is still at hand.

    Args:
        path: maybe a run's, or in it.
        folder: the model's.
        tokenizer: the model's.
    """
    if (run_config := find_run_config(path)) is None:
        return None
    try:
        preparation = resolve(file=run_config).preparation
        prepared = find_store(with_tokenizer_of(preparation, folder))
        if prepared is None:
            return None
        if prepared.tokenizer(tokenizer.max_length).sha256() != tokenizer.sha256():
            return None
        return prepared.split("train")
    except BertsmithError:  # moved, changed since, or damaged
        return None


def _refuse_unknown(name: str, split: str, known: Iterable[str]) -> None:
    if split not in known:
        raise CorpusError(f"The corpus {name} has no split {split!r}; it has {', '.join(known)}.")
