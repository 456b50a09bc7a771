"""Evaluating a saved model on a split of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bertsmith.config import DataConfig, resolve
from bertsmith.corpus import Columns, Corpus, absolute_names, open_corpus
from bertsmith.data.store import build_store
from bertsmith.errors import CorpusError, DataError, ModelError
from bertsmith.evaluation.held_out import Evaluation, evaluate, evaluation_batches
from bertsmith.model.device import choose_device, default_micro_batch_size
from bertsmith.model.hugging_face import load_model
from bertsmith.model.locate import find_model, find_run_config


def evaluate_folder(
    path: Path,
    *,
    corpus: Sequence[str] | None = None,
    split: str = "validation",
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Losses and accuracies of the model in `path`, at fixed masks of 15 %.

    Args:
        path: a run, a checkpoint, or a Hugging Face BERT folder. Of a run, pairs are made and cut
            as they were in its training.
        corpus: names or paths; default: the run's own.
        split: of the corpus; a text without splits that the run was not trained on is taken whole.
        device: auto, cpu, cuda, mps.
        progress: told the pairs done and in all.

    Raises:
        BertsmithError: no such model, corpus or split; no pair to evaluate on; no NSP or MLM head.
    """
    folder = find_model(path)
    model, tokenizer, missing = load_model(folder)
    if missing:
        raise ModelError(
            f"{folder} must have both pretraining heads to be evaluated; it lacks "
            f"{' and '.join(sorted(missing))}."
        )
    run_config = find_run_config(path)
    data = resolve(file=run_config).data if run_config else DataConfig()
    data = replace(data, max_length=tokenizer.max_length)
    if corpus is None and run_config is None:
        raise CorpusError(f"{path} is not a run, so the corpus must be named: --corpus NAME|PATH.")
    text, split = _open_text(data, corpus, split)
    store, _ = build_store(text.read(split), tokenizer)
    batches = evaluation_batches(
        store,
        tokenizer,
        pairing=data.pairing,
        max_length=data.max_length,
        short_pair_probability=data.short_pair_probability,
    )
    if batches is None:
        raise DataError(f"The split {split} must have a sentence pair to evaluate on; it has none.")
    where = choose_device(device)
    return evaluate(
        model.to(where),
        batches,
        device=where,
        micro_batch_size=default_micro_batch_size(where, model.config, data.max_length),
        progress=progress,
    )


def _open_text(data: DataConfig, corpus: Sequence[str] | None, split: str) -> tuple[Corpus, str]:
    """The corpus to evaluate on, and the split of it to take."""
    # Of the run's own corpus the part that was held out; of any other text all of it.
    own = corpus is None or absolute_names(corpus) == absolute_names(data.corpus)
    text = open_corpus(
        data.corpus if corpus is None else corpus,
        language=data.language,
        validation_fraction=data.validation_fraction if own else 0.0,
        columns=Columns(data.text_column, data.max_bad_rows),
    )
    if not own and split == "validation" and list(text.splits) == ["train"]:
        split = "train"
    if split not in text.splits:
        known = ", ".join(text.splits)
        raise CorpusError(f"The corpus {text.name} has no split {split!r}; it has {known}.")
    return text, split
