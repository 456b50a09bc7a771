"""The tensors of a folder, in one safetensors file or in several that an index names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertsmith.errors import ModelError

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_MOST_FILES = 256
_FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them


class StoredTensors:
    """Tensors of open files by name; none is in memory before it is asked for.

    Args:
        files: open safetensors files by their paths.
        name_of: what a tensor is called here, by its name in a file.

    Raises:
        ModelError: two tensors have one name.
    """

    def __init__(self, files: Mapping[Path, Any], name_of: Callable[[str], str]) -> None:
        self._places: dict[str, tuple[Path, Any, str]] = {}
        for path, file in files.items():
            for stored in file.keys():  # noqa: SIM118 (no mapping)
                name = name_of(stored)
                if name in self._places:
                    other, _, before = self._places[name]
                    raise ModelError(
                        f"{path} must not hold {name} a second time; it is {stored} there and "
                        f"{before} in {other.name}."
                    )
                self._places[name] = (path, file, stored)
        self._where = ", ".join(str(path) for path in files) or "the folder"

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._places)

    def tensor(self, name: str, shape: list[int]) -> Tensor:
        """One tensor as it is stored. Raises: `ModelError` if it is missing, or not such floats."""
        if name not in self._places:
            raise ModelError(f"{self._where} must hold {name}; it does not.")
        path, file, stored = self._places[name]
        try:
            entry = file.get_slice(stored)
            if entry.get_dtype() not in _FLOATS:
                raise ModelError(f"{path}: {name} must be of {_FLOATS}; got {entry.get_dtype()}.")
            if (found := list(entry.get_shape())) != shape:
                raise ModelError(
                    f"{path}: {name} must have shape {shape} by the config; got {found}."
                )
            value: Tensor = file.get_tensor(stored)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{path} is damaged: {error}.") from error
        return value

    def path_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._places[name][0]


@contextmanager
def opened(
    folder: Path, names: Mapping[str, set[str] | None], name_of: Callable[[str], str]
) -> Iterator[StoredTensors]:
    """Open the safetensors files of a folder.

    Args:
        folder: where they lie.
        names: of the files; and of the tensors that each must hold, and no others, if that is said.
        name_of: as in `StoredTensors`.

    Raises:
        ModelError: a file is missing, damaged, or holds other tensors than it should.
    """
    files = {}
    with ExitStack() as stack:
        for name, expected in names.items():
            path = folder / name
            if not path.is_file():
                raise ModelError(f"The folder {folder} must hold {name}; it does not.")
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                found = set(file.keys())
            # PyTorch opens the file a second time, and it may be gone since.
            except (SafetensorError, OSError, RuntimeError) as error:
                raise ModelError(f"{path} is damaged: {error}.") from error
            if expected is not None and (wrong := sorted(expected ^ found)):
                has = "lacks" if wrong[0] in expected else "has beside them"
                raise ModelError(
                    f"{path} must hold the tensors that the index gives it; it {has} {wrong[0]}."
                )
            files[path] = file
        yield StoredTensors(files, name_of)


def files_of_index(path: Path, index: Mapping[str, Any]) -> dict[str, set[str] | None]:
    """Names of the files in an index, and of the tensors of each.

    Raises:
        ModelError: it is no index, or names something else than a file in its folder.
    """
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{path} must have a `weight_map` of tensors and files; it has none.")
    found: dict[str, set[str] | None] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ModelError(
                f"{path}: {tensor} must be in a safetensors file beside the index; got {name!r}."
            )
        found[name] = {tensor, *(found.get(name) or ())}
    if len(found) > _MOST_FILES:
        raise ModelError(f"{path} must name at most {_MOST_FILES} files; it names {len(found)}.")
    return found
