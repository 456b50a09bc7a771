"""What a folder's model is for, and what it gives for a batch.

Legend: B = sequences; T = tokens of all of them; H = hidden size; K = outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import CLASSIFIER, MLM_HEAD, TOKEN_CLASSIFIER, Encoder
from bertsmith.batch import Batch
from bertsmith.durable import read_small
from bertsmith.errors import ModelError
from bertsmith.objectives.classification import SequenceClassification
from bertsmith.objectives.rows import last_rows, sequence_vectors
from bertsmith.objectives.tokens import TokenClassification
from bertsmith.saved.hugging_face import (
    CONFIG_FILE,
    class_of,
    load_classifier,
    load_model,
    read_json,
)
from bertsmith.saved.sentence_transformers import Pooling, read_max_length, read_pooling
from bertsmith.tokenizer import Tokenizer

TaskName = Literal[
    "fill-mask", "sentence-similarity", "text-classification", "token-classification"
]
"""As the Hugging Face Hub calls them."""

_MOST_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """A model of a folder, ready to be exported.

    Args:
        task: what it is for.
        model: in evaluation mode, on the host, in float32.
        tokenizer: its own; texts are cut to its `max_length`.
        folder: where it lies.
        classes: their names, by number; empty: of scores, vectors and words.
        pooling: of sentence-similarity, from tokens to a text.
        config: its config.json.
    """

    task: TaskName
    model: Encoder
    tokenizer: Tokenizer
    folder: Path
    classes: list[str] = field(default_factory=list)
    pooling: Pooling = field(default_factory=Pooling)
    config: bytes = field(default=b"{}", repr=False)

    @staticmethod
    def load(folder: Path) -> Exportable:
        """The model of a Hugging Face folder, for what its config.json and modules.json say.

        Raises:
            ModelError, TokenizerError: it has no head for a task, or is damaged.
        """
        found = Exportable._load(folder)
        return replace(found, config=read_small(folder / CONFIG_FILE, _MOST_BYTES))

    @staticmethod
    def _load(folder: Path) -> Exportable:
        pooling, kind = read_pooling(folder), class_of(folder)
        if pooling is not None:
            found = load_model(folder)
            longest = read_max_length(folder)
            tokenizer = found.tokenizer
            tokenizer.max_length = min(tokenizer.max_length, longest or tokenizer.max_length)
            return Exportable(
                task="sentence-similarity",
                model=found.model,
                tokenizer=tokenizer,
                folder=folder,
                pooling=pooling,
            )
        if kind.endswith("ForTokenClassification"):
            model, tokenizer, classes = load_classifier(folder, TOKEN_CLASSIFIER)
            return Exportable(
                task="token-classification",
                model=model,
                tokenizer=tokenizer,
                folder=folder,
                classes=classes,
            )
        if kind.endswith("ForSequenceClassification"):
            model, tokenizer, classes = load_classifier(folder, CLASSIFIER)
            is_score = read_json(folder / CONFIG_FILE).get("problem_type") == "regression"
            return Exportable(
                task="text-classification",
                model=model,
                tokenizer=tokenizer,
                folder=folder,
                classes=[] if is_score else classes,
            )
        found = load_model(folder)
        if MLM_HEAD in found.missing:
            raise ModelError(
                f"{folder} must have a head for a task (words for masks, classes, tags) or say how "
                f"it makes vectors of texts (modules.json); it is a {kind} with neither."
            )
        return Exportable(
            task="fill-mask", model=found.model, tokenizer=found.tokenizer, folder=folder
        )

    @property
    def is_of_tokens(self) -> bool:
        """Whether there is an output for each token; else for each sequence."""
        return self.task in ("fill-mask", "token-classification")

    @property
    def output_name(self) -> str:
        """Of the graph's output."""
        return "sentence_embedding" if self.task == "sentence-similarity" else "logits"

    @property
    def num_outputs(self) -> int:
        """K."""
        if self.task == "fill-mask":
            return self.model.vocab_size
        if self.task == "sentence-similarity":
            return self.model.config.hidden_size
        return self.model.num_labels

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Tensor:
        """What the model gives, as everywhere else in this package.

        Args:
            batch: of tokens; where outputs are of tokens, all of them are to be tagged.

        Returns:
            float32 [T, K] or [B, K].
        """
        by_task: dict[TaskName, Callable[[], Tensor]] = {
            "fill-mask": lambda: self.model.mlm_logits(last_rows(self.model, batch).masked()),
            "sentence-similarity": lambda: self._vectors(batch),
            "text-classification": lambda: SequenceClassification().outputs(self.model, batch),
            "token-classification": lambda: TokenClassification().outputs(self.model, batch),
        }
        return by_task[self.task]()

    def _vectors(self, batch: Batch) -> Tensor:
        vectors = sequence_vectors(self.model, batch, of_all=self.pooling.mode == "mean")
        return F.normalize(vectors) if self.pooling.normalize else vectors
