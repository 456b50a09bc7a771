"""Which engine a run has: eager anywhere, or compiled on CUDA devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from bertsmith.config import PretrainConfig, TrainingConfig
from bertsmith.data.batches import Batches
from bertsmith.data.lengthening import LengtheningBatches
from bertsmith.hardware.device import autocast, compute_dtype
from bertsmith.nn.attention import takes_varlen
from bertsmith.objectives.rows import RowObjective
from bertsmith.training.budget import Budget
from bertsmith.training.compiled import CompiledEngine
from bertsmith.training.engine import EagerEngine, Engine
from bertsmith.training.fixed import FixedBatches, FixedShape
from bertsmith.training.optimizer import is_registered, make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import Phase, unmeasured

_LOOKED_AT = 16  # batches that the shape of compiled micro-batches is made by
_STEPS_THAT_PAY, _SECONDS_THAT_PAY = 1000, 120  # compiling takes 15 to 40 s


def engine_for(
    parallel: Parallel,
    config: PretrainConfig,
    batches: Batches | LengtheningBatches,
    device: torch.device,
    *,
    micro_batch: int,
    phase: Phase = unmeasured,
    before_micro_batch: Callable[[], None] = lambda: None,
) -> Engine:
    """The engine that suits a run; see `EagerEngine` for what it takes."""
    objective = parallel.objective
    if not (
        isinstance(objective, RowObjective)
        and isinstance(batches, Batches)  # two lengths would be two shapes
        and compiles(parallel, config, batches, device)
    ):
        # Several ranks would have to agree before each micro-batch.
        before_micro_batch = before_micro_batch if parallel.ranks.size == 1 else lambda: None
        return EagerEngine(
            parallel,
            config.training,
            batches,
            device,
            micro_batch=micro_batch,
            phase=phase,
            before_micro_batch=before_micro_batch,
        )
    shape = FixedShape.for_batches(
        [batches.batch(number) for number in range(_LOOKED_AT)],
        most_tokens=micro_batch,
        max_length=config.data.max_length,
        sites=parallel.model.dropout_sites,
        terms=len(objective.terms),
    )
    return CompiledEngine(
        parallel.model,
        objective,
        parallel.ranks,
        make_optimizers(parallel.model, config.training, capturable=True),
        FixedBatches(batches, shape),
        micro_batch=micro_batch,
        max_grad_norm=config.training.max_grad_norm,
        device=device,
        autocast=lambda: autocast(device, config.training.precision),
        phase=phase,
    )


def compiles(
    parallel: Parallel, config: PretrainConfig, batches: Batches, device: torch.device
) -> bool:
    """Whether a run's steps are compiled: where that is possible on every rank, and the run is long
    enough. Not with FSDP, which gathers the weights of a layer as it is called.
    """
    can = not parallel.is_sharded and _can_compile(config, device)
    is_worth_it = can and _is_long(
        Budget.of(config.training, batches.num_examples),
        config.training,
        batches.batch(0).num_tokens * parallel.ranks.size,
    )
    return not parallel.ranks.any(not is_worth_it)


def _can_compile(config: PretrainConfig, device: torch.device) -> bool:
    training, model = config.training, config.model
    if training.compile == "off" or device.type != "cuda":
        return False
    if is_registered(training.optimizer) or training.batch_size_end is not None:
        return False  # each size of batch would be captured anew
    dtype = compute_dtype(device, training.precision)
    found = torch.cuda.get_device_properties(device)
    return (
        takes_varlen(
            (found.major, found.minor), dtype, model.hidden_size // model.num_attention_heads
        )
        and not model.drops_attention
        and not training.recompute
        and importlib.util.find_spec("triton") is not None
    )


def _is_long(budget: Budget, training: TrainingConfig, tokens_in_step: int) -> bool:
    if budget.unit == "seconds":
        return budget.amount >= _SECONDS_THAT_PAY
    steps = budget.amount
    if budget.unit == "tokens":
        steps /= tokens_in_step
    return steps >= _STEPS_THAT_PAY
