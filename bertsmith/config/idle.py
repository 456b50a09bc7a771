"""Settings that change nothing beside others.

Who asks for one expects a difference, and would take two equal runs for the result of an
experiment. So it is refused where it is asked for (a flag, a keyword), not where a preset, a recipe
or a file has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertsmith.config.fields import Given, rules_of
from bertsmith.config.schema import SECTIONS, PretrainConfig
from bertsmith.errors import ConfigError


def refuse_idle(asked: Mapping[str, Any], config: PretrainConfig) -> None:
    """Raise `ConfigError` if one of the settings that were asked for changes nothing.

    Args:
        asked: by name; None is what was not asked for.
        config: all settings, as they are in the end.
    """
    sections = [getattr(config, section) for section in SECTIONS]
    settings = {name: value for section in sections for name, value in vars(section).items()}
    for section in sections:
        for name, rules in rules_of(type(section)).items():
            if asked.get(name) is None:
                continue
            for other, values in rules.needs.items():
                if settings[other] not in values:
                    shown = settings[other]
                    shown = ", ".join(shown) if isinstance(shown, tuple) else shown
                    raise ConfigError(
                        f"`{name}` changes nothing where `{other}` is {shown}; "
                        f"leave it out, or {_remedy(other, values)}."
                    )


def _remedy(setting: str, values: Sequence[Any] | Given) -> str:
    if isinstance(values, Given):
        return f"give `{setting}`"
    if not isinstance(values[0], str):
        return f"leave out `{setting}`"
    *others, last = values
    return f"choose {', '.join(others)} or {last}" if others else f"choose {last}"
