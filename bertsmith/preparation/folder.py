"""The folder of a store in the making: one process has it, and nothing else is in it.

token-store.json corpus.json tokenizer/ train/ …    the store, see docs/data-format.md
.work/plan.json                                     while it is not finished: its key
.work/<key>/                                        what is finished of it
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bertsmith.data.disk import StoreFolder, is_store, open_store
from bertsmith.data.manifest import (
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    SPLITS,
    TOKENIZER_FOLDER,
    DamagedFileError,
)
from bertsmith.display import Display
from bertsmith.durable import make_folder, read_small, remove, remove_leftovers, write_text
from bertsmith.errors import BertsmithError, DataError

CORPUS_FILE = "corpus.json"
WORK_FOLDER = ".work"
_PLAN_FILE = "plan.json"
_MOST_PLAN_BYTES = 2**16
_LOCK_FILE = ".lock"

_UNFINISHED = r"\.[^/]+\.(part|old)(/[^/]+)*"
_OURS = re.compile(
    rf"({MANIFEST_FILE}|{CORPUS_FILE}|\.lock|{_UNFINISHED}"
    rf"|{TOKENIZER_FOLDER}/(tokenizer\.json|tokenizer_config\.json|SHA256SUMS)"
    rf"|({'|'.join(SPLITS)})/(\d{{6}}-\d{{3}}\.arrow|{FREQUENCIES_FILE}|{_UNFINISHED})"
    rf"|\{WORK_FOLDER}/(.+/)?({_PLAN_FILE}|progress\.bin|[\d-]+\.json|[\w-]+\.npy|{_UNFINISHED}))"
)
"""Files that a preparation writes; only these are ever removed."""

_MARKLESS = re.compile(rf"\.lock|{_UNFINISHED}")
"""Those of them that may be there before anything says what they belong to."""


class OutputFolder:
    """The folder, under its lock; see `taken`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def finished(
        self, key: str, *, is_cache: bool, checks: bool, overwrite: bool, display: Display
    ) -> StoreFolder | None:
        """The store `key` if it is there, every byte checked; if not, the folder is ready for it.

        Args:
            key: of the store that is wanted.
            is_cache: whether nobody else put anything here: what is damaged is made anew.
            checks: False: another process of this machine has just checked it.
            overwrite: whether another store that is there may be removed.
            display: told of damage.

        Raises:
            DataError: the folder holds something else, or a file in it cannot be read.
        """
        if not is_cache:
            self._refuse_strangers()
        begun = self._key_of_plan()
        if is_store(self.path) and not overwrite:
            damaged, store = self._opened(key, is_cache=is_cache, checks=checks)
            if store is not None and checks:
                with display.stage("Checking the store (MB)") as progress:
                    damaged = store.damage(progress=progress)
            if store is not None and not damaged:
                self.end()
                return store
            display.warn(f"{damaged[0].rstrip('.')}: making {self.path} anew.")
        elif begun == key and not is_store(self.path):
            return None
        elif begun and not overwrite and any(self.path.glob(f"{WORK_FOLDER}/*/pieces/*.json")):
            raise DataError(
                f"{self.path} was begun with another text or other settings; name another folder "
                "with --output, or begin anew with --overwrite."
            )
        elif is_cache and (self.path / CORPUS_FILE).exists():
            display.warn(f"{self.path / MANIFEST_FILE} is missing: making {self.path} anew.")
        self._clear()
        return None

    def _opened(
        self, key: str, *, is_cache: bool, checks: bool
    ) -> tuple[list[str], StoreFolder | None]:
        """The store `key`; or what is wrong with it, if it may be made anew."""
        try:
            store = open_store(self.path, checks=checks)
        except DamagedFileError as damaged:
            if is_cache:
                return [str(damaged)], None
            raise DataError(
                f"{str(damaged).rstrip('.')}; --overwrite makes the store anew."
            ) from damaged
        if store.manifest.key == key:
            return [], store
        if is_cache:
            return [f"{self.path / MANIFEST_FILE} is of another text or other settings"], None
        raise DataError(
            f"{self.path} holds a store of another text or other settings; name another "
            "folder with --output, or replace it with --overwrite."
        )

    def _refuse_strangers(self) -> None:
        """Refuse a folder with files that no preparation writes: others are never removed."""
        names = sorted(
            str(path.relative_to(self.path))
            for path in self.path.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )
        strange = [name for name in names if not _OURS.fullmatch(name)]
        if not strange and not is_store(self.path) and not (self.path / WORK_FOLDER).is_dir():
            # Names such as ours prove nothing where nothing says that a store was begun here.
            strange = [name for name in names if not _MARKLESS.fullmatch(name)]
        if strange:
            raise DataError(
                f"The output folder {self.path} must be empty or a store; it has other files "
                f"({', '.join(strange[:3])})."
            )

    def _clear(self) -> None:
        """Remove a store, or what was begun of one."""
        entries = [path for path in self.path.iterdir() if path.name != _LOCK_FILE]
        if not entries:
            return
        # What says that it is a store goes first, what says that it is ours last.
        make_folder(self.path / WORK_FOLDER)
        order = {MANIFEST_FILE: 0, WORK_FOLDER: 2}
        for path in sorted(entries, key=lambda path: order.get(path.name, 1)):
            remove(path)
        self.end()

    def begin(self, key: str) -> Path:
        """Write down what is being made here; gives the folder for what is unfinished."""
        make_folder(self.path / WORK_FOLDER)
        write_text(self.path / WORK_FOLDER / _PLAN_FILE, json.dumps({"key": key}))
        return self.path / WORK_FOLDER / key[:16]

    def remove_unfinished(self) -> None:
        """Remove the files that killed processes left half-written."""
        for folder in (self.path, *(self.path / split for split in SPLITS)):
            remove_leftovers(folder, lambda name: True)

    def end(self) -> None:
        """Remove what only an unfinished store needs."""
        shutil.rmtree(self.path / WORK_FOLDER, ignore_errors=True)

    def _key_of_plan(self) -> str:
        """The key of what was begun here; empty if nothing was, or nobody knows what."""
        path = self.path / WORK_FOLDER / _PLAN_FILE
        try:
            return str(json.loads(read_small(path, _MOST_PLAN_BYTES))["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


@contextmanager
def taken(folder: Path, *, waits: bool, say: Callable[[str], None]) -> Iterator[OutputFolder]:
    """The folder, which is made if it is not there, for one process at a time.

    Args:
        folder: of the store.
        waits: whether to wait for a process that has it.
        say: told of that.

    Raises:
        DataError: it is in use, is no folder, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"The output {folder} must be a folder; it is a file.")
    is_new = not folder.exists()
    make_folder(folder)
    lock = FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        if not waits:
            raise DataError(
                f"{folder} is in use by another process; wait for it, or name another."
            ) from error
        say("Another process prepares this text; waiting for it.")
        lock.acquire(timeout=-1)
    try:
        yield OutputFolder(folder)
    finally:
        # Not in the cache, where another process may wait for this very lock.
        if is_new and not waits and not any(path.name != _LOCK_FILE for path in folder.iterdir()):
            with contextlib.suppress(OSError):
                (folder / _LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """What the system refuses inside is turned into an error that names the folder."""
    try:
        yield
    except BertsmithError:
        raise
    except OSError as error:
        raise DataError(
            f"Cannot write to {folder}: {error.strerror or error}. What is finished is kept: run "
            "the same command again to go on."
        ) from error
