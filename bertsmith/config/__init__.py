"""Settings: `schema` says what there is, `presets` names sets, `resolve` joins them."""

from bertsmith.config.fields import near
from bertsmith.config.finetune import FinetuneConfig, LabelledConfig, ProbeConfig
from bertsmith.config.keywords import (
    FinetuneSettings,
    LabelledSettings,
    PreparationSettings,
    PretrainSettings,
    ProbeSettings,
)
from bertsmith.config.presets import PRESETS, RECIPES
from bertsmith.config.resolve import (
    MOST_MANIFEST_BYTES,
    RUN_CONFIG_FILE,
    STORE_MANIFEST_FILE,
    Given,
    drift,
    given_by_store,
    held,
    named_in,
    resolve,
    settings_by_name,
    settings_of_run,
    to_toml,
)
from bertsmith.config.schema import (
    BUDGETS,
    SECTIONS,
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
    "SECTIONS",
    "STORE_MANIFEST_FILE",
    "TOKENIZERS",
    "DataConfig",
    "FinetuneConfig",
    "FinetuneSettings",
    "Given",
    "LabelledConfig",
    "LabelledSettings",
    "ModelConfig",
    "PreparationConfig",
    "PreparationSettings",
    "PretrainConfig",
    "PretrainSettings",
    "ProbeConfig",
    "ProbeSettings",
    "TrainingConfig",
    "drift",
    "given_by_store",
    "held",
    "named_in",
    "near",
    "resolve",
    "settings_by_name",
    "settings_of_run",
    "to_toml",
]
