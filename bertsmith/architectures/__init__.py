"""Families of networks: an architecture is a folder, and a line here."""

from __future__ import annotations

from typing import Any

from bertsmith.architectures.base import (
    CLASSIFIER,
    MLM_HEAD,
    NSP_HEAD,
    OF_FINE_TUNING,
    POOLER,
    TOKEN_CLASSIFIER,
    Architecture,
    Encoder,
    MicroBatch,
    MlmProjection,
    Work,
    call_module,
)
from bertsmith.architectures.bert import BertArchitecture
from bertsmith.architectures.modernbert import ModernBertArchitecture
from bertsmith.config import MODEL_CONFIGS, ModelConfig
from bertsmith.config.registered import ARCHITECTURES
from bertsmith.errors import ConfigError

__all__ = [
    "CLASSIFIER",
    "MLM_HEAD",
    "NSP_HEAD",
    "OF_FINE_TUNING",
    "POOLER",
    "TOKEN_CLASSIFIER",
    "Architecture",
    "Encoder",
    "MicroBatch",
    "MlmProjection",
    "Work",
    "architecture_of",
    "build",
    "call_module",
    "register",
]

_ARCHITECTURES: dict[str, Architecture[Any]] = {
    architecture.name: architecture
    for architecture in (BertArchitecture(), ModernBertArchitecture())
}


def architecture_of(name: str) -> Architecture[Any]:
    """The architecture of a name. Raises: `ConfigError` if there is none."""
    if name not in _ARCHITECTURES:
        known = " or ".join(_ARCHITECTURES)
        raise ConfigError(f"`architecture` must be {known}; got {name!r}.")
    return _ARCHITECTURES[name]


def build(
    config: ModelConfig,
    vocab_size: int,
    heads: frozenset[str] | None = None,
    *,
    num_labels: int = 0,
) -> Encoder:
    """A network of the architecture that its shape names.

    Args:
        config: its shape.
        vocab_size: rows of the embedding matrix.
        heads: that it has; None: all that its architecture knows but for a classifier.
        num_labels: outputs of a classifier.
    """
    architecture = architecture_of(config.architecture)
    heads = frozenset(architecture.heads) - OF_FINE_TUNING if heads is None else heads
    if lacking := heads - set(architecture.heads):
        raise ConfigError(
            f"The architecture {architecture.name} must have the heads of the objective; it lacks "
            f"{' and '.join(sorted(lacking))}."
        )
    return architecture.build(config, vocab_size, heads, num_labels)


def register(architecture: Architecture[Any]) -> None:
    """Let settings and folders name an architecture. Raises: `ConfigError` if its name is taken."""
    if architecture.name in _ARCHITECTURES:
        raise ConfigError(
            f"There must be one architecture of a name; {architecture.name!r} is there."
        )
    _ARCHITECTURES[architecture.name] = architecture
    ARCHITECTURES.append(architecture.name)
    MODEL_CONFIGS[architecture.name] = architecture.config_class
