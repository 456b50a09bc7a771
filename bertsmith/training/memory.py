"""Memory of weights, gradients and moments, counted from the parameters.

What the forward pass keeps is the architecture's to say (`architectures/base.py`).
"""

from __future__ import annotations

import torch
from torch import nn

from bertsmith.architectures import Encoder, build
from bertsmith.config import ModelConfig, TrainingConfig
from bertsmith.objectives import Objective
from bertsmith.training.optimizer import numbers_kept


def empty_model(config: ModelConfig, vocab_size: int, objective: Objective) -> Encoder:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(config, vocab_size, objective.heads)


def bytes_of_parameters(model: nn.Module) -> int:
    """Of all weights, or of all gradients, which are as large."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def bytes_of_muon(model: Encoder, training: TrainingConfig) -> int:
    """Of the weights that Muon updates."""
    if training.optimizer != "muon":
        return 0
    matrices = map(model.get_parameter, model.hidden_matrices())
    return sum(matrix.numel() * matrix.element_size() for matrix in matrices)


def bytes_of_optimizer(model: Encoder, training: TrainingConfig) -> int:
    """Of the moments: two numbers a parameter, or one of those that Muon updates; and of a mean."""
    kept = numbers_kept(training.optimizer) + (training.averaging != "none")
    return kept * bytes_of_parameters(model) - bytes_of_muon(model, training)
