"""Names that settings may have; what is registered adds its own.

`bertsmith.objectives.register` and `bertsmith.architectures.register` do.
"""

from __future__ import annotations

OBJECTIVES = ["mlm+nsp", "mlm"]
"""What a network is pretrained on."""

PAIR_OBJECTIVES = ["mlm+nsp"]
"""Those whose examples are sentence pairs; those of the others are single segments of text."""

ARCHITECTURES = ["bert", "modernbert"]
"""Families of networks."""

ARCHITECTURES_THAT_LOOK_NEAR = ["bert"]
"""Those whose networks can begin with heads that look at the positions around a token."""
