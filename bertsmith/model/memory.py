"""How much memory training takes, part by part.

Weights, gradients and moments are counted from the parameters. Activations are what the operations
keep for the backward pass, added up by hand from `bert.py`; a test holds the sum against what
autograd keeps.

Legend: B = sequences; L = their length; T = tokens; R = tokens that a head reads; H = hidden size;
I = intermediate size; N = heads; V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bertsmith.config import ModelConfig, TrainingConfig
from bertsmith.model.attention import keeps_scores
from bertsmith.model.bert import Bert
from bertsmith.model.loss import rows_of_chunk

_FLOAT = 4  # bytes of float32
_HALF = 2  # of bfloat16
_ID = 8  # of int64


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What is in memory at once: sequences of one length."""

    num_sequences: int
    length: int
    num_masked: int
    """Tokens to predict in each sequence."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.num_sequences * self.length


def empty_model(config: ModelConfig, vocab_size: int, *, judges_pairs: bool = True) -> Bert:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return Bert(config, vocab_size, judges_pairs=judges_pairs)


def bytes_of_parameters(model: nn.Module) -> int:
    """Of all weights, or of all gradients, which are as large."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def bytes_of_muon(model: Bert, training: TrainingConfig) -> int:
    """Of the weights that Muon updates."""
    if training.optimizer != "muon":
        return 0
    matrices = map(model.get_parameter, model.hidden_matrices())
    return sum(matrix.numel() * matrix.element_size() for matrix in matrices)


def bytes_of_optimizer(model: Bert, training: TrainingConfig) -> int:
    """Of the moments: two numbers a parameter, or one of those that Muon updates."""
    return 2 * bytes_of_parameters(model) - bytes_of_muon(model, training)


def activation_bytes(
    config: ModelConfig,
    vocab_size: int,
    batch: MicroBatch,
    *,
    kind: str = "cpu",
    is_half: bool = False,
    recomputes: bool = False,
) -> int:
    """What the forward pass keeps until the backward pass has used it.

    Args:
        config: the network's shape.
        vocab_size: V.
        batch: on the device at once.
        kind: of device: cpu, cuda or mps.
        is_half: products in bfloat16; else in float32.
        recomputes: layers keep what goes into them, and one at a time all that it makes.
    """
    hidden = config.hidden_size
    read = 1 + batch.num_masked
    layer = layer_bytes(config, batch, kind=kind, is_half=is_half)
    last = layer_bytes(config, batch, read, kind=kind, is_half=is_half)
    entry = batch.num_tokens * hidden * _FLOAT
    if recomputes:
        layers = config.num_hidden_layers * entry + max(layer, last)
    else:
        layers = (config.num_hidden_layers - 1) * layer + last
    masked = batch.num_sequences * batch.num_masked
    size = _HALF if is_half else _FLOAT
    # Around the head's dense layer, and the gradient that the loss makes in its forward pass.
    around = 2 + _of_activation(config)
    head = masked * hidden * (around * size + _FLOAT) + vocab_size * (hidden + 1) * _FLOAT
    embeddings = 2 * entry + 4 * batch.num_tokens * _ID
    weights = 0
    if is_half:  # autocast keeps what it casts until the pass is over
        weights = _HALF * sum(p.numel() for p in empty_model(config, vocab_size).parameters())
    return layers + head + embeddings + weights


def layer_bytes(
    config: ModelConfig,
    batch: MicroBatch,
    asking: int | None = None,
    *,
    kind: str = "cpu",
    is_half: bool = False,
) -> int:
    """What one layer keeps for the backward pass.

    Args:
        config, batch, kind, is_half: as in `activation_bytes`.
        asking: of so many tokens of each sequence its vectors are read; None: of all.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    asking = batch.length if asking is None else asking
    rows = batch.num_sequences * asking
    inners = _of_activation(config) * inner
    keys = 2 * hidden * batch.num_tokens
    is_last = asking < batch.length
    scores = config.num_attention_heads * rows * batch.length
    drops = bool(config.attention_probs_dropout_prob)
    noise = rows * 2 * hidden if config.hidden_dropout_prob else 0
    noise += scores if drops else 0
    dtype = torch.bfloat16 if is_half else torch.float32
    if not keeps_scores(kind, dtype, batch.length, drops=drops):
        scores = 0
    if is_half:
        # Norms keep float32; the linear layers their inputs, cast; attention what it was given.
        kept = rows * (2 * hidden * _FLOAT + (4 * hidden + inners) * _HALF)
        return kept + (keys + scores) * _HALF + noise
    # Two norms, what goes into them and comes out; query; context; and of the last what it picks.
    kept = rows * (6 * hidden + inners + (hidden if is_last else 0))
    return (kept + keys + scores) * _FLOAT + noise


def _of_activation(config: ModelConfig) -> int:
    """A gelu keeps what goes in beside what comes out; of a relu one is enough."""
    return 2 if config.hidden_act == "gelu" else 1


def working_bytes(
    config: ModelConfig, vocab_size: int, batch: MicroBatch, *, is_half: bool = False
) -> int:
    """What is taken for a moment only, where that is most: by the loss, or by a layer's backward.

    Args:
        config, vocab_size, batch, is_half: as in `activation_bytes`.
    """
    size = _HALF if is_half else _FLOAT
    masked = batch.num_sequences * batch.num_masked
    logits = rows_of_chunk(masked, vocab_size) * vocab_size * size
    backward = batch.num_tokens * (config.intermediate_size + 2 * config.hidden_size) * size
    embedding = vocab_size * config.hidden_size * _FLOAT  # its gradient comes in two parts
    return max(logits, backward + embedding)
