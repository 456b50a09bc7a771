"""The optimizer step on CUDA devices: compiled, and replayed as CUDA graphs.

The work is that of `step.train_step`. Micro-batches come in a fixed shape of which one size varies
(`fixed.py`), so that `torch.compile` makes one graph for all of them; a CUDA graph is captured for
each size when it first comes. A micro-batch is then one copy and one replay. Nothing in a step
waits for the device.

Several ranks have the whole model each, as with DDP, and their gradients lie in one buffer that is
added up over the ranks between the last micro-batch and the update, outside of what is captured.
A rank compiles the shape of its own micro-batches, of which it may have more than another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bertsmith.architectures import Encoder, call_module
from bertsmith.batch import Sizes
from bertsmith.errors import DeviceError
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.layout import Layout, PackedInput, TokenSubset
from bertsmith.objectives.rows import LastRows, RowObjective
from bertsmith.ranks import Ranks
from bertsmith.training.fixed import (
    FixedBatch,
    FixedBatches,
    FixedShape,
    Views,
    constants_of,
)
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.phases import Phase, unmeasured
from bertsmith.training.step import StepResult, clip_and_update

Backend = Literal["inductor", "aot_eager", "eager"]

_INDUCTOR: dict[str, Any] = {
    # This fusion leaves gradients out in PyTorch 2.10 to 2.13 (pytorch/pytorch#193061).
    "triton.mix_order_reduction": False
}
_ALIGNMENT = 4  # float32 numbers in 16 bytes, which fused kernels load at once
_MOST_GRAPHS = 256  # of a function; PyTorch's own bound for all of them
_WARM_UPS = 2  # before a capture: libraries make their handles and workspaces in the first passes


class CompiledEngine:
    """Optimizer steps on batches of a fixed shape.

    Args:
        model: on `device`.
        objective: what it is trained on.
        ranks: who trains it.
        optimizers: of its parameters, `capturable`.
        batches: of the training split, in their shape.
        micro_batch: tokens at once, at most.
        max_grad_norm: 0 = no clipping.
        device: where.
        autocast: makes the context of a forward pass.
        phase: measures the parts of a step.
        backend: of `torch.compile`; "eager": not compiled.
        captures: whether micro-batch and update are captured as CUDA graphs.
    """

    def __init__(
        self,
        model: Encoder,
        objective: RowObjective,
        ranks: Ranks,
        optimizers: Optimizers,
        batches: FixedBatches,
        *,
        micro_batch: int,
        max_grad_norm: float,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        phase: Phase = unmeasured,
        backend: Backend = "inductor",
        captures: bool = True,
    ) -> None:
        shape = batches.shape
        self.optimizers, self.micro_batch = optimizers, micro_batch
        self.batches, self.make = batches, batches.batch
        self.model, self.shape, self._objective = model, shape, objective
        self._ranks = ranks
        self._gradients = _in_one_buffer(model) if ranks.size > 1 else None
        self._phase = phase
        self._max_grad_norm = max_grad_norm
        self._autocast = autocast
        self._captures = captures
        self._buffer = torch.zeros(shape.size(shape.most_units), dtype=torch.int32, device=device)
        self._sums = torch.zeros(len(objective.terms), device=device)
        self._grad_norm = torch.zeros((), device=device)
        self._is_finite = torch.ones((), dtype=torch.bool, device=device)
        self._losses = compiled_losses(model, objective, shape, backend)
        self._micro_graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._update_graph: torch.cuda.CUDAGraph | None = None
        self._pool = torch.cuda.graph_pool_handle() if captures else None

    def step(self, batch: FixedBatch, *, dropout_key: int) -> StepResult:
        """Train on one batch; see `step.train_step`."""
        sizes = self._ranks.sum(np.array(batch.sizes, dtype=np.float64))
        batch = replace(batch, sizes=Sizes(*(int(number) for number in sizes)))
        batch.set_step(dropout_key, self._objective.denominators(batch.sizes))
        size = batch.buffers.shape[1]
        if self._captures and batch.units not in self._micro_graphs:
            self._buffer[:size].copy_(batch.buffers[0], non_blocking=True)
            self._capture_or_explain(batch.units)
        with self._phase("forward and backward"):
            for buffer in batch.buffers:
                self._buffer[:size].copy_(buffer, non_blocking=True)
                if self._captures:
                    self._micro_graphs[batch.units].replay()
                else:
                    self._micro_batch(batch.units)
        with self._phase("optimizer"):
            if self._gradients is not None:
                torch.distributed.all_reduce(self._gradients)
                torch.distributed.all_reduce(self._sums)
            if self._update_graph is not None:
                self._update_graph.replay()
            else:
                self._update()
            sums = self._sums.clone()
            self._sums.zero_()
        figures = (sums, self._grad_norm.clone(), self._is_finite.clone())
        return StepResult(*figures, batch.sizes, self.micro_batch)

    def warm_up(self, number: int) -> None:
        """Nothing: a capture has its own warm-up."""

    def forget(self) -> None:
        """Capture anew before the next step: graphs hold the addresses of weights and moments."""
        self._micro_graphs.clear()
        self._update_graph = None

    def _micro_batch(self, units: int) -> None:
        """Add a micro-batch's gradients and losses to those of the step."""
        views = self.shape.views(self._buffer, units)
        with self._autocast():
            losses = self._losses(views)
        denominators = constants_of(self.shape, views.constants)["denominators"]
        (losses / denominators).sum().backward()
        self._sums += losses.detach()

    def _update(self) -> None:
        """Clip, update, and set the gradients to zero."""
        grad_norm, is_finite = clip_and_update(
            self.model, self.optimizers, self._sums, self._max_grad_norm
        )
        self._grad_norm.copy_(grad_norm)
        self._is_finite.copy_(is_finite)
        # In place: a graph holds their addresses.
        torch._foreach_zero_([p.grad for p in self.model.parameters() if p.grad is not None])

    def _capture_or_explain(self, units: int) -> None:
        """Raises: `DeviceError` if what is captured does not fit, or cannot be compiled."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's own, of how it compiles
                self._capture(units)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{units * self.shape.unit:,} tokens at once do not fit in the memory of "
                f"{self._buffer.device.type}; lower --micro-batch, or give --compile off."
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise DeviceError(
                f"The training step must compile; PyTorch says: {str(error).splitlines()[0]} "
                "Give --compile off."
            ) from error

    def _capture(self, units: int) -> None:
        """The graph of a micro-batch, and that of the update; weights and moments stay."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._micro_batch(units)
            # Not a finite number: the update changes nothing.
            self._sums.fill_(torch.nan)
            self._update()
            self._sums.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        pool = self._pool
        if self._update_graph is None:
            self._update_graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._update_graph, pool=pool, capture_error_mode="thread_local"):
                self._update()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._micro_batch(units)
        self._micro_graphs[units] = graph


def _in_one_buffer(model: Encoder) -> Tensor:
    """Gradients of all parameters as parts of one tensor of zeros, which is given."""
    parameters = list(model.parameters())
    sizes = [p.numel() + -p.numel() % _ALIGNMENT for p in parameters]
    buffer = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, part in zip(parameters, buffer.split(sizes), strict=True):
        parameter.grad = part[: parameter.numel()].view_as(parameter)
    return buffer


def compiled_losses(
    model: Encoder, objective: RowObjective, shape: FixedShape, backend: Backend = "inductor"
) -> Callable[[Views], Tensor]:
    """The sum of each term of a micro-batch of fixed shape, by `torch.compile`: float32 [terms].

    Embeddings, a layer, the last layer (which makes fewer vectors) and the heads are compiled once
    each, however many layers there are.
    """
    extra: dict[str, Any] = {"options": _INDUCTOR} if backend == "inductor" else {}

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        if backend == "eager":
            return function
        return torch.compile(function, fullgraph=True, dynamic=False, backend=backend, **extra)

    call, row_losses = compiled(call_module), compiled(objective.row_losses)

    def call_marked(module: nn.Module, packed: Tensor, *others: Any) -> Tensor:
        # What goes by tokens among the others, as angles, and does not come from `views`.
        leaves = (leaf for leaf in tree_leaves(others) if isinstance(leaf, Tensor))
        _mark(packed, *(leaf for leaf in leaves if len(leaf) == len(packed)))
        output: Tensor = call(module, packed, *others)
        return output

    def losses(views: Views) -> Tensor:
        # By default there may be 8 graphs of a function in a process: two runs of other shapes.
        with torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS):
            rows = fixed_rows(model, shape, views, call_marked)
            _mark(rows.hidden)
            return torch.stack(row_losses(model, rows))

    return losses


def fixed_rows(
    model: Encoder,
    shape: FixedShape,
    views: Views,
    call: Callable[..., Tensor] = call_module,
) -> LastRows:
    """What a micro-batch of fixed shape gives the heads.

    Args:
        model: in training.
        shape: the micro-batch's.
        views: of its buffer, on the model's device.
        call: as of `Encoder.forward`.
    """
    constants = constants_of(shape, views.constants)
    ids, types, positions, token_positions, token_rows = (
        part.flatten().long() for part in views.tokens.unbind()
    )
    masked_rows, labels = (part.flatten().long() for part in views.masked.unbind())
    rows, row_masks, row_firsts = (part.long() for part in views.rows.unbind())
    _mark(ids, types, positions, token_positions, token_rows)
    _mark(masked_rows, labels, rows, row_masks, row_firsts)
    dropout_key = None
    if model.config.drops:
        dropout_key = DropoutKey(constants["dropout_keys"], token_positions)
    layout = Layout((), constants["cu_seqlens"], shape.max_length)
    row_layout = Layout((), constants["row_cu_seqlens"], shape.max_length)
    inputs = PackedInput(ids, types, positions, layout, dropout_key)
    hidden = model.forward(inputs, TokenSubset(rows, row_layout, token_rows), call)
    # Sequences that are empty begin behind the last row.
    first_rows = constants["row_cu_seqlens"][:-1].clamp(max=len(rows) - 1).long()
    sequence_labels = constants["sequence_labels"].long()
    return LastRows(hidden, masked_rows, labels, first_rows, sequence_labels, row_masks, row_firsts)


def _mark(*packed: Tensor) -> None:
    """Let one graph serve whatever number of rows."""
    for tensor in packed:
        torch._dynamo.mark_dynamic(tensor, 0)
