"""What stands beside the default of a setting: its bounds, and what of it commands must know."""

from __future__ import annotations

import codecs
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from bertsmith.errors import ConfigError

_T = TypeVar("_T")

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


class Given:
    """Any value of a setting but None."""

    def __contains__(self, value: object) -> bool:
        return value is not None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for a setting, beside its type."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    choices: Sequence[str] | None = None
    """Words that it may be; what is registered later comes to them. A `Literal` of the package's
    own beside them is what the command line lists."""
    needs: Mapping[str, Sequence[Any] | Given] = field(default_factory=dict)
    """Other settings, and the values of each with which this one changes anything."""
    may_change: bool = False
    """Whether a resumed run may have it otherwise than before."""

    def allow(self, value: float) -> bool:
        """Whether a number is within the bounds."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def describe(self) -> str:
        """The bounds, as what follows "must": "be at least 0 and under 1"."""
        if self.ge == 0 and self.lt is None and self.le is None:
            return "not be negative"
        bounds = {"over": self.gt, "at least": self.ge, "under": self.lt, "at most": self.le}
        parts = (f"{word} {_number(at)}" for word, at in bounds.items() if at is not None)
        return f"be {' and '.join(parts)}"


def _number(bound: float) -> str:
    is_large_power = isinstance(bound, int) and bound >= 2**20 and bound.bit_count() == 1
    return f"2**{int(bound).bit_length() - 1}" if is_large_power else str(bound)


def parse_counts(name: str, texts: Iterable[str]) -> tuple[int, ...]:
    """Numbers such as 1M, 2.5k or 300000, one a text or several parted by commas; sorted.

    Raises:
        ConfigError: of the setting `name`; one is no such number.
    """
    found = set()
    for text in (part.strip() for one in texts for part in one.split(",") if part.strip()):
        parsed = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kMB]?)", text)
        number = round(float(parsed[1]) * _UNITS[parsed[2]]) if parsed else 0
        if number < 1:
            raise ConfigError(
                f"`{name}` must be numbers such as 300000, 500k or 10M; got {text!r}."
            )
        found.add(number)
    return tuple(sorted(found))


def setting(
    default: _T,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: Sequence[str] | None = None,
    needs: Mapping[str, Sequence[Any] | Given] | None = None,
    may_change: bool = False,
) -> _T:
    """A field of a section with its default and its rules.

    Args:
        default: its value where nothing else is said.
        gt, ge, lt, le: the bounds of a number: greater than, greater or equal, less than, less or
            equal. None and words ("auto") are not held to them.
        choices, needs, may_change: see `Rules`.
    """
    rules = Rules(
        gt=gt, ge=ge, lt=lt, le=le, choices=choices, needs=needs or {}, may_change=may_change
    )
    return field(default=default, metadata={"rules": rules})


def rules_of(cls: type) -> dict[str, Rules]:
    """The rules of each field of a section, by name."""
    return {entry.name: entry.metadata.get("rules", Rules()) for entry in fields(cls)}


def types_of(cls: type) -> dict[str, Any]:
    """The type of each field of a section, by name."""
    hints = typing.get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls)}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest known ones, or all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."


def check(config: object) -> None:
    """Hold every field to its type and its bounds, and turn a whole number into a float where due.

    TOML and Python callers are not held to annotations by anyone else; a string where a number
    belongs would otherwise surface as a traceback deep in training.
    """
    all_rules = rules_of(type(config))
    for name, expected in types_of(type(config)).items():
        if typing.get_origin(expected) is not Literal or all_rules[name].choices is None:
            _check_type(config, name, expected)
    for name, rules in all_rules.items():
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else (value,):
            if rules.choices is not None and one not in rules.choices:
                near = nearest(str(one), rules.choices)
                raise ConfigError(f"`{name}` has no choice {one!r}; {near}")
        if isinstance(value, int | float) and not rules.allow(value):
            raise ConfigError(f"`{name}` must {rules.describe()}; got {value}.")


def _check_type(config: object, name: str, expected: Any) -> None:
    value = getattr(config, name)
    options = typing.get_args(expected)
    if typing.get_origin(expected) is Literal:
        if value not in options:
            raise ConfigError(f"`{name}` has no choice {value!r}; {nearest(str(value), options)}")
        return
    if expected == tuple[int, ...]:
        numbers = [value] if isinstance(value, int) else value
        if not isinstance(numbers, list | tuple) or not all(
            isinstance(number, int) and not isinstance(number, bool) for number in numbers
        ):
            raise ConfigError(f"`{name}` must be whole numbers; got {value!r}.")
        object.__setattr__(config, name, tuple(numbers))
        return
    if expected == tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(
            isinstance(text, str) and text for text in texts
        ):
            raise ConfigError(f"`{name}` must be names or paths, none empty; got {value!r}.")
        object.__setattr__(config, name, tuple(texts))
        return
    if value is None and type(None) in options:
        return
    words = [word for option in options for word in typing.get_args(option)]
    if value in words:
        return
    kind = next((option for option in options if option is not type(None)), expected)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        object.__setattr__(config, name, value := float(value))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"`{name}` must be of type {kind.__name__}; got {value!r}.")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"`{name}` must be a finite number; got {value}.")


def encoding_name(name: str) -> str:
    """Python's own name of an encoding of text. Raises: `ConfigError`."""
    try:
        "text".encode(name)  # encodings that are not of text are refused here
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"`encoding` must be an encoding of text such as windows-1252, utf-16, gbk or "
            f"shift_jis; got {name!r}."
        ) from error
