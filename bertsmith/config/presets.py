"""Presets (which network, which data shape) and recipes (how it is trained), by name.

A preset and a recipe are plain tables of settings; `resolve.py` lays one over the other. The
textbook preset is the network of d2l.ai 15.8. Sizes without the name of a family were published
with BERT (Devlin et al. 2018; Turc et al. 2019): feed-forward 4 × hidden, one head for 64
dimensions. The others are ModernBERTs: `modern-base` and `modern-large` (Warner et al. 2024), those
of Ettin (Weller et al. 2025), and two for a few cores, as wide and deep as their namesakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _published(
    num_hidden_layers: int, hidden_size: int, *, max_length: int = 128
) -> dict[str, Any]:
    return {
        "num_hidden_layers": num_hidden_layers,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_attention_heads": hidden_size // 64,
        "hidden_act": "gelu",
        "tokenizer": "wordpiece",
        "min_frequency": 2,
        "max_length": max_length,
        "pairing": "filled",
    }


def _modern(
    num_hidden_layers: int,
    hidden_size: int,
    intermediate_size: int,
    *,
    max_length: int = 1024,
    vocab_size: int = 50_368,
) -> dict[str, Any]:
    return {
        "architecture": "modernbert",
        "num_hidden_layers": num_hidden_layers,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_attention_heads": hidden_size // 64,
        "tokenizer": "bpe",
        "vocab_size": vocab_size,
        "lowercase": False,
        "min_frequency": 2,
        "objective": "mlm",
        "max_length": max_length,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "textbook": {
        "num_hidden_layers": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "hidden_act": "relu",
        "tokenizer": "word",
        "min_frequency": 5,
        "max_length": 64,
        "pairing": "adjacent",
    },
    # What is trained for minutes learns more from short sequences (docs/experiments.md).
    "tiny": _published(2, 128, max_length=64),
    "mini": _published(4, 256, max_length=64),
    "small": _published(4, 512, max_length=64),
    "medium": _published(8, 512),
    "base": _published(12, 768),
    "large": _published(24, 1024),
    "modern-tiny": _modern(2, 128, 320, max_length=64, vocab_size=30_522),
    "modern-mini": _modern(4, 256, 640, max_length=64, vocab_size=30_522),
    "ettin-17m": _modern(7, 256, 384),
    "ettin-32m": _modern(10, 384, 576),
    "ettin-68m": _modern(19, 512, 768),
    "modern-base": _modern(22, 768, 1152),
    "modern-large": _modern(28, 1024, 2624),
}

_SMALL = {
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "muon_learning_rate": 0.01,
    "warmup_ratio": 0.2,
    "batch_size": 32,
    "mlm_probability": 0.4,
    "epochs": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attention_init": "near",
    "embedding_init": "cooccurrence",
}
"""What learnt most of a small text with the textbook preset, by docs/experiments.md; `tiny`
and `mini` gain by it as well, the others are not tuned. The warm-up is long for the sake of short
runs. Dropout is off: it only slowed these runs down."""

_EPSILON_BESIDE_MUON = 1e-4
"""Of AdamW, for small BERTs from the beginning: the root mean square of the gradient of a word that
stands some 30 times in two million, so that those which are rarer take smaller steps. With AdamW
alone and for small ModernBERTs 1e-6 is better, and for trained weights nothing was measured."""

_SMALL_MODERN = {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.2}
"""What learnt most with `modern-tiny`, by docs/experiments.md."""

_LARGE = {
    "optimizer": "adamw",
    "batch_size": 256,
    "mlm_probability": 0.3,
    "epochs": 4,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
}
"""Not measured here. Peak learning rates are the original's (Devlin et al. 2018), Turc et al.'s
(2019) and ModernBERT's (Warner et al. 2024; for Ettin's 68M a third of its authors', whose
optimizer clips updates), masks those of Wettig et al. (2022) and of most encoders since. Attention
probabilities are not dropped: the flash attention of a GPU has no dropout."""


def default_recipe(preset: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The best that is known for the preset: Muon in the small ones, AdamW in the others.

    `asked` are the settings that are laid over it.
    """
    bert = {"medium": 5e-4, "base": 1e-4, "large": 1e-4}
    modern = {"ettin-68m": 1e-3, "modern-base": 8e-4, "modern-large": 5e-4}
    rates = bert | modern
    is_modern = PRESETS[preset].get("architecture") == "modernbert"
    if preset in rates:
        recipe = {**_LARGE, "learning_rate": rates[preset]}
    else:
        recipe = {**_SMALL, **(_SMALL_MODERN if is_modern else {})}
        is_bert = asked.get("architecture", "modernbert" if is_modern else "bert") == "bert"
        has_muon = asked.get("optimizer", recipe["optimizer"]) == "muon"
        if is_bert and has_muon and not asked.get("init_from"):
            recipe["adam_epsilon"] = _EPSILON_BESIDE_MUON
    if is_modern:
        recipe["attention_init"] = "normal"  # the other is of position vectors
    return recipe


def chapter_recipe(preset: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The chapter's own recipe (d2l.ai 15.10), to see what it does, not the best."""
    return {
        "batch_size": 512,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "mlm_bias_init": "zero",
        "max_grad_norm": 0.0,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.2,
        "steps": 50,
    }


_LOWEST_LOSS_UP_TO = {30: "tiny", 70: "mini"}
"""Minutes of one core, and the preset that had the lowest loss then: 3.117 nats after 30, where
`mini` had 3.139, and 2.936 after 70 (docs/how-to.md)."""


def recommended_preset(minutes: float) -> str | None:
    """BERT's WordPiece preset with the lowest MLM loss after so many minutes of a core.

    None: what is best after so many was not measured.
    """
    return next((name for most, name in _LOWEST_LOSS_UP_TO.items() if minutes <= most), None)


RECIPES = {"default": default_recipe, "chapter": chapter_recipe}
