"""Bounds on the differences of gradients."""

from __future__ import annotations

from torch import Tensor


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], bound: float
) -> None:
    for name, theirs in expected.items():
        difference = float((found[name] - theirs).norm())
        # A softmax does not change when all its inputs are raised, so a key's bias has no gradient:
        # what stands there is rounding, to be measured against the layer's other biases.
        size = float(theirs.norm())
        if name.endswith("key.bias"):
            size = float(expected[name.replace("key", "query")].norm())
        assert difference <= bound * size, (name, difference / size)
