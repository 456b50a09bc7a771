"""The flags of all settings, for the command that trains and the one that says what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import tyro

from bertsmith.config import (
    BUDGETS,
    DataConfig,
    ModelConfig,
    PreparationConfig,
    PretrainConfig,
    TrainingConfig,
    refuse_idle,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command has for flags besides its own."""

    preset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "textbook"
    """Network and data shape: textbook, tiny, mini, small, medium, base or large."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """How it is trained: default, or chapter (the textbook's own)."""
    preparation: tyro.conf.OmitArgPrefixes[PreparationConfig] = field(
        default_factory=PreparationConfig
    )
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)

    def to_config(self) -> PretrainConfig:
        """The settings alone."""
        names = [one.name for one in fields(PretrainConfig)]
        return PretrainConfig(**{name: getattr(self, name) for name in names})


def defaults_from(base: PretrainConfig, *, for_help: bool = False) -> dict[str, Any]:
    """Fields of `Settings`, without a budget: any one that is given replaces the base's.

    Args:
        base: what the flags are laid over.
        for_help: keep its budget, as what is so without flags.
    """
    budgets = vars(base.training) if for_help else {}
    return {**vars(base), "training": with_budget(base.training, budgets)}


def refuse_idle_flags(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a flag changes nothing.

    Args:
        before: settings by name, without the flags. A flag that says the same is not told from one
            that is not there.
        now: with them.
    """
    refuse_idle({name: value for name, value in now.items() if value != before[name]}, now)


def with_budget(training: TrainingConfig, budgets: Mapping[str, Any]) -> TrainingConfig:
    """`training` with the budget that `budgets` holds, and no other."""
    budget: dict[str, Any] = {name: budgets.get(name) for name in BUDGETS}
    return replace(training, **budget)
