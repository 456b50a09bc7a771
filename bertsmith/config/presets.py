"""Presets (which network, which data shape) and recipes (how it is trained), by name.

A preset and a recipe are plain tables of settings; `resolve.py` lays one over the other. The
textbook preset is the network of d2l.ai 15.8; the others are the sizes published with BERT
(Devlin et al. 2018; Turc et al. 2019): feed-forward 4 × hidden, one head for 64 dimensions.
"""

from __future__ import annotations

from typing import Any


def _published(num_hidden_layers: int, hidden_size: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": num_hidden_layers,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_attention_heads": hidden_size // 64,
        "hidden_act": "gelu",
        "tokenizer": "wordpiece",
        "min_frequency": 2,
        "max_length": 128,
        "pairing": "filled",
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
    "tiny": _published(2, 128),
    "mini": _published(4, 256),
    "small": _published(4, 512),
    "medium": _published(8, 512),
    "base": _published(12, 768),
    "large": _published(24, 1024),
}

# Peak learning rates fall with width: what a small network bears makes a large one diverge. Those
# of base and large are the original's; the small ones follow Turc et al. 2019, who use larger ones.
_PEAK_LEARNING_RATE = {
    "textbook": 4e-3,
    "tiny": 2e-3,
    "mini": 1e-3,
    "small": 5e-4,
    "medium": 5e-4,
    "base": 1e-4,
    "large": 1e-4,
}


def default_recipe(preset: str) -> dict[str, Any]:
    """AdamW with warm-up and linear decay.

    Dropout is off in the small presets: a run sees a text a few times, and a network this small
    does not learn it by heart, so dropout only slows it down. Attention probabilities are dropped
    in none: the flash attention of a GPU has no dropout.
    """
    return {
        "learning_rate": _PEAK_LEARNING_RATE[preset],
        "batch_size": 128 if preset in ("textbook", "tiny", "mini", "small") else 256,
        "epochs": 4,
        "hidden_dropout_prob": 0.1 if preset in ("medium", "base", "large") else 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def chapter_recipe(preset: str) -> dict[str, Any]:
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


RECIPES = {"default": default_recipe, "chapter": chapter_recipe}
