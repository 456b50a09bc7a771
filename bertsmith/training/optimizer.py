"""Optimizers, and the learning rate over a run."""

from __future__ import annotations

import math

import torch

from bertsmith.config import TrainingConfig
from bertsmith.model.bert import Bert


def make_optimizer(model: Bert, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW with weight decay on matrices; biases and norms (one dimension) have none."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    return kind(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """The rate when a share `progress` (0 to 1) of the budget is spent.

    Rises from 0 to the peak over `warmup_ratio`, then falls to 0 at the end (linear, or half a
    cosine), or stays. By share and not by step, so that it also suits a budget in minutes.
    """
    peak, warmup = config.learning_rate, config.warmup_ratio
    if progress < warmup:
        return peak * progress / warmup
    done = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    if config.lr_scheduler_type == "linear":
        return peak * (1 - done)
    if config.lr_scheduler_type == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak
