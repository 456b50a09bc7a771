"""Settings: `schema` says what there is, `presets` names sets, `resolve` joins them."""

from bertsmith.config.presets import PRESETS, RECIPES
from bertsmith.config.resolve import resolve, to_toml
from bertsmith.config.schema import (
    BUDGETS,
    DataConfig,
    ModelConfig,
    PretrainConfig,
    TrainingConfig,
    near,
)

__all__ = [
    "BUDGETS",
    "PRESETS",
    "RECIPES",
    "DataConfig",
    "ModelConfig",
    "PretrainConfig",
    "TrainingConfig",
    "near",
    "resolve",
    "to_toml",
]
