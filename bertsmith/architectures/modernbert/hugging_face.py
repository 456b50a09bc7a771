"""ModernBERT in a Hugging Face folder: names of weights, and what config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from bertsmith.architectures.base import CLASSIFIER, MLM_HEAD, TOKEN_CLASSIFIER, Architecture
from bertsmith.architectures.modernbert.network import HEAD
from bertsmith.config import ModernBertConfig
from bertsmith.errors import ConfigError

_OF_ENCODER = ("embeddings.", "layers.", "final_norm.")
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


class ModernBertNames(Architecture[ModernBertConfig]):
    """See `Architecture`."""

    name = "modernbert"
    config_class = ModernBertConfig
    heads: Mapping[str, str] = {
        HEAD: "head.",
        MLM_HEAD: "decoder.",
        CLASSIFIER: "classifier.",
        TOKEN_CLASSIFIER: "classifier.",
    }
    token_ids = ("pad", "cls", "sep", "bos", "eos")

    def transformers_class(self, heads: frozenset[str]) -> str:
        if CLASSIFIER in heads:
            return "ModernBertForSequenceClassification"
        if TOKEN_CLASSIFIER in heads:
            return "ModernBertForTokenClassification"
        if not heads:
            return "ModernBertModel"
        return "ModernBertForMaskedLM"

    def hugging_face_names(self, name: str) -> list[str]:
        """One: the projections that are fused here are so there, too."""
        if name.startswith(_OF_ENCODER):
            return [f"model.{name}"]
        head, _, rest = name.partition(".")
        return [f"{self.heads[head]}{rest}"]

    def canonical(self, name: str) -> str:
        """The name in `ModernBertForMaskedLM`: bare encoders lack its prefix."""
        return f"model.{name}" if name.startswith(_OF_ENCODER) else name

    def write_config(self, config: ModernBertConfig) -> dict[str, Any]:
        """Fields of `transformers.ModernBertConfig`, and those that its fourth version had."""
        kinds = [
            _GLOBAL if config.is_global(number) else _LOCAL
            for number in range(config.num_hidden_layers)
        ]
        thetas = {_GLOBAL: config.global_rope_theta, _LOCAL: config.local_rope_theta}
        return {
            **{name: value for name, value in asdict(config).items() if name != "architecture"},
            "layer_types": kinds,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": theta}
                for kind, theta in thetas.items()
            },
            "decoder_bias": True,
        }

    def read_config(self, found: Mapping[str, Any]) -> ModernBertConfig:
        """The shape of a ModernBERT. Raises: `ConfigError` if this package has no such."""
        expected = {"decoder_bias": True, "tie_word_embeddings": True}
        for name, wanted in expected.items():
            if found.get(name, wanted) != wanted:
                raise ConfigError(
                    f"`{name}` must be {wanted!r} for a ModernBERT; got {found.get(name)!r}."
                )
        # Absent fields mean ModernBERT-base's values, as in Hugging Face's ModernBertConfig.
        shape: dict[str, Any] = {
            "num_hidden_layers": 22,
            "hidden_size": 768,
            "intermediate_size": 1152,
            "num_attention_heads": 12,
        }
        names = {field.name for field in fields(ModernBertConfig)} - {"architecture"}
        # Hugging Face's own files have null where a value is the default.
        shape |= {name: found[name] for name in names if found.get(name) is not None}
        for field, kind in (("global_rope_theta", _GLOBAL), ("local_rope_theta", _LOCAL)):
            theta = _theta(found.get("rope_parameters"), kind)
            shape |= {} if theta is None else {field: theta}
        if found.get("rope_scaling") is not None:
            raise ConfigError(f"`rope_scaling` must be null; got {found['rope_scaling']!r}.")
        kinds = found.get("layer_types")
        if kinds is not None:
            shape["global_attn_every_n_layers"] = _every_n_layers(kinds)
        return ModernBertConfig(**shape)


def _theta(parameters: Any, kind: str) -> Any:
    """The base of the rotary positions of a kind of layer, or None where none is said."""
    if parameters is None:
        return None
    of_kind = parameters.get(kind, {}) if isinstance(parameters, dict) else None
    if not isinstance(of_kind, dict) or of_kind.get("rope_type", "default") != "default":
        raise ConfigError(
            "`rope_parameters` must have a `rope_type` of default for each kind of layer; got "
            f"{parameters!r}."
        )
    return of_kind.get("rope_theta")


def _every_n_layers(kinds: Any) -> int:
    """Of `layer_types`: every how many layers one is global, beginning with the first."""
    if isinstance(kinds, list) and kinds and all(kind in (_GLOBAL, _LOCAL) for kind in kinds):
        every = next((n for n, kind in enumerate(kinds) if n and kind == _GLOBAL), len(kinds))
        if all((kind == _GLOBAL) == (n % every == 0) for n, kind in enumerate(kinds)):
            return every
    raise ConfigError(
        f"`layer_types` must have {_GLOBAL} at the first layer and every n-th after it, and "
        f"{_LOCAL} else; got {kinds!r}."
    )
