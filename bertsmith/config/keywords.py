"""The settings that public functions take as keywords: editors complete them, mypy checks them.

What each means, its default and its bounds stand in `schema.py` and `finetune.py`; a test holds
names and types here equal to those there. `corpus` is an argument of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict


class PreparationSettings(TypedDict, total=False):
    """Fields of `PreparationConfig`."""

    validation: str | Sequence[str]
    validation_fraction: float
    encoding: str
    text_column: str
    max_bad_rows: float
    documents: Literal["auto", "empty-line", "line", "file"]
    paragraphs: Literal["line", "empty-line"]
    sentences: Literal["language", "full-stop", "line", "none"]
    language: str | None
    deduplicate: Literal["none", "exact", "near"]
    near_duplicate_similarity: float
    tokenizer: str
    add_tokens: str | None
    vocab_size: int
    min_frequency: int
    lowercase: bool
    strip_accents: bool | None
    unicode_normalization: Literal["none", "nfc", "nfkc"]
    pre_tokenization: Literal["words", "scripts", "characters"]
    tokenizer_sample_bytes: int


class PretrainSettings(PreparationSettings, total=False):
    """Fields of `PreparationConfig`, `DataConfig`, `TrainingConfig`, and of the class of the
    architecture: `BertConfig` or `ModernBertConfig`.
    """

    objective: str
    max_length: int
    first_max_length: int | None
    first_length_ratio: float
    pairing: Literal["adjacent", "filled"]
    short_pair_probability: float
    mlm_probability: float
    mlm_probability_end: float | None
    masking: str
    architecture: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    max_position_embeddings: int
    initializer_range: float
    hidden_act: Literal["relu", "gelu"]
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    type_vocab_size: int
    layer_norm_eps: float
    hidden_activation: Literal["gelu", "silu", "relu"]
    global_attn_every_n_layers: int
    local_attention: int
    global_rope_theta: float
    local_rope_theta: float
    embedding_dropout: float
    attention_dropout: float
    mlp_dropout: float
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    initializer_cutoff_factor: float
    classifier_pooling: Literal["cls", "mean"]
    classifier_dropout: float
    classifier_bias: bool
    classifier_activation: Literal["gelu", "silu", "relu"]
    steps: int | None
    epochs: float | None
    pairs: int | None
    tokens: int | None
    minutes: float | None
    init_from: str | Path | None
    batch_size: int
    batch_size_end: int | None
    micro_batch: int | Literal["auto"]
    recompute: bool
    parallel: Literal["ddp", "fsdp"]
    optimizer: str
    learning_rate: float
    embedding_learning_rate: float | None
    scalar_learning_rate: float | None
    muon_learning_rate: float
    muon_momentum: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    weight_decay: float
    lr_scheduler_type: Literal["linear", "cosine", "constant", "warmup_stable_decay"]
    warmup_ratio: float
    decay_ratio: float
    averaging: Literal["none", "exponential", "tail"]
    averaging_decay: float
    tail_ratio: float
    mlm_bias_init: Literal["frequency", "zero"]
    attention_init: Literal["near", "normal"]
    embedding_init: Literal["cooccurrence", "normal"]
    max_grad_norm: float
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "off"]
    log_every: int
    validate_every: int | None
    validation_pairs: int
    checkpoint_every: int | None
    keep_checkpoints: int
    keep_every: int | None
    checkpoint_at_words: str | Sequence[str]
    track: str | Sequence[str]
    track_project: str
    max_rollbacks: int
    license: str | None
    spike_factor: float


class LabelledSettings(TypedDict, total=False):
    """Fields of `LabelledConfig`."""

    encoding: str
    delimiter: str | None
    text_column: str | None
    text_pair_column: str | None
    label_column: str | None
    task: Literal["auto", "classes", "scores", "tokens", "similarity"]
    label_names: str | Sequence[str]
    max_bad_rows: float


class FinetuneSettings(LabelledSettings, total=False):
    """Fields of `LabelledConfig`, `FinetuneConfig` and `SimilarityConfig`."""

    negative_column: str | None
    pooling: Literal["mean", "cls"]
    normalize: bool
    temperature: float
    matryoshka: int | Sequence[int]
    seeds: int | Sequence[int]
    epochs: int
    batch_size: int | None
    learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    dropout_prob: float
    class_weights: Literal["none", "balanced"]
    metric: Literal["auto", "accuracy", "f1", "matthews", "spearman", "pearson"]
    evaluations_per_epoch: int
    patience: int
    max_length: int | None
    micro_batch: int | Literal["auto"]
    license: str | None
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]


class ProbeSettings(LabelledSettings, total=False):
    """Fields of `LabelledConfig` and `ProbeConfig`."""

    pooling: Literal["mean", "cls"]
    folds: int
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
