"""Tags of words: a classifier on every token, sentences in windows, spans that are found.

Legend: W = words; L = tokens that a model reads at once; K = tags.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from bertsmith.architectures import Encoder
from bertsmith.config import LabelledConfig
from bertsmith.errors import ConfigError, InputError
from bertsmith.finetuning.batches import Drawn
from bertsmith.finetuning.tagged import (
    Scheme,
    Tagged,
    Window,
    pieces_of,
    read_tagged,
    span_figures,
    windows_of,
)
from bertsmith.finetuning.train import Files, How, Training
from bertsmith.objectives.tokens import TokenClassification
from bertsmith.random_bits import Int64
from bertsmith.ranks import ALONE, Ranks
from bertsmith.rows import Row, over_tokens
from bertsmith.saved.hugging_face import ModelFolder, Snapshot, labels_config
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import warn

_PREDICTIONS = "predictions-{}.tsv"


@dataclass(frozen=True, kw_only=True)
class TaggedRows:
    """A file of sentences, as it is learnt or judged."""

    file: Tagged
    tags: list[list[str]]
    """Of each word, in BIO where tags are of spans; empty of a test set."""
    windows: list[Window]
    broken: int
    """Tags that broke their scheme."""

    @staticmethod
    def of(file: Tagged, scheme: Scheme, tokenizer: Tokenizer) -> TaggedRows:
        """The sentences of a file in windows. Raises: `DataError` for a tag that is unknown."""
        tags, windows, broken = [], [], 0
        for number, words in enumerate(file.words):
            numbers = None
            if file.tags is not None:
                bio, wrong = scheme.as_bio(file.tags[number])
                numbers = scheme.numbers(bio, file.path)
                tags.append(bio)
                broken += wrong
            windows += windows_of(pieces_of(words, tokenizer), numbers, number, tokenizer, scheme)
        if broken:
            warn(
                f"{file.path}: {broken:,} of {file.num_words:,} tags are inside a span that was "
                "not begun; they are taken for its beginning."
            )
        return TaggedRows(file=file, tags=tags, windows=windows, broken=broken)

    @property
    def rows(self) -> list[Row]:
        """What a model reads."""
        return [window.row for window in self.windows]

    def predicted(
        self, outputs: Sequence[npt.NDArray[np.float32]], scheme: Scheme
    ) -> list[list[str]]:
        """The tag of each word, by its first piece.

        Args:
            outputs: of each row's tokens: float32 [L, K].
            scheme: of the K tags.
        """
        found = [[""] * len(words) for words in self.file.words]
        for window, scores in zip(self.windows, outputs, strict=True):
            for word, number in zip(window.words, scores.argmax(axis=1).tolist(), strict=True):
                if word >= 0:
                    found[window.sentence][word] = scheme.names[number]
        return found

    def figures(self, found: Sequence[Sequence[str]], scheme: Scheme) -> dict[str, float | None]:
        """How good the tags are that `predicted` gives, beside those of the file."""
        right = sum(
            mine == theirs
            for row, expected in zip(found, self.tags, strict=True)
            for mine, theirs in zip(row, expected, strict=True)
        )
        accuracy: dict[str, float | None] = {"accuracy": right / self.file.num_words}
        if not scheme.is_spans:
            return accuracy
        by_kind = span_figures(found, self.tags)
        over_all = {name: by_kind[""][name] for name in ("f1", "precision", "recall")}
        of_kinds = {
            f"f1_{kind}": by_kind[kind]["f1"] if kind in by_kind else 0.0 for kind in scheme.kinds
        }
        return {**over_all, **accuracy, **of_kinds}

    def digest(self) -> str:
        """Of what is read of it."""
        rows = [(window.row.ids, window.tags) for window in self.windows]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TokenTraining(Training):
    """How a classifier of tokens is trained.

    Args:
        scheme: what tags mean.
        train, validation, test: sentences; in `test` tags are not looked at.
    """

    scheme: Scheme
    train: TaggedRows
    validation: TaggedRows
    test: TaggedRows | None

    rate_of_base = 1e-4  # by docs/design/use.md

    @property
    def num_rows(self) -> int:
        return len(self.train.windows)

    @property
    def metric(self) -> str:
        usual = "f1" if self.scheme.is_spans else "accuracy"
        return usual if self.config.metric == "auto" else self.config.metric

    @property
    def num_outputs(self) -> int:
        return len(self.scheme.names)

    def objective(self) -> TokenClassification:
        return TokenClassification()

    def drawing(self) -> Callable[[Int64], Drawn]:
        return partial(_tagged_windows, self.train.windows)

    def evaluate(
        self, model: Encoder, progress: Callable[[int, int], None]
    ) -> dict[str, float | None]:
        return self.validation.figures(
            self._predict(model, self.validation, self.ranks, progress), self.scheme
        )

    def _predict(
        self,
        model: Encoder,
        rows: TaggedRows,
        ranks: Ranks,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[str]]:
        """The tag of each word."""
        objective = self.objective()
        logits = over_tokens(
            lambda batch: objective.outputs(model, batch),
            rows.rows,
            len(self.scheme.names),
            self.device,
            precision=self.config.precision,
            ranks=ranks,
            progress=progress,
        )
        return rows.predicted(logits, self.scheme)

    def digests(self) -> dict[str, str]:
        return {
            "train": self.train.digest(),
            "validation": self.validation.digest(),
            "test": "" if self.test is None else self.test.digest(),
        }

    def results(self) -> dict[str, Any]:
        sizes = {"train": len(self.train.file.words), "validation": len(self.validation.file.words)}
        broken = {"train": self.train.broken, "validation": self.validation.broken}
        return {
            "task": "tokens",
            "classes": self.scheme.names,
            "rows": sizes,
            "words": {"train": self.train.file.num_words},
            "repaired_tags": broken,
        }

    def write(self, model: Encoder, folder: Path) -> None:
        for name, rows in (("validation", self.validation), ("test", self.test)):
            if rows is not None:
                found = self._predict(model, rows, ALONE)  # the others do not come here
                _write_predictions(folder / _PREDICTIONS.format(name), rows, found)
        snapshot = Snapshot.of(model, self.tokenizer)
        labels = labels_config(self.scheme.names)
        replace(snapshot, config={**snapshot.config, **labels}).write(folder)


def _tagged_windows(windows: Sequence[Window], numbers: Int64) -> Drawn:
    """Some windows with the classes of their tokens."""
    chosen = [windows[number] for number in numbers.tolist()]
    return Drawn([one.row for one in chosen], tags=[one.tags for one in chosen])


def _write_predictions(path: Path, rows: TaggedRows, found: Sequence[Sequence[str]]) -> None:
    """A word, its tag in the file if it is known, and the one that is predicted a line."""
    columns = [rows.file.words, *([rows.tags] if rows.tags else []), found]
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for sentence in zip(*columns, strict=True):
            stream.writelines("\t".join(line) + "\n" for line in zip(*sentence, strict=True))
            stream.write("\n")


def token_training(
    folder: ModelFolder, files: Files, labelled: LabelledConfig, **how: Unpack[How]
) -> TokenTraining:
    """What is trained, and on what, held against each other.

    Raises:
        BertsmithError: a file, a tag or a setting does not suit.
    """
    if files.train is None or files.validation is None:
        raise InputError(
            "Tags are learnt and judged by files of tagged sentences; name --train and "
            "--validation."
        )
    with how["display"].stage("Reading the tagged sentences"):
        train, validation = (
            read_tagged(file, labelled) for file in (files.train, files.validation)
        )
        test = None if files.test is None else read_tagged(files.test, labelled, needs_tags=False)
        scheme = Scheme.of_tags({tag for row in train.tags or () for tag in row}, train.path)
        tokenizer = how["tokenizer"]
        rows = [TaggedRows.of(file, scheme, tokenizer) for file in (train, validation)]
        tested = None if test is None else TaggedRows.of(test, scheme, tokenizer)
    fitting = ("f1", "accuracy") if scheme.is_spans else ("accuracy",)
    if how["config"].metric not in ("auto", *fitting):
        raise ConfigError(
            f"`metric` must be {' or '.join(fitting)} for these tags; got {how['config'].metric!r}."
        )
    return TokenTraining(
        pretrained=folder.model,
        scheme=scheme,
        train=rows[0],
        validation=rows[1],
        test=tested,
        **how,
    )
