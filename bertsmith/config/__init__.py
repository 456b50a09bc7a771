"""Settings: `schema` says what there is, `presets` names sets, `resolve` joins them."""

from bertsmith.config.fields import nearest, parse_counts
from bertsmith.config.finetune import (
    FinetuneConfig,
    LabelledConfig,
    ProbeConfig,
    SimilarityConfig,
)
from bertsmith.config.keywords import (
    FinetuneSettings,
    LabelledSettings,
    PreparationSettings,
    PretrainSettings,
    ProbeSettings,
)
from bertsmith.config.models import MODEL_CONFIGS, BertConfig, ModelConfig, ModernBertConfig
from bertsmith.config.pairs import PairColumns
from bertsmith.config.presets import PRESETS, RECIPES, recommended_preset
from bertsmith.config.resolve import (
    MOST_MANIFEST_BYTES,
    RUN_CONFIG_FILE,
    STORE_MANIFEST_FILE,
    FixedSettings,
    differences,
    given_by_store,
    named_in,
    reproducibility_settings,
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
    PreparationConfig,
    PretrainConfig,
    TrainingConfig,
)

__all__ = [
    "BUDGETS",
    "MODEL_CONFIGS",
    "MOST_MANIFEST_BYTES",
    "PRESETS",
    "RECIPES",
    "RUN_CONFIG_FILE",
    "SECTIONS",
    "STORE_MANIFEST_FILE",
    "TOKENIZERS",
    "BertConfig",
    "DataConfig",
    "FinetuneConfig",
    "FinetuneSettings",
    "FixedSettings",
    "LabelledConfig",
    "LabelledSettings",
    "ModelConfig",
    "ModernBertConfig",
    "PairColumns",
    "PreparationConfig",
    "PreparationSettings",
    "PretrainConfig",
    "PretrainSettings",
    "ProbeConfig",
    "ProbeSettings",
    "SimilarityConfig",
    "TrainingConfig",
    "differences",
    "given_by_store",
    "named_in",
    "nearest",
    "parse_counts",
    "recommended_preset",
    "reproducibility_settings",
    "resolve",
    "settings_by_name",
    "settings_of_run",
    "to_toml",
]
