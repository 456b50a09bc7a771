"""The files in a folder, here or at an address; here links are followed, each place once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upath import UPath

from bertsmith.corpus.opened import File, told_errors

REPEATED = "links to files that are read already"


def visible_files(folder: Any) -> tuple[list[File], Counter[str]]:
    """The files in a folder and in those below it, sorted, but for hidden ones.

    What links lead to is read once: where it lies if that is in the folder, else where the first
    link to it is.

    Returns:
        The files, and counts of what was not followed, by reason.

    Raises:
        CorpusError: the folder cannot be read.
    """
    with told_errors(folder):
        if not isinstance(folder, UPath):
            return _Walk(folder).files()
        every: list[Any] = sorted(folder.rglob("*"))
        return [file for file in every if _is_shown(file, folder) and file.is_file()], Counter()


def each_once(paths: Sequence[Path | UPath]) -> tuple[list[Path | UPath], Counter[str]]:
    """What a pattern matches, in its order, without what a link leads to and is matched before.

    Returns:
        The paths, and counts of what was left out, by reason.
    """
    first: dict[str, Path | UPath] = {}
    for path in paths:
        real = real_name(path)
        if real not in first or real == str(path.absolute()):  # rather where it lies than a link
            first[real] = path
    kept = set(first.values())
    num_links = len(paths) - len(kept)
    left_out = Counter({REPEATED: num_links} if num_links else {})
    return [path for path in paths if path in kept], left_out


def real_name(path: Path | UPath) -> str:
    """Where a path leads to; of an address, itself."""
    return str(path) if isinstance(path, UPath) else os.path.realpath(path)


def _is_shown(file: Any, folder: Any) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


class _Walk:
    """Goes through a folder, and then through what the links in it lead to."""

    def __init__(self, top: Path) -> None:
        self._files: list[Path] = []
        self._links: list[Path] = []
        """To files."""
        self._seen: set[str] = set()
        """Folders, as they are called without links."""
        self._left_out: Counter[str] = Counter()
        waiting = [top]
        while waiting:
            waiting = sorted(link for folder in waiting for link in self._folder(folder))

    def files(self) -> tuple[list[File], Counter[str]]:
        """All files, sorted; and what was not followed."""
        known = {os.path.realpath(file) for file in self._files} if self._links else set()
        for link in sorted(self._links):
            target = os.path.realpath(link)
            if target in known:
                self._left_out[REPEATED] += 1
            elif link.is_file():
                known.add(target)
                self._files.append(link)
            elif not link.exists():
                self._left_out["links that lead nowhere"] += 1
        return [*sorted(self._files)], self._left_out

    def _folder(self, top: Path) -> list[Path]:
        """Add what lies in a folder; gives the links to folders in it."""
        if os.path.realpath(top) in self._seen:
            self._left_out["linked folders that are read already"] += 1
            return []
        found: list[Path] = []
        for folder, below, names in os.walk(top, onerror=self._cannot_read):
            real = os.path.realpath(folder)
            if real in self._seen:
                below.clear()
                continue
            self._seen.add(real)
            shown = [Path(folder, name) for name in sorted(below) if not name.startswith(".")]
            found += [path for path in shown if path.is_symlink()]
            below[:] = [path.name for path in shown if not path.is_symlink()]
            files = [Path(folder, name) for name in names if not name.startswith(".")]
            self._links += [path for path in files if path.is_symlink()]
            self._files += [path for path in files if not path.is_symlink() and path.is_file()]
        return found

    def _cannot_read(self, error: OSError) -> None:
        self._left_out["folders that cannot be read"] += 1
