"""Which optimizer updates which parameters, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.config import TrainingConfig
from bertsmith.config.registered import OPTIMIZERS
from bertsmith.errors import ConfigError
from bertsmith.hardware.device import compute_dtype
from bertsmith.training.muon import Muon

_KINDS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    Muon: ("momentum_buffer",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
}
"""What each optimizer keeps of a parameter."""


@dataclass(frozen=True)
class _Registered:
    """An optimizer of somebody's own."""

    make: Callable[[Encoder, TrainingConfig], torch.optim.Optimizer]
    keeps: tuple[str, ...]


_REGISTERED: dict[str, _Registered] = {}


def register(
    name: str,
    make: Callable[[Encoder, TrainingConfig], torch.optim.Optimizer],
    *,
    keeps: Sequence[str],
) -> None:
    """Let settings name an optimizer: `optimizer="name"`, `--optimizer name`.

    On a GPU the host asks before each step whether the gradients are finite, and steps are not
    compiled.

    Args:
        name: that no other has.
        make: an optimizer of a network's parameters, whose rates are the peaks of the run; the
            settings are `[training]`'s. It is made once, on the device.
        keeps: names of what it keeps in its state of every parameter after a step, each of the
            parameter's shape, but for "step", of shape []; checkpoints hold it.

    Raises:
        ConfigError: there is one of this name.
    """
    if name in OPTIMIZERS:
        raise ConfigError(f"There must be one optimizer of a name; {name!r} is there.")
    _REGISTERED[name] = _Registered(make, tuple(keeps))
    OPTIMIZERS.append(name)


def _listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(names) or "nothing"


def is_registered(name: str) -> bool:
    """Whether an optimizer is somebody's own."""
    return name in _REGISTERED


def numbers_kept(name: str) -> int:
    """How many numbers an optimizer keeps of each number of a parameter."""
    own = _REGISTERED.get(name)
    return 2 if own is None else len({*own.keeps} - {"step"})


class Optimizers:
    """One optimizer, or several, each of its own parameters, used as one.

    Args:
        parts: whose learning rates now are the peaks of the run.
        keeps: what is kept of each parameter; None: the parts are this package's own, and able to
            leave out an update without asking the host, by their `found_inf`.
    """

    def __init__(self, *parts: torch.optim.Optimizer, keeps: tuple[str, ...] | None = None) -> None:
        self.parts = parts
        self._keeps = keeps
        self._of = {
            parameter: part
            for part in parts
            for group in part.param_groups
            for parameter in group["params"]
        }
        self._peaks = [[float(group["lr"]) for group in part.param_groups] for part in parts]

    def set_rate(self, share: float) -> None:
        """Set every learning rate to a share of its peak."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                if isinstance(group["lr"], Tensor):  # which a captured graph reads
                    group["lr"].fill_(share * peak)
                else:
                    group["lr"] = share * peak

    def step(self, found_inf: Tensor) -> None:
        """Update all parameters, or none if `found_inf` (float32 [], on the device) is over 0."""
        if self._keeps is not None:
            if not bool(found_inf > 0):
                for part in self.parts:
                    part.step()
            return
        for part in self.parts:
            # As torch.amp.GradScaler does it: fused kernels read this on the device.
            part.found_inf = found_inf  # type: ignore[attr-defined]
            part.step()

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for part in self.parts:
            part.zero_grad()

    def kinds_of(self, parameter: Tensor) -> tuple[str, ...]:
        """The names of what is kept of `parameter`: "step" has shape [], the others its own."""
        return _KINDS[type(self._of[parameter])] if self._keeps is None else self._keeps

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is kept of `parameter`, by name; empty before its first step."""
        state = self._of[parameter].state[parameter]
        if self._keeps is not None and state and set(state) != set(self._keeps):
            raise ConfigError(
                f"An optimizer must keep what `register` was told, {_listed(self._keeps)}; it "
                f"keeps {_listed(state)}. Name these as `keeps`, so that checkpoints hold them."
            )
        return {name: state[name] for name in self.kinds_of(parameter) if name in state}

    def set_state(self, parameter: Tensor, state: dict[str, Any]) -> None:
        """Replace what is kept of `parameter`."""
        self._of[parameter].state[parameter] = state

    def forget(self) -> None:
        """Be as before the first step."""
        for part in self.parts:
            part.state.clear()


def make_optimizers(model: Any, config: TrainingConfig, *, capturable: bool = False) -> Optimizers:
    """Adam or AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest.

    Weight decay is on matrices; biases and norms (one dimension) have none.

    Args:
        model: a module, on its device; for Muon with `hidden_matrices`, as `Bert` has it.
        config: the training section.
        capturable: learning rates are tensors on the device, so that a CUDA graph can hold a step.
    """
    if (own := _REGISTERED.get(config.optimizer)) is not None:
        return Optimizers(own.make(model, config), keeps=own.keeps)
    device = next(model.parameters()).device

    def rate(peak: float) -> Any:
        return torch.tensor(peak, device=device) if capturable else peak

    named = dict(model.named_parameters())
    hidden: dict[str, int] = model.hidden_matrices() if config.optimizer == "muon" else {}
    rest = {name: parameter for name, parameter in named.items() if name not in hidden}
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    adam = kind(
        [
            {"params": parameters, "lr": rate(peak), "weight_decay": decay}
            for (peak, decay), parameters in _groups(rest, config).items()
        ],
        capturable=capturable,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
    if not hidden:
        return Optimizers(adam)
    matrices: list[dict[str, Any]] = [
        {"params": [named[name] for name, count in hidden.items() if count == stacked]}
        | {"num_blocks": stacked}
        for stacked in sorted(set(hidden.values()), reverse=True)
    ]
    muon = Muon(
        matrices,
        lr=rate(config.muon_learning_rate),
        momentum=config.muon_momentum,
        weight_decay=config.weight_decay,
        dtype=torch.bfloat16 if device.type == "cuda" else compute_dtype(device, config.precision),
    )
    return Optimizers(muon, adam)


def _groups(
    parameters: dict[str, Tensor], config: TrainingConfig
) -> dict[tuple[float, float], list[Tensor]]:
    """Parameters by their peak learning rate and weight decay."""
    found: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        peak, decay = config.learning_rate, config.weight_decay
        if parameter.ndim < 2:
            peak, decay = config.scalar_learning_rate or peak, 0.0
        elif name.startswith("embeddings."):
            peak = config.embedding_learning_rate or peak
        found.setdefault((peak, decay), []).append(parameter)
    peaks = {peak for peak, _ in found}
    for name in ("embedding_learning_rate", "scalar_learning_rate"):
        if getattr(config, name) not in (None, *peaks):
            raise ConfigError(f"`{name}` changes nothing in this network; leave it out.")
    return found


def rate_share(config: TrainingConfig, progress: float) -> float:
    """The share of its peak that a learning rate has at `progress` (0 to 1) of the budget.

    Rises from 0 to the peak over `warmup_ratio`, then falls to 0 at the end (linear, or half a
    cosine, or linear over the last `decay_ratio` alone), or stays. By share and not by step, so
    that it also suits a budget in minutes.
    """
    warmup = config.warmup_ratio
    if progress < warmup:
        return progress / warmup
    if config.lr_scheduler_type == "warmup_stable_decay":
        return min(1.0, (1 - progress) / config.decay_ratio)
    done = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    if config.lr_scheduler_type == "linear":
        return 1 - done
    if config.lr_scheduler_type == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1.0
