"""BERT in a Hugging Face folder: names of weights, and what config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from bertsmith.architectures.base import (
    CLASSIFIER,
    MLM_HEAD,
    NSP_HEAD,
    POOLER,
    TOKEN_CLASSIFIER,
    Architecture,
)
from bertsmith.architectures.bert.network import ACTIVATIONS
from bertsmith.config import BertConfig
from bertsmith.errors import ConfigError

_NAMES = {
    "embeddings.word": "bert.embeddings.word_embeddings",
    "embeddings.position": "bert.embeddings.position_embeddings",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "mlm_head.transform": "cls.predictions.transform.dense",
    "mlm_head.norm": "cls.predictions.transform.LayerNorm",
    "mlm_head": "cls.predictions",
    "nsp_head": "cls.seq_relationship",
    "classifier": "classifier",
    "token_classifier": "classifier",
}
_LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_QKV = ("query", "key", "value")


class BertNames(Architecture[BertConfig]):
    """See `Architecture`."""

    name = "bert"
    config_class = BertConfig
    heads: Mapping[str, str] = {
        POOLER: "bert.pooler.",
        MLM_HEAD: "cls.predictions.",
        NSP_HEAD: "cls.seq_relationship.",
        CLASSIFIER: "classifier.",
        TOKEN_CLASSIFIER: "classifier.",
    }

    def transformers_class(self, heads: frozenset[str]) -> str:
        if CLASSIFIER in heads:
            return "BertForSequenceClassification"
        if TOKEN_CLASSIFIER in heads:
            return "BertForTokenClassification"
        if not heads:
            return "BertModel"
        return "BertForPreTraining" if NSP_HEAD in heads else "BertForMaskedLM"

    def hugging_face_names(self, name: str) -> list[str]:
        """One, or three for the fused projection of query, key and value."""
        module, _, kind = name.rpartition(".")
        if module in _NAMES:
            return [f"{_NAMES[module]}.{kind}"]
        _, index, inner = module.split(".", 2)
        prefix = f"bert.encoder.layer.{index}"
        if inner == "attention.qkv":
            return [f"{prefix}.attention.self.{part}.{kind}" for part in _QKV]
        return [f"{prefix}.{_LAYER_NAMES[inner]}.{kind}"]

    def canonical(self, name: str) -> str:
        """The name in `BertForPreTraining`: bare encoders lack its prefix, old files say gamma."""
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        )

    def write_config(self, config: BertConfig) -> dict[str, Any]:
        """Fields of `transformers.BertConfig`."""
        return {name: value for name, value in asdict(config).items() if name != "architecture"}

    def read_config(self, found: Mapping[str, Any]) -> BertConfig:
        """The shape of a BERT of the original structure. Raises: `ConfigError` if it is none."""
        expected = {
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "tie_word_embeddings": True,
        }
        for name, wanted in expected.items():
            if found.get(name, wanted) != wanted:
                raise ConfigError(
                    f"`{name}` must be {wanted!r} for a BERT of the original structure; got "
                    f"{found.get(name)!r}."
                )
        activation = found.get("hidden_act", "gelu")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            known = " or ".join(ACTIVATIONS)
            raise ConfigError(f"`hidden_act` must be {known}; got {activation!r}.")
        # Absent fields mean BERT_BASE's values, as in Hugging Face's BertConfig.
        shape: dict[str, Any] = {
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
        }
        names = {field.name for field in fields(BertConfig)} - {"architecture"}
        return BertConfig(**shape | {name: value for name, value in found.items() if name in names})
