"""The sides of the GPU benchmark: each makes a function that trains one step of a case.

All sides of a case train on the same examples in bfloat16 with AdamW and clipping, from batches
that lie ready in page-locked memory. Ours: `eager` is the library's step on unpadded batches;
`fixed` lays them out in fixed shapes; `compiled` compiles that; `graphs`, the default on CUDA,
also captures it. The peer is the same network of `transformers` with SDPA, compiled, padded to one
shape: as many tokens at once as ours, or the most that fit, and no attention mask where nothing is
padded.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bertsmith.architectures import NSP_HEAD, Encoder, build
from bertsmith.batch import Batch
from bertsmith.config import PretrainConfig, resolve
from bertsmith.data.batches import Batches
from bertsmith.data.worker import pinned
from bertsmith.display import Display
from bertsmith.hardware.device import autocast, wait_for
from bertsmith.nn.layout import Layout
from bertsmith.objectives import objective_of
from bertsmith.ranks import ALONE
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.training.compiled import CompiledEngine, compiled_losses
from bertsmith.training.fixed import FixedBatches, FixedShape, constants_of
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.prepare import Prepared, prepare
from bertsmith.training.step import train_step

TOKENS_AT_ONCE = 2**17
_LEAST_AT_ONCE = 2**12
_SHARE_OF_RATE = 0.02  # warm-up is not part of the case: at the peak the first steps diverge
SAME_WORK = {"mlm_probability": 0.15, "optimizer": "adamw"}
Step = Callable[[int], Any]

CASES: dict[str, dict[str, Any]] = {
    "base-512": {"preset": "base", "max_length": 512, "batch_size": 256},
    "base-128": {"preset": "base", "max_length": 128, "batch_size": 1024},
    "large-512": {"preset": "large", "max_length": 512, "batch_size": 128},
    "tiny": {"preset": "tiny", "max_length": 64, "batch_size": 2048},
    "textbook": {"preset": "textbook", "max_length": 64, "batch_size": 2048},
    "modern-base-512": {
        "preset": "modern-base",
        "max_length": 512,
        "batch_size": 256,
        "objective": "mlm",
    },
}
OURS = ("eager", "fixed", "compiled", "graphs")
SIDES = {
    "eager": "Bertsmith, not compiled",
    "fixed": "Bertsmith, fixed shape, not compiled",
    "compiled": "Bertsmith, compiled",
    "graphs": "Bertsmith, compiled, CUDA graphs",
    "transformers": "`transformers` (SDPA, compiled, padded)",
}


@dataclass(frozen=True)
class Case:
    """What the sides of a case share."""

    name: str
    config: PretrainConfig
    prepared: Prepared
    device: torch.device
    batches: list[Batch]
    """The steps' examples; step n trains on number n modulo how many there are."""

    @staticmethod
    def load(
        name: str, corpora: Mapping[str, Path], device: torch.device, steps: int, **changes: Any
    ) -> Case:
        """Prepare a case's text and make its batches."""
        settings = CASES[name]
        kind = "word" if settings["preset"] == "textbook" else "wordpiece"
        config = resolve(
            preset=settings["preset"],
            overrides={
                "corpus": (str(corpora[kind]),),
                "max_length": settings["max_length"],
                "batch_size": settings["batch_size"],
                **SAME_WORK,
                **changes,
            },
        )
        prepared = prepare(
            config.preparation,
            config.data,
            config.training,
            display=Display(quiet=True),
        )
        batches = [prepared.batches.batch(number) for number in range(steps)]
        return Case(name, config, prepared, device, batches)

    def model(self) -> Encoder:
        """Our network with its first weights."""
        model = build(
            self.config.model,
            self.prepared.tokenizer.vocab_size,
            self.objective.heads,
        )
        model.initialize(0)
        return model.to(self.device).train()

    @property
    def objective(self) -> Any:
        """What is trained on."""
        return objective_of(self.config.data.objective)

    def autocast(self) -> Any:
        """The context of a forward pass."""
        return autocast(self.device, "auto")


def eager(case: Case) -> Step:
    """The library's step on unpadded batches."""
    model = case.model()
    optimizers = make_optimizers(model, case.config.training)
    optimizers.set_rate(_SHARE_OF_RATE)
    parallel = Parallel(model, case.objective, ALONE, "ddp", case.device)
    batches = [_pinned(batch, case.device) for batch in case.batches]

    def step(number: int) -> Any:
        return train_step(
            parallel,
            optimizers,
            batches[number % len(batches)],
            micro_batch=TOKENS_AT_ONCE,
            max_grad_norm=case.config.training.max_grad_norm,
            dropout_key=number,
            device=case.device,
            autocast=case.autocast,
        )

    return step


def fixed(case: Case) -> Step:
    """Fixed shapes, not compiled."""
    return _fixed(case, backend="eager", captures=False)


def compiled(case: Case) -> Step:
    """Fixed shapes, compiled."""
    return _fixed(case, backend="inductor", captures=False)


def graphs(case: Case) -> Step:
    """Fixed shapes, compiled, captured."""
    return _fixed(case, backend="inductor", captures=True)


def fixed_batches(case: Case) -> FixedBatches:
    """Our micro-batches."""
    shape = FixedShape.for_batches(
        case.batches,
        most_tokens=TOKENS_AT_ONCE,
        max_length=case.config.data.max_length,
        sites=case.model().dropout_sites,
        terms=len(case.objective.terms),
    )
    batches = case.prepared.batches
    assert isinstance(batches, Batches)  # of one length
    return FixedBatches(batches, shape)


def gradients(case: Case, way: str) -> list[torch.Tensor]:
    """Of the first batch: in float32 by the plain step, or in bfloat16 by `eager`, `compiled`."""
    model, key = case.model(), 12345
    plain = case.batches[0].to(case.device)
    if way == "compiled":
        made = fixed_batches(case)
        batch = made.batch(0)
        batch.set_step(key, case.objective.denominators(plain.sizes))
        losses = compiled_losses(model, case.objective, made.shape)
        for buffer in batch.buffers:
            views = made.shape.views(buffer.to(case.device), batch.units)
            with case.autocast():
                found = losses(views)
            (found / constants_of(made.shape, views.constants)["denominators"]).sum().backward()
    else:
        with autocast(case.device, "float32" if way == "float32" else "auto"):
            losses = case.objective.losses(model, plain, key)
        case.objective.loss(losses, plain.sizes).backward()
    return [p.grad.double() for p in model.parameters() if p.grad is not None]


def _fixed(case: Case, **how: Any) -> Step:
    model, batches = case.model(), fixed_batches(case)
    optimizers = make_optimizers(model, case.config.training, capturable=how["captures"])
    made = [_pinned(batches.batch(number), case.device) for number in range(len(case.batches))]
    engine = CompiledEngine(
        model,
        case.objective,
        ALONE,
        optimizers,
        batches,
        micro_batch=TOKENS_AT_ONCE,
        max_grad_norm=case.config.training.max_grad_norm,
        device=case.device,
        autocast=case.autocast,
        **how,
    )
    optimizers.set_rate(_SHARE_OF_RATE)

    def step(number: int) -> Any:
        return engine.step(made[number % len(made)], dropout_key=number)

    return step


def transformers(case: Case) -> Step:
    """The same network of `transformers`, with the same first weights and dropout."""
    import transformers as peer

    ours = Snapshot.of(case.model(), case.prepared.tokenizer)
    tokens, has_pairs = TOKENS_AT_ONCE, NSP_HEAD in case.objective.heads
    while True:
        with TemporaryDirectory() as folder:
            ours.write(Path(folder))
            kind = getattr(peer, ours.config["architectures"][0])
            model = kind.from_pretrained(folder, attn_implementation="sdpa")
        try:
            return _padded(model, case, tokens, has_pairs=has_pairs)
        except torch.OutOfMemoryError:
            tokens //= 2
            if tokens < _LEAST_AT_ONCE:
                raise
        del model
        gc.collect()
        if case.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()  # what did not fit does not count


def _padded(model: Any, case: Case, tokens: int, *, has_pairs: bool) -> Step:
    """Steps of so many tokens at once, padding counted.

    Raises:
        torch.OutOfMemoryError: the first step, which is made here, does not fit.
    """
    length = case.config.data.max_length
    model.to(case.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, dynamic=False)
    number = math.ceil(case.config.training.batch_size / max(1, tokens // length))
    batches = [_in_parts(batch, number) for batch in case.batches]
    is_padded = any(part.lengths[-1] < length for parts in batches for part in parts)
    inputs = [
        [_padded_part(part, length, case.device, has_pairs, is_padded) for part in parts]
        for parts in batches
    ]

    def step(step_number: int) -> Any:
        parts = inputs[step_number % len(inputs)]
        for part in parts:
            moved = {name: v.to(case.device, non_blocking=True) for name, v in part.items()}
            with case.autocast():
                loss = forward(**moved).loss
            (loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step(0)
    wait_for(case.device)

    def again(step_number: int) -> Any:
        with torch._dynamo.config.patch(error_on_recompile=True):
            return step(step_number)

    return again


def _in_parts(batch: Batch, number: int) -> list[Batch]:
    """Equally many sequences in each."""
    size = batch.num_sequences // number
    return [batch._part(first, first + size) for first in range(0, number * size, size)]


def _padded_part(
    batch: Batch, length: int, device: torch.device, has_pairs: bool, is_padded: bool
) -> dict[str, torch.Tensor]:
    layout = Layout.of((*batch.lengths, length), torch.device("cpu"))  # one row more sets the width
    filler = torch.zeros(length, dtype=torch.long)

    def pad(packed: torch.Tensor) -> torch.Tensor:
        return layout.pad(torch.cat([packed, filler])[:, None]).squeeze(2)[:-1].contiguous()

    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels
    mask = pad(torch.ones_like(batch.input_ids))
    found = {"input_ids": pad(batch.input_ids), "labels": pad(labels).masked_fill(mask == 0, -100)}
    if is_padded:
        found["attention_mask"] = mask
    if has_pairs:
        found["token_type_ids"] = pad(batch.token_type_ids)
        found["next_sentence_label"] = batch.sequence_labels
    return {name: _pinned(value, device) for name, value in found.items()}


def _pinned(value: Any, device: torch.device) -> Any:
    return pinned(value) if device.type == "cuda" else value
