"""The shapes of networks: what all architectures have, and what each one has of its own.

Names are those of the architecture's class in Hugging Face's transformers. The section [model] of a
config.toml, the flags and the keywords are the fields of the class that `architecture` names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from bertsmith.config.fields import check, setting
from bertsmith.config.registered import ARCHITECTURES
from bertsmith.errors import ConfigError

_Own = TypeVar("_Own", bound="ModelConfig")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the shapes of all architectures have; an architecture may do with these alone."""

    architecture: str = setting("bert", choices=ARCHITECTURES)
    """Family of networks: bert (Devlin et al. 2018), modernbert (Warner et al. 2024), or one that
    was registered."""
    num_hidden_layers: int = setting(2, gt=0)
    """Transformer layers."""
    hidden_size: int = setting(128, gt=0)
    """Width of a token's vector."""
    intermediate_size: int = setting(256, gt=0)
    """Width of the feed-forward network inside a layer."""
    num_attention_heads: int = setting(2, gt=0)
    """Attention heads a layer; must divide the hidden size."""
    max_position_embeddings: int = setting(512, gt=0)
    """Longest sequence that the model is for, in tokens."""
    initializer_range: float = setting(0.02, gt=0)
    """Standard deviation of the initial weights."""

    dropouts: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are dropout probabilities."""
    dropout_of_attention: ClassVar[str | None] = None
    """The one among them that drops attention probabilities."""
    dropout_of_classifier: ClassVar[str | None] = None
    """The one among them that drops what a classifier reads."""
    may_differ: ClassVar[tuple[str, ...]] = ()
    """Fields that a training which begins from a model may have otherwise than the model."""

    def __post_init__(self) -> None:
        check(self)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                "`hidden_size` must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads}); got {self.hidden_size}."
            )

    @property
    def num_segments(self) -> int:
        """Segment embeddings that tell a first text from a second one; 0: it has no such."""
        return 0

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return any(getattr(self, name) for name in self.dropouts)

    @property
    def drops_attention(self) -> bool:
        """Whether attention probabilities are dropped in training."""
        name = self.dropout_of_attention
        return name is not None and bool(getattr(self, name))

    @property
    def classifier_dropout_prob(self) -> float:
        """Dropout of what a classifier reads, in training."""
        name = self.dropout_of_classifier
        return 0.0 if name is None else float(getattr(self, name))

    def with_dropout(self: _Own, probability: float) -> _Own:
        """The same shape with this probability for every dropout that it has."""
        changes: dict[str, Any] = dict.fromkeys(self.dropouts, probability)
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    """Shape of the original BERT (Devlin et al. 2018, section 3): `transformers.BertConfig`."""

    hidden_act: Literal["relu", "gelu"] = "gelu"
    """Activation of the feed-forward network and of the MLM head."""
    hidden_dropout_prob: float = setting(0.1, ge=0, lt=1)
    """Dropout after the embeddings and after each sub-layer, in training."""
    attention_probs_dropout_prob: float = setting(0.1, ge=0, lt=1)
    """Dropout of attention weights, in training."""
    type_vocab_size: int = setting(2, gt=0)
    """Segments a sequence may have: first text and second text."""
    layer_norm_eps: float = setting(1e-12, gt=0)
    """Added to the variance in layer normalisation."""

    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    dropout_of_attention = "attention_probs_dropout_prob"
    dropout_of_classifier = "hidden_dropout_prob"

    @property
    def num_segments(self) -> int:
        return self.type_vocab_size


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(ModelConfig):
    """Shape of ModernBERT (Warner et al. 2024, section 2): `transformers.ModernBertConfig`.

    Pre-norm layers without biases, rotary positions, gated feed-forward networks, and attention
    that is global in every so many layers and local in the others.
    """

    architecture: str = setting("modernbert", choices=ARCHITECTURES)
    """Family of networks: bert (Devlin et al. 2018), modernbert (Warner et al. 2024), or one that
    was registered."""
    max_position_embeddings: int = setting(8192, gt=0)
    """Longest sequence that the model is for, in tokens; rotary positions have no table."""
    hidden_activation: Literal["gelu", "silu", "relu"] = "gelu"
    """Activation of the feed-forward network, beside its gate."""
    global_attn_every_n_layers: int = setting(3, gt=0)
    """Layers 0, n, 2n, … attend to the whole sequence, the others to a window; 1: all to all."""
    local_attention: int = setting(128, ge=2)
    """Window of the local layers, in tokens: half of it on either side of a token."""
    global_rope_theta: float = setting(160_000.0, gt=0)
    """Base of the rotary positions in global layers."""
    local_rope_theta: float = setting(10_000.0, gt=0)
    """Base of the rotary positions in local layers."""
    embedding_dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout after the embeddings, in training."""
    attention_dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout of attention weights and after attention, in training."""
    mlp_dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout inside the feed-forward network, in training."""
    norm_eps: float = setting(1e-5, gt=0)
    """Added to the variance in layer normalisation."""
    norm_bias: bool = False
    """Whether norms have a bias."""
    attention_bias: bool = False
    """Whether the linear layers of attention have a bias."""
    mlp_bias: bool = False
    """Whether those of the feed-forward network have a bias."""
    initializer_cutoff_factor: float = setting(2.0, gt=0)
    """Initial weights are within so many standard deviations."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    """What a classifier reads: the vector of [CLS], or the mean of all tokens."""
    classifier_dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout of what a classifier reads, in training."""
    classifier_bias: bool = False
    """Whether the dense layer of the prediction head has a bias."""
    classifier_activation: Literal["gelu", "silu", "relu"] = "gelu"
    """Activation of the prediction head."""

    dropouts = ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
    dropout_of_attention = "attention_dropout"
    dropout_of_classifier = "classifier_dropout"
    may_differ = (
        "max_position_embeddings",
        "global_rope_theta",
        "local_rope_theta",
        "classifier_pooling",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size // self.num_attention_heads % 2:
            raise ConfigError(
                "`hidden_size` / `num_attention_heads` must be even for rotary positions; got "
                f"{self.hidden_size} / {self.num_attention_heads}."
            )

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends to the whole sequence."""
        return layer % self.global_attn_every_n_layers == 0

    @property
    def window(self) -> int:
        """Tokens on either side that a local layer attends to."""
        return self.local_attention // 2


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {"bert": BertConfig, "modernbert": ModernBertConfig}
"""The class of each architecture's shape."""
