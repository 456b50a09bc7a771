"""How flags are read: one parser for all commands, built by `tyro` from annotated dataclasses."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""

Flag = tyro.conf.FlagCreatePairsOff[bool]
"""Off unless it is given."""

Text = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
OptionalText = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "auto"]

LONGEST_SHOWN = 120
"""Characters of a text on a line."""

_PLAIN = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}

registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def _optional(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """`int | None` is a flag that takes a number; leaving it out is the way to say None."""
    options = typing.get_args(info.type)
    plain = [option for option in options if option is not types.NoneType]
    if len(plain) == len(options) or len(plain) != 1 or plain[0] not in _PLAIN:
        return None
    kind = plain[0]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=_PLAIN[kind],
        instance_from_str=lambda args: kind(args[0]),
        is_instance=lambda value: value is None or isinstance(value, kind),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def lines_of(path: Path) -> list[str]:
    """The lines of a text file without their ends. Raises: `CorpusError`."""
    from bertsmith.corpus.lines import read_lines

    return [line.rstrip("\r\n") for line in read_lines(path)]
