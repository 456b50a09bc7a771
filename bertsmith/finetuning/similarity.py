"""Sentence vectors: an encoder alone, trained by contrast, judged by what its vectors bring near.

Legend: R = rows; H = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.architectures import POOLER, Encoder, MicroBatch, architecture_of
from bertsmith.config import (
    FinetuneConfig,
    LabelledConfig,
    ModelConfig,
    SimilarityConfig,
    resolve,
)
from bertsmith.data.store import TokenStore
from bertsmith.errors import ConfigError, DataError, InputError
from bertsmith.evaluation.ranking import DEPTH, judge, nearest
from bertsmith.finetuning.batches import Drawn
from bertsmith.finetuning.labels import Task
from bertsmith.finetuning.metrics import metrics_of
from bertsmith.finetuning.pairs import Neighbours, TableRows, TextRows, drawn, number_of
from bertsmith.finetuning.tables import LabelledTexts, read_pairs
from bertsmith.finetuning.train import Files, How, Training
from bertsmith.hardware.device import usual_micro_batch
from bertsmith.objectives.contrast import Contrast, ScoredContrast
from bertsmith.preparation import prepare_store, with_tokenizer_of
from bertsmith.random_bits import Int64
from bertsmith.rows import Row, over_rows, tokenize, with_length_1
from bertsmith.saved.hub import is_hub_name
from bertsmith.saved.hugging_face import ModelFolder, Snapshot, to_hugging_face
from bertsmith.saved.locate import find_run_config
from bertsmith.saved.sentence_transformers import Pooling, write_pooling
from bertsmith.tokenizer import Tokenizer

_SCORES = Task(classes=())
_MOST_JUDGED = 4096
"""Neighbouring sentences of the validation split that are looked for; the first ones."""

_BYTES_AT_ONCE = 2 * 10**9
"""Activations, in float32."""

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SimilarityTraining(Training):
    """How an encoder learns to bring texts that belong together near each other.

    Args:
        rows, judged: of texts to train on, and to judge by.
        similarity: what vectors are.
        begins_from: the pretrained encoder, as it was named.
        source: of the rows: "pairs", "scores" or "neighbouring sentences".
        sizes: counts of rows: used, left out, cut.
    """

    rows: TextRows
    judged: TextRows
    similarity: SimilarityConfig
    begins_from: str
    source: str
    sizes: dict[str, int]

    usual_batch_size = 256

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def metric(self) -> str:
        return "ndcg_at_10" if self.rows.scores is None else "spearman"

    def objective(self) -> Contrast | ScoredContrast:
        kind = Contrast if self.rows.scores is None else ScoredContrast
        own = self.similarity
        return kind(
            num_texts=self.rows.num_texts,
            pooling=own.pooling,
            temperature=own.temperature,
            sizes=sorted({*own.matryoshka, self.pretrained.config.hidden_size})
            if own.matryoshka
            else (),
        )

    def usual_micro_batch(self, config: ModelConfig) -> int:
        return at_once(self.device, config, self.tokenizer.max_length)

    def drawing(self) -> Callable[[Int64], Drawn]:
        return partial(drawn, self.rows)

    def evaluate(
        self, model: Encoder, progress: Callable[[int, int], None]
    ) -> dict[str, float | None]:
        return figures_of_vectors(self.judged, lambda rows: self._vectors(model, rows, progress))

    def _vectors(
        self, model: Encoder, rows: Sequence[Row], progress: Callable[[int, int], None]
    ) -> Float32:
        """Of length 1: float32 [R, H]."""
        objective = self.objective()
        found = over_rows(
            lambda batch: objective.vectors(model, batch),
            rows,
            self.pretrained.config.hidden_size,
            self.device,
            precision=self.config.precision,
            ranks=self.ranks,
            progress=progress,
        )
        return with_length_1(found)

    def digests(self) -> dict[str, str]:
        return {"train": self.rows.digest(), "validation": self.judged.digest(), "test": ""}

    def results(self) -> dict[str, Any]:
        model = self.model()
        model.load_state_dict(self.pretrained.state_dict(), strict=False)
        with self.display.stage("Judging the vectors before training"):
            before = self.evaluate(model.eval(), lambda done, total: None)
        return {
            "task": "similarity",
            "begins_from": self.begins_from,
            "source": self.source,
            "similarity": asdict(self.similarity),
            "rows": self.sizes,
            "untrained": before,
        }

    def write(self, model: Encoder, folder: Path) -> None:
        found = Snapshot.of(model, self.tokenizer)
        pooler = {
            name: value
            for name, value in self.pretrained.state_dict().items()
            if name.startswith(f"{POOLER}.")
        }
        # Nothing reads it; transformers' classes have one, and would draw it anew.
        pooler = to_hugging_face(pooler, architecture_of(model.config.architecture))
        replace(found, weights={**found.weights, **pooler}).write(folder)
        pooling = Pooling(mode=self.similarity.pooling, normalize=self.similarity.normalize)
        size = model.config.hidden_size
        write_pooling(folder, pooling, size=size, max_length=self.tokenizer.max_length)


def at_once(device: torch.device, config: ModelConfig, max_length: int) -> int:
    """Tokens of a micro-batch: as many as some memory holds, so that most batches are one.

    What is made of several is made twice (`training/gradient_cache.py`), which costs more than a
    large micro-batch does.

    Args:
        device: where.
        config: of the network.
        max_length: of a text, in tokens.
    """
    one = MicroBatch(num_sequences=1, length=max_length, num_masked=0)
    each = architecture_of(config.architecture).activation_bytes(config, 1, one) // max_length
    return max(usual_micro_batch(device, config), _BYTES_AT_ONCE // each)


def figures_of_vectors(
    judged: TextRows, vectors: Callable[[Sequence[Row]], Float32]
) -> dict[str, float | None]:
    """How near vectors bring the texts that belong together.

    Args:
        judged: them.
        vectors: from rows to vectors of length 1: float32 [R, H].
    """
    most = _MOST_JUDGED if isinstance(judged, Neighbours) else len(judged)
    first, second = judged.texts(np.arange(min(len(judged), most)))[:2]
    found = vectors([*first, *second])
    left, right = found[: len(first)], found[len(first) :]
    if judged.scores is not None:
        return metrics_of((left * right).sum(axis=1), judged.scores, _SCORES)
    return _found_again(first, second, left, right)


def _found_again(
    queries: Sequence[Row], documents: Sequence[Row], left: Float32, right: Float32
) -> dict[str, float | None]:
    """How each query's documents are ranked among all different documents."""
    numbers = [number_of(row) for row in documents]
    places = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
    firsts = {number: row for row, number in reversed(list(enumerate(numbers)))}
    relevant: dict[int, dict[int, float]] = {}
    asked: dict[int, int] = {}
    for row, query in enumerate(map(number_of, queries)):
        if query != numbers[row]:
            asked.setdefault(query, row)
            relevant.setdefault(query, {})[places[numbers[row]]] = 1.0
    if not relevant:
        raise DataError("There must be rows of two different texts to judge by; there is none.")
    pool = right[[firsts[number] for number in places]]
    ranked, _ = nearest(left[list(asked.values())], pool, DEPTH + 1)
    others = [
        [number for number in row if number != places.get(query)]  # a text does not find itself
        for row, query in zip(ranked.tolist(), relevant, strict=True)
    ]
    return {**asdict(judge(others, list(relevant.values())))}


def similarity_training(
    path: Path,
    folder: ModelFolder,
    where: Path,
    files: Files,
    labelled: LabelledConfig,
    similarity: SimilarityConfig,
    **how: Unpack[How],
) -> SimilarityTraining:
    """What is trained, and on what, held against each other.

    Args:
        path: as it was named: without tables, the run whose text is learnt from.
        folder: the model.
        where: it lies.
        files: tables of texts that belong together; without them, neighbouring sentences.
        labelled, similarity: what the tables and the vectors mean.
        how: see `Training`.

    Raises:
        BertsmithError: a table, a text or a setting does not suit.
    """
    _refuse(files, similarity, how["config"], folder.model.config.hidden_size)
    tokenizer = how["tokenizer"]
    rows: TextRows
    judged: TextRows
    if files.train is None or files.validation is None:
        stores = _stores_of_run(path, where, how)
        rows, judged = (Neighbours(store, tokenizer) for store in stores)
        source, sizes = "neighbouring sentences", {"train": len(rows), "validation": len(judged)}
    else:
        with how["display"].stage("Reading the tables"):
            train, validation = (
                read_pairs(file, labelled, similarity.negative_column)
                for file in (files.train, files.validation)
            )
            rows, judged, sizes = _rows_of(train, validation, tokenizer)
        source = "pairs" if rows.scores is None else "scores"
    if len(rows) < 2:
        raise DataError("There must be two rows or more to tell texts apart; there is one.")
    return SimilarityTraining(
        pretrained=folder.model,
        rows=rows,
        judged=judged,
        similarity=similarity,
        begins_from=str(path) if is_hub_name(str(path)) else str(path.resolve()),
        source=source,
        sizes=sizes,
        **how,
    )


def _refuse(
    files: Files, similarity: SimilarityConfig, config: FinetuneConfig, hidden_size: int
) -> None:
    """Raise what does not suit the task."""
    largest = max(similarity.matryoshka, default=0)
    if largest > hidden_size:
        raise ConfigError(
            f"`matryoshka` must be sizes of at most the model's {hidden_size}; got {largest}."
        )
    if config.metric != "auto":
        raise ConfigError(
            "`metric` changes nothing for similarity, which is judged by what it is trained on; "
            "leave it out."
        )
    if files.test is not None:
        raise InputError("`test` changes nothing for similarity; leave it out.")
    if (files.train is None) != (files.validation is None):
        raise InputError(
            "Similarity is learnt and judged by tables of one kind: name --train and "
            "--validation, or neither."
        )


def _rows_of(
    train: LabelledTexts, validation: LabelledTexts, tokenizer: Tokenizer
) -> tuple[TextRows, TextRows, dict[str, int]]:
    """The rows of both tables, and counts of them."""
    if (train.labels is None) != (validation.labels is None):
        scored, other = (train, validation) if validation.labels is None else (validation, train)
        raise InputError(f"{other.path} must have scores, as {scored.path} has; it has none.")
    found: list[TextRows] = []
    sizes: dict[str, int] = {}
    for name, table in (("train", train), ("validation", validation)):
        rows, cut = rows_that_belong(table, tokenizer)
        found.append(rows)
        sizes |= {name: len(table), f"{name}_left_out": table.num_left_out, f"{name}_cut": cut}
    return found[0], found[1], sizes


def rows_that_belong(table: LabelledTexts, tokenizer: Tokenizer) -> tuple[TableRows, int]:
    """The rows of a table that `read_pairs` read, and how many texts were cut.

    Raises:
        DataError: its scores are all alike.
    """
    columns = [[a for a, _ in table.texts], [b or "" for _, b in table.texts]]
    columns += [] if table.negatives is None else [table.negatives]
    cut = 0
    rows = []
    for column in columns:
        tokens, num_cut = tokenize([(t, None) for t in column], tokenizer, source=str(table.path))
        rows.append(tokens)
        cut += num_cut
    scores = None if table.labels is None else _SCORES.targets(table).astype(np.float32)
    if scores is not None and len(np.unique(scores)) < 2:
        raise DataError(f"{table.path} must have different scores; all are {scores[0]}.")
    return TableRows(columns=rows, scores=scores), cut


def _stores_of_run(path: Path, folder: Path, how: How) -> tuple[TokenStore, TokenStore]:
    """The text that a run was trained on, and what was held out of it.

    Raises:
        InputError: it is no run, or nothing was held out.
    """
    run_config = find_run_config(path)
    if run_config is None:
        raise InputError(
            f"{path} is not a run, whose text could be learnt from; name texts that belong "
            "together with --train and --validation."
        )
    preparation = with_tokenizer_of(resolve(file=run_config).preparation, folder)
    store = prepare_store(preparation, display=how["display"])
    if store.tokenizer(how["tokenizer"].max_length).sha256() != how["tokenizer"].sha256():
        raise DataError(f"{store.path} must have the tokenizer of {folder}; it has another.")
    if "validation" not in store.manifest.splits:
        raise InputError(
            f"The text of {path} must have a part that was held out to judge by; it has none. Name "
            "tables with --train and --validation."
        )
    return store.split("train"), store.split("validation")
