"""Labelled tables as rows of tokens, cut to length, with their labels as numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from bertsmith.config import FinetuneConfig, LabelledConfig
from bertsmith.errors import InputError
from bertsmith.finetuning.labels import Targets, Task, task_of
from bertsmith.finetuning.tables import read_labelled, refuse_other_kind
from bertsmith.rows import Row, tokenize
from bertsmith.saved.hugging_face import ModelFolder
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import warn


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Rows of the files, in tokens."""

    train: tuple[list[Row], Targets]
    validation: tuple[list[Row], Targets]
    test: list[Row] | None
    lines: dict[str, list[int]]
    """Where the rows of each table stand in its file."""
    task: Task
    has_pairs: bool
    sizes: dict[str, int]
    """Counts of rows of each table: used, left out, cut."""


def read_tables(
    train: Path,
    validation: Path,
    test: Path | None,
    labelled: LabelledConfig,
    tokenizer: Tokenizer,
) -> Tables:
    """The files as rows; what is cut, unknown or left out is said.

    Raises:
        BertsmithError: a file or a label does not suit.
    """
    tables = {
        "train": read_labelled(train, labelled),
        "validation": read_labelled(validation, labelled),
    }
    if test is not None:
        tables["test"] = read_labelled(test, labelled, needs_labels=False)
    task = task_of(tables["train"], labelled)
    rows: dict[str, list[Row]] = {}
    sizes: dict[str, int] = {}
    for name, table in tables.items():
        refuse_other_kind(tables["train"], table)
        rows[name], num_cut = tokenize(table.texts, tokenizer, source=str(table.path))
        sizes |= {name: len(table), f"{name}_left_out": table.num_left_out, f"{name}_cut": num_cut}
    return Tables(
        train=(rows["train"], task.targets(tables["train"])),
        validation=(rows["validation"], task.targets(tables["validation"])),
        test=rows.get("test"),
        lines={name: table.lines for name, table in tables.items()},
        task=task,
        has_pairs=tables["train"].has_pairs,
        sizes=sizes,
    )


def tokenizer_of_length(folder: ModelFolder, config: FinetuneConfig) -> Tokenizer:
    """The tokenizer with the longest length that is trained on, which is saved with the model."""
    most = folder.model.config.max_position_embeddings
    asked = config.max_length or min(folder.tokenizer.max_length, most)
    if not 3 < asked <= most:
        raise InputError(
            f"`max_length` must be from 4 to the model's {most} positions; got {asked}."
        )
    if asked > folder.tokenizer.max_length:
        warn(
            f"The model was trained on {folder.tokenizer.max_length} tokens: what its positions "
            f"up to {asked} mean it learns from the labelled rows alone."
        )
    tokenizer = copy.copy(folder.tokenizer)
    tokenizer.max_length = asked
    return tokenizer
