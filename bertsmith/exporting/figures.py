"""What an exported file is worth on its task's own validation text, beside the one in float32.

Legend: R = rows; H = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.config import LabelledConfig
from bertsmith.display import Display
from bertsmith.errors import InputError
from bertsmith.evaluation.held_out import evaluate, evaluation_batches
from bertsmith.evaluation.of_folder import held_out_text
from bertsmith.exporting.tasks import Exportable
from bertsmith.finetuning.labels import Task
from bertsmith.finetuning.metrics import metrics_of, predictions_of
from bertsmith.finetuning.similarity import figures_of_vectors, rows_that_belong
from bertsmith.finetuning.tables import read_labelled, read_pairs
from bertsmith.finetuning.tagged import Scheme, read_tagged
from bertsmith.finetuning.tokens import TaggedRows
from bertsmith.finetuning.work import read_settings
from bertsmith.objectives.base import Objective, Scores
from bertsmith.objectives.mlm import MLM
from bertsmith.rows import Row, over_rows, over_tokens, tokenize, with_length_1

Figures = dict[str, float | None]
Outputs = Callable[[Batch], Tensor]

_CPU = torch.device("cpu")
_TOKENS_AT_ONCE = 2**11  # each has a number for every entry of the vocabulary
_MOST_PAIRS = 512  # of a run's text


def validation_of(exported: Exportable, named: Path | None) -> Path | None:
    """The table that a model is judged by: the one named, else that of its fine-tuning.

    None: there is none (of a run the text that was held out is taken), or it is not there any more.

    Raises:
        InputError: it was named of a model that is judged by its run's text.
    """
    if exported.task == "fill-mask":
        if named is not None:
            raise InputError(
                "`validation` changes nothing for words of masks, which the run's held-out text "
                "judges; leave it out."
            )
        return None
    if named is not None:
        return named
    try:
        results = msgspec.json.decode((exported.folder / "results.json").read_bytes())
        found = exported.folder / str(results["files"]["validation"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return None
    return found if found.is_file() else None


def figures_of(
    exported: Exportable,
    path: Path,
    table: Path | None,
    models: Mapping[str, Outputs],
    display: Display,
) -> tuple[str, dict[str, Figures]] | None:
    """What was judged by, and the figures of each model, by its name; None: there is nothing.

    Args:
        exported: what the models are of.
        path: as it was named: a run has text that was held out.
        table: of `validation_of`.
        models: what gives outputs.
        display: shows how far it is.

    Raises:
        BertsmithError: the table does not suit.
    """
    if exported.task == "fill-mask":
        return _of_masks(exported, path, models, display)
    if table is None:
        return None
    judges = {
        "text-classification": _of_classes,
        "token-classification": _of_tags,
        "sentence-similarity": _of_vectors,
    }
    judge = judges[exported.task](exported, table, _labelled(exported.folder))
    found = {}
    for name, outputs in models.items():
        with display.stage(f"Judging: {name}") as progress:
            found[name] = judge(outputs, progress)
    return table.name, found


_Judge = Callable[[Outputs, Callable[[int, int], None]], Figures]


def _labelled(folder: Path) -> LabelledConfig:
    """How the tables of a fine-tuning are read; of another model as is usual."""
    if not (folder / "finetune.toml").is_file():
        return LabelledConfig()
    labels: dict[str, Any] = read_settings(folder).get("labels", {})
    return LabelledConfig(**{**labels, "label_names": tuple(labels.get("label_names", ()))})


def _of_classes(exported: Exportable, path: Path, labelled: LabelledConfig) -> _Judge:
    table = read_labelled(path, labelled)
    numbers = tuple(map(str, range(len(exported.classes)))) if labelled.label_names else ()
    task = Task(classes=tuple(exported.classes), spellings=numbers)
    targets = task.targets(table)
    rows, _ = tokenize(table.texts, exported.tokenizer, source=str(path))

    def judge(outputs: Outputs, progress: Callable[[int, int], None]) -> Figures:
        found = _over_rows(exported, outputs, rows, progress)
        return metrics_of(predictions_of(found, task), targets, task)

    return judge


def _of_tags(exported: Exportable, path: Path, labelled: LabelledConfig) -> _Judge:
    scheme = Scheme.of_model(exported.classes)
    table = TaggedRows.of(read_tagged(path, labelled), scheme, exported.tokenizer)

    def judge(outputs: Outputs, progress: Callable[[int, int], None]) -> Figures:
        how: dict[str, Any] = {"precision": "float32", "progress": progress}
        found = over_tokens(outputs, table.rows, exported.num_outputs, _CPU, **how)
        return table.figures(table.predicted(found, scheme), scheme)

    return judge


def _of_vectors(exported: Exportable, path: Path, labelled: LabelledConfig) -> _Judge:
    judged, _ = rows_that_belong(read_pairs(path, labelled, None), exported.tokenizer)

    def judge(outputs: Outputs, progress: Callable[[int, int], None]) -> Figures:
        def vectors(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
            return with_length_1(_over_rows(exported, outputs, rows, progress))

        return figures_of_vectors(judged, vectors)

    return judge


def _over_rows(
    exported: Exportable,
    outputs: Outputs,
    rows: Sequence[Row],
    progress: Callable[[int, int], None],
) -> npt.NDArray[np.float32]:
    return over_rows(
        outputs, rows, exported.num_outputs, _CPU, precision="float32", progress=progress
    )


def _of_masks(
    exported: Exportable, path: Path, models: Mapping[str, Outputs], display: Display
) -> tuple[str, dict[str, Figures]] | None:
    """On the first examples of what a run held out."""
    text = held_out_text(path, exported.folder, exported.tokenizer, display)
    if text is None:
        return None
    batches = evaluation_batches(text[0], exported.tokenizer, text[1])
    if batches is None:
        return None
    found = {}
    for name, outputs in models.items():
        with display.stage(f"Judging: {name}") as progress:
            judged = evaluate(
                exported.model,
                _Masked(outputs),
                batches,
                device=_CPU,
                micro_batch=_TOKENS_AT_ONCE,
                most_pairs=_MOST_PAIRS,
                progress=progress,
            )
        found[name] = dict(judged.figures)
    return f"the run's held-out text, {judged.num_pairs:,} {judged.unit}", found


class _Masked(Objective):
    """The MLM loss of what a file gives for every token."""

    name = "mlm"
    terms = (MLM,)
    heads = frozenset()

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        logits = self._outputs(batch).index_select(0, batch.masked_positions)
        losses = F.cross_entropy(logits, batch.masked_labels, reduction="none")
        return {"mlm": Scores(losses, logits.argmax(1) == batch.masked_labels)}
