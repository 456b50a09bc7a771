"""Names that settings may have; what is registered adds its own.

`register` of `bertsmith.objectives`, `bertsmith.architectures`, `bertsmith.data.masking` and
`bertsmith.training.optimizer` does; docs/extending.md has examples.
"""

from __future__ import annotations

OBJECTIVES = ["mlm+nsp", "mlm"]
"""What a network is pretrained on."""

PAIR_OBJECTIVES = ["mlm+nsp"]
"""Those whose examples are sentence pairs; those of the others are single segments of text."""

MASKINGS = ["token", "whole-word", "span"]
"""What is masked at once in training."""

OPTIMIZERS = ["muon", "adamw", "adam"]
"""What updates the weights."""

TRACKERS = ["tensorboard", "wandb", "trackio"]
"""What a run can tell its figures."""

ARCHITECTURES = ["bert", "modernbert"]
"""Families of networks."""

ARCHITECTURES_THAT_LOOK_NEAR = ["bert"]
"""Those whose networks can begin with heads that look at the positions around a token."""
