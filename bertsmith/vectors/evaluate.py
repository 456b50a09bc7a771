"""How good vectors of texts are, on sentence pairs with scores and on retrieval, beside floors.

Legend: Q = queries; D = documents.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

from bertsmith.config import LabelledConfig
from bertsmith.corpus.collections import Collection, collection_of_rows, read_collection
from bertsmith.display import Display
from bertsmith.errors import BertsmithError, InputError, RunError
from bertsmith.evaluation.ranking import DEPTH, judge, nearest
from bertsmith.extras import command_for, is_installed, require
from bertsmith.finetuning.labels import Task
from bertsmith.finetuning.metrics import metrics_of
from bertsmith.finetuning.tables import read_pairs
from bertsmith.finetuning.work import digest_of_model, read_settings
from bertsmith.random_bits import Int64
from bertsmith.rows import with_length_1
from bertsmith.saved.hub import is_hub_name
from bertsmith.saved.sentence_transformers import Pooling
from bertsmith.vectors.encoder import TextEncoder

MODEL = "model"
BM25 = "BM25"
RANDOM = "the same network, random weights"
BEFORE = "mean vectors before the training"

Figures = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class VectorEvaluation:
    """Figures of a model's vectors, and of what takes less."""

    about: str
    """What they are of, in a line."""
    figures: dict[str, Figures]
    """By who gives them: the model first, then floors."""
    left_out: dict[str, int]
    """What the figures are not of."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def evaluate_similarity(
    path: Path,
    file: Path,
    *,
    labelled: LabelledConfig | None = None,
    device: str = "auto",
    precision: str = "float32",
    display: Display | None = None,
) -> VectorEvaluation:
    """Correlate the cosines of sentence pairs with their scores.

    Args:
        path: a fine-tuned folder, or any model; see `TextEncoder.load`.
        file: a table of two texts and a score; see `read_pairs`.
        labelled: which columns.
        device: auto, cpu, cuda or mps.
        precision: float32, bfloat16 or auto.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: the table or the model does not suit.
    """
    require("finetune", "--similarity")
    table = read_pairs(file, labelled or LabelledConfig(), None)
    if table.labels is None:
        raise InputError(
            f"{file} must have a column of scores; it has none. Name it with --label-column."
        )
    task = Task(classes=())
    scores = task.targets(table)
    texts = [a for a, _ in table.texts] + [b or "" for _, b in table.texts]

    def figures(encoder: TextEncoder, progress: Callable[[int, int], None]) -> Figures:
        vectors = with_length_1(encoder.encode(texts, source=str(file), progress=progress))
        left, right = vectors[: len(table)], vectors[len(table) :]
        return metrics_of((left * right).sum(axis=1), scores, task)

    encoder = TextEncoder.load(path, device=device, precision=precision)
    return VectorEvaluation(
        about=f"{file.name}: {len(table):,} pairs",
        figures=_of_all(encoder, figures, display or Display(quiet=True)),
        left_out={"rows": table.num_left_out} if table.num_left_out else {},
    )


def evaluate_retrieval(
    path: Path,
    where: Path,
    *,
    labelled: LabelledConfig | None = None,
    device: str = "auto",
    precision: str = "float32",
    display: Display | None = None,
) -> VectorEvaluation:
    """Rank all documents of a collection for each of its queries, by cosine.

    Args:
        path: as of `evaluate_similarity`.
        where: a folder as `read_collection` reads it, or a table of queries and their documents.
        labelled: which columns of a table.
        device, precision, display: as of `evaluate_similarity`.

    Raises:
        BertsmithError: the collection or the model does not suit.
    """
    display = display or Display(quiet=True)
    if where.is_dir():
        collection = read_collection(where)
    else:
        rows = read_pairs(where, labelled or LabelledConfig(), None).texts
        collection = collection_of_rows(str(where), [(a, b or "") for a, b in rows])
    texts = [*collection.queries, *collection.documents]

    def figures(encoder: TextEncoder, progress: Callable[[int, int], None]) -> Figures:
        vectors = with_length_1(encoder.encode(texts, source=str(where), progress=progress))
        left, right = np.split(vectors, [len(collection.queries)])
        return _judged(nearest(left, right, DEPTH + 1)[0], collection)

    encoder = TextEncoder.load(path, device=device, precision=precision)
    found = _of_all(encoder, figures, display)
    if is_installed("search"):
        with display.stage("Ranking by BM25"):
            ranked = bm25(collection)
            of_words = {BM25: _judged(ranked, collection)} if ranked is not None else {}
        found = {MODEL: found.pop(MODEL), **of_words, **found}
    else:
        display.warn(f"BM25 is not beside it: {command_for('search')}.")
    return VectorEvaluation(
        about=f"{where.name}: {len(collection.queries):,} queries, "
        f"{len(collection.documents):,} documents",
        figures=found,
        left_out=collection.left_out,
    )


def figures_table(found: VectorEvaluation) -> Table:
    """The figures for a reader."""
    names = list(found.figures[MODEL])
    table = Table("", *(name.replace("_at_", "@").replace("_", " ") for name in names))
    for column in table.columns[1:]:
        column.justify = "right"
    for who, figures in found.figures.items():
        cells = (figures[name] for name in names)
        table.add_row(who, *("–" if value is None else f"{value:.3f}" for value in cells))
    return table


def bm25(collection: Collection) -> Int64 | None:
    """The documents that BM25 ranks first for each query: int64 [Q, at most 101].

    By `bm25s` with its own defaults (Lucene's BM25, k1 1.5, b 0.75): words of two letters or more,
    lower-cased, without English stop words. None: no document has such a word.
    """
    import bm25s

    def words(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, show_progress=False)

    index, of_documents = bm25s.BM25(), words(collection.documents)
    if not any(of_documents.ids):
        return None
    index.index(of_documents, show_progress=False)
    depth = min(DEPTH + 1, len(collection.documents))
    found, _ = index.retrieve(words(collection.queries), k=depth, show_progress=False)
    ranked: Int64 = np.asarray(found, dtype=np.int64)
    return ranked


def _judged(ranked: Int64, collection: Collection) -> Figures:
    return {**asdict(judge(collection.without_itself(ranked), collection.relevant))}


def _of_all(
    encoder: TextEncoder,
    figures: Callable[[TextEncoder, Callable[[int, int], None]], Figures],
    display: Display,
) -> dict[str, Figures]:
    """Figures of the model and of its floors."""
    found = {}
    with display.stage("Encoding") as progress:
        found[MODEL] = figures(encoder, progress)
    for name, other in _floors(encoder, display):
        with display.stage(f"Encoding: {name}") as progress, _silent():
            found[name] = figures(other, progress)
    return found


def _floors(encoder: TextEncoder, display: Display) -> Iterator[tuple[str, TextEncoder]]:
    """Encoders that learnt less; the model itself is spent after the last one."""
    if (before := _before(encoder, display)) is not None:
        yield BEFORE, before
    encoder.model.initialize(0)
    yield RANDOM, encoder


@contextmanager
def _silent() -> Iterator[None]:
    """What was said of the same texts before is not said again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _before(encoder: TextEncoder, display: Display) -> TextEncoder | None:
    """What a fine-tuned folder began with, if it is on this machine as it was."""
    try:
        results = msgspec.json.decode((encoder.folder / "results.json").read_bytes())
        named = str(results["begins_from"])
        expected = read_settings(encoder.folder)["sha256"]["model"]
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, RunError):
        return None
    try:
        if is_hub_name(named):
            raise InputError("It has a name on a hub.")
        with _silent():
            found = TextEncoder.load(named, device="cpu", precision=encoder.precision)
        if digest_of_model(found.model) != expected:
            raise InputError("It was trained on since.")
    except BertsmithError as error:
        display.warn(f"The model before the training, {named}, is not beside it. {error}")
        return None
    return replace(
        found,
        model=found.model.to(encoder.device),
        device=encoder.device,
        pooling=Pooling(),
        tokenizer=encoder.tokenizer,
    )
