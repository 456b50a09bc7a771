"""The flags of all settings, for the command that trains and the one that says what it takes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from bertsmith.config import (
    BUDGETS,
    SECTIONS,
    BertConfig,
    DataConfig,
    ModelConfig,
    PreparationConfig,
    TrainingConfig,
)
from bertsmith.training.settings import Layers


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command has for flags besides its own."""

    preset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "textbook"
    """Network and data shape: textbook, tiny, mini, small, medium, base or large; or a ModernBERT:
    modern-tiny, modern-mini, modern-base, modern-large, ettin-17m, ettin-32m or ettin-68m."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """How it is trained: default, or chapter (the textbook's own)."""
    preparation: tyro.conf.OmitArgPrefixes[PreparationConfig] = field(
        default_factory=PreparationConfig
    )
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=BertConfig)


def layers_named(arguments: Sequence[str]) -> Layers:
    """What the flags are laid over: the preset, the recipe, the file and the rest that they name.

    Found before the other flags are read, so that `--help` shows the defaults as they will be.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "recipe", "config", "output", "init-from", "architecture"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--corpus", nargs="+", default=[])
    try:
        named, _ = parser.parse_known_args([_with_hyphens(argument) for argument in arguments])
    except argparse.ArgumentError:  # a flag without its value: the full parser says so better
        return Layers.of()
    return Layers.of(
        preset=named.preset,
        recipe=named.recipe,
        config=named.config,
        corpus=named.corpus,
        init_from=named.init_from,
        architecture=named.architecture,
        output=None if named.output is None else Path(named.output),
        resume=named.resume,
        may_lack_corpus=asks_for_help(arguments),
    )


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the flags are to be listed, and nothing else is to be done."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def _with_hyphens(argument: str) -> str:
    """A flag as it is listed: `--init_from=a_b` is `--init-from=a_b`."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def defaults(layers: Layers, *, for_help: bool = False) -> dict[str, Any]:
    """The defaults of `Settings`.

    Args:
        layers: what the flags are laid over.
        for_help: have a budget among them, as what is so without flags. Otherwise there is none,
            so that any one that is given is seen.
    """
    found = vars(layers.resolve())
    if for_help:
        return found
    training = replace(found["training"], **dict.fromkeys(BUDGETS))
    return {**found, "training": training}


def changes(command: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags change, by name.

    A flag that says what is so already is not told from one that is not there.

    Args:
        command: with sections of settings among its fields.
        usual: the defaults of those.
    """
    return {
        name: value
        for section in SECTIONS
        if hasattr(command, section)
        for name, value in asdict(getattr(command, section)).items()
        if value != getattr(usual[section], name)
    }
