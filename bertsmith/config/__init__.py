"""Settings: `schema` says what there is, `presets` names sets, `resolve` joins them."""

from bertsmith.config.presets import PRESETS, RECIPES
from bertsmith.config.resolve import RUN_CONFIG_FILE, drift, held, resolve, settings_of_run, to_toml
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
    "RUN_CONFIG_FILE",
    "DataConfig",
    "ModelConfig",
    "PretrainConfig",
    "TrainingConfig",
    "drift",
    "held",
    "near",
    "resolve",
    "settings_of_run",
    "to_toml",
]
