"""An encoder with a classifier: made of a pretrained one, and as it is saved."""

from __future__ import annotations

from dataclasses import replace

from bertsmith.architectures import CLASSIFIER, Encoder, build
from bertsmith.finetuning.labels import Task
from bertsmith.saved.hugging_face import Snapshot, labels_config
from bertsmith.tokenizer import Tokenizer


def classifier_on(pretrained: Encoder, dropout_prob: float, num_labels: int) -> Encoder:
    """A network of the shape of `pretrained` with a classifier; its weights are drawn later.

    Args:
        pretrained: whose shape it has.
        dropout_prob: wherever the architecture has dropout, and before the classifier.
        num_labels: outputs.
    """
    config = pretrained.config.with_dropout(dropout_prob)
    return build(config, pretrained.vocab_size, frozenset({CLASSIFIER}), num_labels=num_labels)


def snapshot(model: Encoder, tokenizer: Tokenizer, task: Task) -> Snapshot:
    """A copy of the model as it is saved, with the names of the classes."""
    found = Snapshot.of(model, tokenizer)
    kind = "regression" if task.is_regression else "single_label_classification"
    labels = labels_config(task.classes or ["LABEL_0"])
    return replace(found, config={**found.config, "problem_type": kind, **labels})
