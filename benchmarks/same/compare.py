"""What differs between two folders of runs, but for times, rates and memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

IGNORED_FIELDS = frozenset(
    {
        # Times.
        *("seconds", "first_step_seconds", "phase_seconds"),
        # Rates.
        *("sentence_pairs_per_second", "segments_per_second", "tokens_per_second"),
        *("flops_per_second", "peak_flops_per_second", "share_of_peak"),
        # Memory.
        "peak_memory_bytes",
        # The length of metrics.jsonl, in which times and rates have more or fewer digits.
        "metrics_bytes",
    }
)
"""Fields of JSON objects that depend on the clock or the memory, not on what is computed."""

IGNORED_CONTENT = frozenset({"curves.png", "curves.svg"})
"""Files that must be there, and that show rates, a date and random identifiers."""

CHECKSUMS = "SHA256SUMS"

_CHECKSUM_OF_JSON = re.compile(r"^\w+(?=\s.*\.json$)", re.MULTILINE)


def differences(
    before: Path, after: Path, *, ignored: frozenset[str] = IGNORED_FIELDS
) -> list[str]:
    """What differs between two folders, a line for each file; empty if nothing does.

    Checksums are said to differ only where the files beside them do not.

    Args:
        before, after: folders, whose files are compared by their relative paths. Where a text says
            in which of them it lies, it is not compared.
        ignored: names of fields of JSON objects that are left out, at any depth.
    """
    old, new = files_of(before), files_of(after)
    found = {}
    for name in sorted(old | new):
        if name not in new:
            found[name] = "gone"
        elif name not in old:
            found[name] = "new"
        elif change := _file_difference(name, before, after, ignored):
            found[name] = change
    others = {PurePosixPath(name).parent for name in found if not name.endswith(CHECKSUMS)}
    return [
        f"{name}: {change}"
        for name, change in found.items()
        if not (name.endswith(CHECKSUMS) and PurePosixPath(name).parent in others)
    ]


def files_of(folder: Path) -> set[str]:
    """The relative paths of all files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files}


def _file_difference(name: str, before: Path, after: Path, ignored: frozenset[str]) -> str | None:
    paths = before / name, after / name
    contents = [path.read_bytes() for path in paths]
    if contents[0] == contents[1] or paths[0].name in IGNORED_CONTENT:
        return None
    try:
        if name.endswith(".safetensors"):
            old, new = (load_file(path) for path in paths)
            return tensor_difference(old, new) or "the header differs"
        was, now = (
            content.decode().replace(str(folder), "")
            for content, folder in zip(contents, (before, after), strict=True)
        )
        if name.endswith((".json", ".jsonl")):
            return _json_difference(was, now, ignored)
        if name.endswith(CHECKSUMS):  # JSON may hold times
            was, now = (_CHECKSUM_OF_JSON.sub("of JSON", text) for text in (was, now))
        return _text_difference(was, now)
    except (ValueError, SafetensorError) as error:
        return f"the bytes differ, and one cannot be read ({error})"


def tensor_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str | None:
    """Which tensors differ in a bit, the first value that does, and by how much at most.

    Args:
        before, after: tensors of any shape and dtype, by name.
    """
    both = [name for name in before if name in after]
    kinds = {name: (_kind(before[name]), _kind(after[name])) for name in both}
    values = [
        name
        for name in both
        if kinds[name][0] == kinds[name][1]
        and not torch.equal(_bytes(before[name]), _bytes(after[name]))
    ]
    parts = [f"{name} is gone" for name in before if name not in after]
    parts += [f"{name} is new" for name in after if name not in before]
    parts += [f"{name} was {old}, is {new}" for name, (old, new) in kinds.items() if old != new]
    if values:
        parts.append(f"{len(values)} of {len(both)} tensors differ")
        parts.append(_first_value(values[0], before[values[0]], after[values[0]]))
        most = {name: _largest_difference(before[name], after[name]) for name in values}
        name = max(most, key=lambda name: (math.isnan(most[name]), most[name]))
        parts.append(f"largest absolute difference {most[name]:.3g} ({name})")
    return "; ".join(parts) or None


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _bytes(tensor: Tensor) -> Tensor:
    """uint8 [elements, bytes of one]."""
    return tensor.contiguous().reshape(-1, 1).view(torch.uint8)


def _first_value(name: str, before: Tensor, after: Tensor) -> str:
    first = (_bytes(before) != _bytes(after)).any(dim=1).nonzero()[0, 0]
    place = [int(index) for index in torch.unravel_index(first, before.shape)]
    was, now = before.reshape(-1)[first].item(), after.reshape(-1)[first].item()
    return f"{name} {place} was {was!r}, is {now!r}"


def _largest_difference(before: Tensor, after: Tensor) -> float:
    return (before.double() - after.double()).abs().max().item()


def _json_difference(before: str, after: str, ignored: frozenset[str]) -> str | None:
    """Of two JSON texts, or texts with a JSON value a line."""
    old, new = (
        [dict(_fields(value, ignored)) for value in _json_values(text)] for text in (before, after)
    )
    absent: dict[str, str] = {}
    for number, (one, other) in enumerate(zip_longest(old, new, fillvalue=absent), 1):
        place = f"line {number}, " if max(len(old), len(new)) > 1 else ""
        for name in [*one, *other]:
            was, now = (fields.get(name, "absent") for fields in (one, other))
            if was != now:
                return f"{place}{name} was {was}, is {now}{_other_length(old, new)}"
        if list(one) != list(other):
            return f"{place}the order of fields"
    return None


def _json_values(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _fields(value: Any, ignored: frozenset[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Where each number, string and empty container stands, and it as JSON."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            if name not in ignored:
                yield from _fields(part, ignored, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _fields(part, ignored, f"{path}[{number}]")
    else:
        yield path, json.dumps(value)


def _text_difference(before: str, after: str) -> str | None:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for number, (was, now) in enumerate(zip_longest(old, new), 1):
        if was != now:
            return f"line {number} was {was!r}, is {now!r}{_other_length(old, new)}"
    return None


def _other_length(before: list[Any], after: list[Any]) -> str:
    return f"; {len(before)} lines became {len(after)}" if len(before) != len(after) else ""
