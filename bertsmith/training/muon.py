"""Muon: momentum whose update is a matrix with all singular values near 1.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; it is for the matrices between
hidden states, not for embeddings, biases or norms. Where this differs from `torch.optim.Muon`: the
fused projection of query, key and value is three matrices, not one; all matrices of a shape are
orthogonalised at once; on a CPU the iteration runs in bfloat16 only if the run's products do; and
an update is left out without a word from the host where the gradient is not finite, as fused AdamW
does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bertsmith.nn.shards import own_part, part_like, whole_like

_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # steepest at 0: small singular values rise fast
_ITERATIONS = 5
_LONG = 4  # times as long as it is short: from here on iterating on the Gram matrix is cheaper
_LEAST_NORM = 1e-7
_AT_ONCE = 2**20  # numbers of matrices that a CPU takes together


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised.

    Args:
        params: parameters of two dimensions, or groups of them; a group may have `num_blocks`, the
            matrices that stand in each of its parameters one upon the other.
        lr: of a square matrix; a taller one, of R rows and C columns, takes √(R / C) times it.
        momentum: decay of the gradient's running mean.
        weight_decay: decoupled, times the learning rate.
        dtype: of the products of the iteration; None: of the parameters.

    Attributes:
        found_inf: float32 []; over 0: the next step changes nothing.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "num_blocks": 1,
        }
        super().__init__(params, defaults)
        self.found_inf: Tensor | None = None
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the gradients are made before"
        of_shape: dict[Any, list[tuple[Tensor, dict[str, Any], Tensor]]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, parameter.grad, group["momentum"])
                    blocks = update.view(group["num_blocks"], -1, update.shape[1])
                    of_shape.setdefault(blocks.shape[1:], []).append((parameter, group, blocks))
        for updates in of_shape.values():
            blocks = updates[0][2]
            # Small matrices cost a CPU by the call; of large ones it would only take the memory.
            at_once = len(updates) if blocks.is_cuda else max(1, _AT_ONCE // blocks.numel())
            for first in range(0, len(updates), at_once):
                self._apply(updates[first : first + at_once])

    def _momentum(self, parameter: Tensor, gradient: Tensor, keep: float) -> Tensor:
        """Take a gradient into the running mean; what is to be orthogonalised, float [R, C]."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        gradient, mean = own_part(gradient), own_part(state["momentum_buffer"])
        weight: Any = 1 - keep
        if self.found_inf is not None:
            takes = self.found_inf == 0
            gradient = torch.where(takes, gradient, mean)  # NaN times 0 is NaN
            weight = weight * takes.to(mean.dtype)
        mean.lerp_(gradient, weight)
        return whole_like(parameter, torch.lerp(gradient, mean, keep))

    def _apply(self, updates: list[tuple[Tensor, dict[str, Any], Tensor]]) -> None:
        """Orthogonalise updates of one shape together and take them off their parameters."""
        changes = orthogonalized(torch.cat([blocks for _, _, blocks in updates]), self._dtype)
        counts = [len(blocks) for _, _, blocks in updates]
        for (parameter, group, _), change in zip(updates, changes.split(counts), strict=True):
            rate: Any = group["lr"]
            if self.found_inf is not None:
                rate = rate * (self.found_inf == 0).to(change.dtype)
            rows, columns = change.shape[1:]
            change = change.mul_(max(1.0, rows / columns) ** 0.5 * rate).flatten(0, 1)
            own = own_part(parameter)
            own.mul_(1 - rate * group["weight_decay"])
            own.sub_(part_like(parameter, change))


def orthogonalized(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values 0.7 to 1.2.

    Five Newton-Schulz iterations of the fifth degree, X ← p(X Xᵀ) X. Where one side is four times
    the other and more, as in a feed-forward layer, they are made on the small square X Xᵀ alone,
    with X multiplied at the end: the same polynomial for half the arithmetic. Not in bfloat16,
    whose eight bits are too few for what cancels there.

    Args:
        matrices: float [N, R, C].
        dtype: of the products; None: of the matrices.

    Returns:
        [N, R, C], of the same type.
    """
    flat = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    norm = torch.linalg.matrix_norm(flat, keepdim=True).clamp_min(_LEAST_NORM)
    x = (flat / norm).to(dtype or matrices.dtype)  # [N, S, L], S ≤ L: the smaller products
    a, b, c = _COEFFICIENTS
    if x.shape[2] >= _LONG * x.shape[1] and x.dtype != torch.bfloat16:
        x = _factor(x @ x.mT) @ x
    else:
        for _ in range(_ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x if matrices.shape[1] <= matrices.shape[2] else x.mT
    return x.to(matrices.dtype).contiguous()


def _factor(gram: Tensor) -> Tensor:
    """What all iterations multiply X with, from `gram` = X Xᵀ [N, S, S].

    Each iteration has a factor F = a I + b G + c G², and leaves F G F as the next one's G. All are
    polynomials of the first G, so that their order is free.
    """
    a, b, c = _COEFFICIENTS
    product = None
    for iteration in range(_ITERATIONS):
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # F without a I
        if product is None:
            product = step.clone()
            product.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            product = torch.baddbmm(product, step, product, beta=a)
        if iteration < _ITERATIONS - 1:
            half = torch.baddbmm(gram, step, gram, beta=a)
            gram = torch.baddbmm(half, half, step, beta=a)
    assert product is not None
    return product
