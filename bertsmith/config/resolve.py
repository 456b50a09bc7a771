"""From preset, recipe, file and flags to one `PretrainConfig`, and to TOML and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.config.fields import nearest, types_of
from bertsmith.config.idle import refuse_idle
from bertsmith.config.models import MODEL_CONFIGS, ModelConfig
from bertsmith.config.presets import PRESETS, RECIPES
from bertsmith.config.schema import (
    BUDGETS,
    MAY_CHANGE,
    SECTIONS,
    DataConfig,
    PreparationConfig,
    PretrainConfig,
    TrainingConfig,
    section_of,
)
from bertsmith.durable import read_small
from bertsmith.errors import ConfigError

_MOST_BYTES = 2**20  # of a config.toml


@dataclass(frozen=True)
class FixedSettings:
    """Settings that something which is there already has decided: a prepared text, a model."""

    source: str
    """As the beginning of a sentence that goes on with a setting: "The model in DIR has"."""
    settings: Mapping[str, Any]
    """They take the place of the preset's, and what is asked for must not contradict them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """They take the place of the preset's and the recipe's."""
    preset: str | None = None
    """The preset if none is asked for."""


def resolve(
    *,
    preset: str | None = None,
    recipe: str | None = None,
    file: str | Path | None = None,
    given: Sequence[FixedSettings] = (),
    overrides: Mapping[str, Any] | None = None,
) -> PretrainConfig:
    """Lay the recipe over the preset, the file over both, and `overrides` over all.

    Args:
        preset: a name of `PRESETS`; default: the file's, else textbook.
        recipe: a name of `RECIPES`; default: the file's, else default.
        file: a TOML file with any part of what `to_toml` writes.
        given: what a prepared text and a model to begin from have decided.
        overrides: settings by field name, as flags or keywords give them. A budget among them
            takes the place of any budget below it.

    Raises:
        ConfigError: an unknown name, an impossible value, an unreadable file; a setting among
            `overrides` that changes nothing beside the others.
    """
    from_file = _read(Path(file)) if file is not None else {}
    usual = next((one.preset for one in given if one.preset), "textbook")
    preset = _choose("preset", preset, from_file.pop("preset", None), PRESETS, usual)
    recipe = _choose("recipe", recipe, from_file.pop("recipe", None), RECIPES, "default")
    settings: dict[str, Any] = {}
    held = [one.settings for one in given]
    asked = [*held, from_file, overrides or {}]
    over = {name: value for layer in asked for name, value in layer.items()}
    below = [PRESETS[preset], RECIPES[recipe](preset, over), *(one.defaults for one in given)]
    for layer in (*below, *asked):
        if any(layer.get(budget) is not None for budget in BUDGETS):
            settings = {name: value for name, value in settings.items() if name not in BUDGETS}
        settings |= layer
    refuse_contradiction(given, settings)
    by_section: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in settings.items():
        by_section[section_of(name)][name] = value
    model = _shape(by_section["model"], over.keys())
    if model.num_segments == 0:
        by_section["data"].setdefault("objective", "mlm")
    config = PretrainConfig(
        preset=preset,
        recipe=recipe,
        preparation=PreparationConfig(**by_section["preparation"]),
        model=model,
        data=DataConfig(**by_section["data"]),
        training=TrainingConfig(**by_section["training"]),
    )
    refuse_idle(overrides or {}, config)
    return config


def _shape(settings: Mapping[str, Any], asked: Set[str]) -> ModelConfig:
    """The section of the architecture that `settings` name.

    Presets and recipes may have settings of another architecture than the one that is asked for;
    these are left out. Raises: `ConfigError` if one that was asked for is not of it.
    """
    name = settings.get("architecture", "bert")
    cls = MODEL_CONFIGS.get(name, ModelConfig)  # which refuses a name that there is not
    own = types_of(cls)
    for setting in settings:
        if setting in asked and setting not in own:
            raise ConfigError(
                f"`{setting}` is no setting of the architecture {name}; {nearest(setting, own)}"
            )
    return cls(**{setting: value for setting, value in settings.items() if setting in own})


STORE_MANIFEST_FILE = "token-store.json"
"""In a token store's folder: what it is."""

MOST_MANIFEST_BYTES = 2**28
"""Of that file; one of a million shards has less."""

RUN_CONFIG_FILE = "config.toml"
"""In a run's folder: all its settings."""


def settings_of_run(run: Path) -> Path | None:
    """The file with the settings of the run in the folder `run`; None if there is no run."""
    file = run / RUN_CONFIG_FILE
    try:
        return file if file.is_file() else None
    except OSError as error:
        raise ConfigError(f"Cannot read {run}: {error.strerror}.") from error


def reproducibility_settings(config: PretrainConfig) -> dict[str, Any]:
    """The settings that say what a run computes, by name; a resumed run must have the same.

    `corpus` and `validation` are not among them: the same text may lie elsewhere, and is compared
    by what it says.
    """
    fields: dict[str, Any] = {"preset": config.preset, "recipe": config.recipe}
    fields |= settings_by_name(config)
    return {
        name: value
        for name, value in fields.items()
        if name not in MAY_CHANGE | {"corpus", "validation"}
    }


def settings_by_name(config: PretrainConfig) -> dict[str, Any]:
    """The settings of all sections; no two sections have one of the same name."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        found |= asdict(getattr(config, section))
    return found


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], words: tuple[str, str] = ("before", "now")
) -> list[str]:
    """Where two results of `reproducibility_settings` differ: one text for each field."""
    names = dict.fromkeys([*before, *now])
    return [
        f"`{name}` ({before.get(name)} {words[0]}, {now.get(name)} {words[1]})"
        for name in names
        if before.get(name) != now.get(name)
    ]


def to_toml(config: PretrainConfig) -> str:
    """All settings as TOML, a section each; settings that are None are left out."""
    import tomli_w

    table: dict[str, Any] = {"preset": config.preset, "recipe": config.recipe}
    for section in SECTIONS:
        values = asdict(getattr(config, section))
        table[section] = {name: value for name, value in values.items() if value is not None}
    return tomli_w.dumps(table)


def _choose(
    kind: str, asked: str | None, in_file: str | None, known: Mapping[str, Any], default: str
) -> str:
    if asked and in_file and asked != in_file:
        raise ConfigError(
            f"The config file was made with {kind} {in_file}, and {asked} was asked for; "
            f"leave out the {kind} or the file."
        )
    name = asked or in_file or default
    if name not in known:
        raise ConfigError(f"There is no {kind} {name!r}; {nearest(str(name), known)}")
    return name


_PREPARED = "The text was prepared with"
_GONE = "id_column"
"""A setting that there was: stores and runs that were made with it are as those without."""


class Named(NamedTuple):
    """What a file of settings names, that has decided settings itself."""

    corpus: tuple[str, ...] = ()
    init_from: str | None = None


def named_in(file: Path | None) -> Named:
    """The text and the model that a TOML file names, if it does. Raises: `ConfigError`."""
    found = {} if file is None else _read(file)
    corpus, init_from = found.get("corpus", ()), found.get("init_from")
    if init_from is not None and not isinstance(init_from, str):
        raise ConfigError(f"{file}: `init_from` must be a path; got {init_from!r}.")
    names = [corpus] if isinstance(corpus, str) else corpus
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Named(tuple(names) if is_list else (), init_from)  # its section refuses other types


def given_by_store(corpus: Sequence[str]) -> list[FixedSettings]:
    """The settings with which the store that `corpus` names was prepared; empty if it names none.

    Raises:
        ConfigError: its manifest cannot be read.
    """
    path = Path(corpus[0]) / STORE_MANIFEST_FILE if len(corpus) == 1 else None
    try:
        if path is None or not path.is_file():
            return []
        settings = json.loads(read_small(path, MOST_MANIFEST_BYTES))["settings"]
        settings.pop(_GONE, None)
        known = {entry.name for entry in fields(PreparationConfig)}
        if set(settings) - known:
            raise ValueError("unknown settings")
        own = {name: settings[name] for name in settings if name not in ("corpus", "validation")}
        return [FixedSettings(_PREPARED, own)]
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not the manifest of a token store.") from error


def refuse_contradiction(given: Sequence[FixedSettings], settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if `settings` has another value for one that is given, or more text."""
    if any(one.source == _PREPARED for one in given) and settings.get("validation"):
        raise ConfigError(
            "A token store has the text that is validated on; `validation` cannot name another. "
            "Leave it out, or prepare the text again with it."
        )
    for one in given:
        for name, value in one.settings.items():
            if settings.get(name, value) != value:
                raise ConfigError(
                    f"{one.source} `{name}` = {value!r}, and {settings[name]!r} was asked for; "
                    "leave the setting out"
                    f"{', or prepare the text again' if one.source == _PREPARED else ''}."
                )


def _rename_old(table: dict[str, Any]) -> None:
    """Say as today what files of older runs say: the micro-batch, in sequences of full length."""
    training, data, text = (table.get(name, {}) for name in ("training", "data", "preparation"))
    if not all(isinstance(section, dict) for section in (training, data, text)):
        return
    text.pop(_GONE, None)
    size, length = training.pop("micro_batch_size", None), data.get("max_length", 64)
    if isinstance(size, int) and isinstance(length, int):
        training["micro_batch"] = size * length


def _read(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, its sections laid flat."""
    try:
        table = tomllib.loads(read_small(path, _MOST_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the config file {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be TOML: {error}.") from error
    _rename_old(table)
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if name in ("preset", "recipe"):
            if not isinstance(value, str):
                raise ConfigError(f"{path}: `{name}` must be a name; got {value!r}.")
            flat[name] = value
        elif name not in SECTIONS or not isinstance(value, dict):
            raise ConfigError(f"{path}: no section [{name}]; {nearest(name, SECTIONS)}")
        else:
            for entry in value:
                if section_of(entry) != name:
                    raise ConfigError(f"{path}: `{entry}` belongs in [{section_of(entry)}].")
            flat |= value
    return flat
