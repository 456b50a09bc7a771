"""What the settings of a preparation mean, and the key by which its store is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from bertsmith.config import TOKENIZERS, PreparationConfig
from bertsmith.config.languages import check_language
from bertsmith.corpus import Columns, Corpus, Rules, Splitter, absolute_names
from bertsmith.data.manifest import FORMAT
from bertsmith.errors import ConfigError
from bertsmith.tokenizer import Tokenizer

_RULES = 3
"""Raised when the same settings make another store of a text."""

_RULE_LIBRARIES = ("bertsmith", "rensa", "sentencex", "tokenizers")
"""Whose versions decide what text becomes."""


def with_absolute_paths(config: PreparationConfig) -> PreparationConfig:
    """The same text and settings, whatever folder they are named from."""
    tokenizer = config.tokenizer
    if tokenizer not in TOKENIZERS:
        (tokenizer,) = absolute_names([tokenizer])
    added = config.add_tokens
    return replace(
        config,
        corpus=absolute_names(config.corpus),
        validation=absolute_names(config.validation),
        tokenizer=tokenizer,
        add_tokens=None if added is None else str(Path(added).resolve()),
    )


def with_tokenizer_of(config: PreparationConfig, model: Path) -> PreparationConfig:
    """The same, with a tokenizer that was taken from a folder taken from that of a trained model.

    It is the same one, what was added to it as well, and is there as long as the model is.
    """
    if config.tokenizer in TOKENIZERS:
        return config
    return replace(config, tokenizer=str(model.resolve()), add_tokens=None)


def rules_of(config: PreparationConfig) -> Rules:
    """What documents, paragraphs and sentences are, by the settings. Raises: `ConfigError`."""
    # Not when the settings are made: what was prepared with a code that is none can be read.
    if config.language is not None:
        check_language(config.language)
    split = Splitter(config.sentences, config.language or "en")
    return Rules(config.documents, config.paragraphs, split)


def columns_of(config: PreparationConfig) -> Columns:
    """How tables are read, by the settings."""
    return Columns(config.text_column, config.max_bad_rows)


def refuse_idle_columns(config: PreparationConfig, corpus: Corpus) -> None:
    """Raise `ConfigError` if a column is asked for where nothing is read by rows."""
    default = PreparationConfig().text_column
    if config.text_column != default and not corpus.has_tables:
        raise ConfigError(
            f"`text_column` changes nothing where no table is read; {corpus.name} is plain text. "
            "Leave it out, or name JSON lines, CSV, TSV or Parquet."
        )


def key_of(config: PreparationConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> str:
    """A digest of all that decides what is in a store: text, settings, the rules of libraries."""
    settings = asdict(config)
    for name in ("corpus", "validation"):  # where the text lies does not matter
        settings[name] = len(settings[name])
    del settings["encoding"]  # the digests of the texts say it
    del settings["add_tokens"]  # they are in the tokenizer
    if tokenizer is not None:
        settings["tokenizer"] = {  # what tokenizer_config.json says beside tokenizer.json, too
            "sha256": tokenizer.sha256(),
            "special_tokens": tokenizer.special_tokens,
            "lowercase": tokenizer.lowercase,
        }
    about = {
        "format": FORMAT,
        "rules": _RULES,
        "settings": settings,
        "splits": corpus.splits,
        "pretokenized": corpus.pretokenized,
        "content": [digest() for digest in corpus.content],
        "libraries": {name: version(name) for name in _RULE_LIBRARIES},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
