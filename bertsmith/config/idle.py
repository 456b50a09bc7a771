"""Settings that change nothing beside others.

Who asks for one expects a difference, and would take two equal runs for the result of an
experiment. So it is refused where it is asked for (a flag, a keyword), not where a preset, a recipe
or a file has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertsmith.config.schema import TOKENIZERS
from bertsmith.errors import ConfigError

_NEEDS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("muon_learning_rate", "optimizer", ("muon",)),
    ("muon_momentum", "optimizer", ("muon",)),
    ("pairing", "objective", ("mlm+nsp",)),
    ("short_pair_probability", "objective", ("mlm+nsp",)),
    ("short_pair_probability", "pairing", ("filled",)),
    ("validation_fraction", "validation", ((),)),
    ("near_duplicate_similarity", "deduplicate", ("near",)),
    ("vocab_size", "tokenizer", ("wordpiece", "bpe", "unigram")),
    ("min_frequency", "tokenizer", ("word", "wordpiece", "bpe")),
    ("lowercase", "tokenizer", TOKENIZERS),
    ("strip_accents", "tokenizer", TOKENIZERS),
    ("unicode_normalization", "tokenizer", TOKENIZERS),
    ("pre_tokenization", "tokenizer", TOKENIZERS),
    ("tokenizer_sample_bytes", "tokenizer", TOKENIZERS),
    ("attention_init", "init_from", (None,)),
)
"""A setting, another, and the values of the other with which it changes anything."""


def refuse_idle(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if one of the settings that were asked for changes nothing.

    Args:
        asked: by name; None is what was not asked for.
        settings: all of them, as they are in the end.
    """
    for name, other, values in _NEEDS:
        if asked.get(name) is not None and settings[other] not in values:
            value = settings[other]
            shown = ", ".join(value) if isinstance(value, tuple) else value
            raise ConfigError(
                f"`{name}` changes nothing where `{other}` is {shown}; "
                f"leave it out, or {_remedy(other, values)}."
            )


def _remedy(setting: str, values: tuple[Any, ...]) -> str:
    if not isinstance(values[0], str):
        return f"leave out `{setting}`"
    *others, last = values
    return f"choose {', '.join(others)} or {last}" if others else f"choose {last}"
