"""Settings: `schema` says what there is, `presets` names sets, `resolve` joins them."""

from bertsmith.config.fields import near
from bertsmith.config.finetune import FinetuneConfig, LabelledConfig, ProbeConfig
from bertsmith.config.idle import refuse_idle
from bertsmith.config.presets import PRESETS, RECIPES
from bertsmith.config.resolve import (
    MOST_MANIFEST_BYTES,
    RUN_CONFIG_FILE,
    STORE_MANIFEST_FILE,
    Given,
    begins_from,
    drift,
    given_by_store,
    held,
    refuse_contradiction,
    resolve,
    settings_by_name,
    settings_of_run,
    to_toml,
)
from bertsmith.config.schema import (
    BUDGETS,
    TOKENIZERS,
    DataConfig,
    ModelConfig,
    PreparationConfig,
    PretrainConfig,
    TrainingConfig,
)

__all__ = [
    "BUDGETS",
    "MOST_MANIFEST_BYTES",
    "PRESETS",
    "RECIPES",
    "RUN_CONFIG_FILE",
    "STORE_MANIFEST_FILE",
    "TOKENIZERS",
    "DataConfig",
    "FinetuneConfig",
    "Given",
    "LabelledConfig",
    "ModelConfig",
    "PreparationConfig",
    "PretrainConfig",
    "ProbeConfig",
    "TrainingConfig",
    "begins_from",
    "drift",
    "given_by_store",
    "held",
    "near",
    "refuse_contradiction",
    "refuse_idle",
    "resolve",
    "settings_by_name",
    "settings_of_run",
    "to_toml",
]
