"""A token store as a folder, of which nothing is handed out before it was checked.

The format is written down in docs/data-format.md. Shards are mapped, not read: what is in memory is
what training has touched, and the system may take it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from bertsmith.data.manifest import (
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    TOKENIZER_FOLDER,
    DamagedFileError,
    Manifest,
    ShardEntry,
)
from bertsmith.data.shards import (
    Stamp,
    checked_digest,
    open_shard,
    read_frequencies,
    tokenizer_digest,
)
from bertsmith.data.store import Shard, TokenStore
from bertsmith.errors import DataError
from bertsmith.processes import num_processors
from bertsmith.random_bits import Int64
from bertsmith.tokenizer import Tokenizer

_MEGABYTE = 10**6


@dataclass(frozen=True)
class StoreFolder:
    """A store that is on disk.

    What it hands out was checked once before: each byte against the manifest's checksums, and that
    offsets rise and ids are in the vocabulary, which a stranger's checksums do not say.
    """

    path: Path
    manifest: Manifest
    checks: bool = True
    """False: another process of this machine has just checked it, or it is not whole yet.

    A store that this process made is checked as well: `refuse_changed` knows it by that.
    """
    _stamps: dict[str, Stamp] = field(default_factory=dict, repr=False, compare=False)
    """Of the shards that were found whole."""

    def tokenizer(self, max_length: int) -> Tokenizer:
        """That of the store, for sequences of at most `max_length` tokens. Raises: `DataError`."""
        if self.checks:
            with self._advising():
                self._check_tokenizer()
        folder = self.path / TOKENIZER_FOLDER
        found = Tokenizer.load(folder, default_max_length=max_length)
        if found.vocab_size != self.manifest.vocab_size:
            raise DataError(
                f"{folder} must have the {self.manifest.vocab_size} entries of the manifest; it "
                f"has {found.vocab_size}."
            )
        return found

    def split(self, name: str) -> TokenStore:
        """One of `manifest.splits`; its shards are checked when the first one is asked for.

        Raises:
            DataError: a file is missing, or not as long as it was.
        """
        entries = self.manifest.splits[name].shards
        with self._advising():
            for entry in entries:
                self._check_length(entry)

        return TokenStore(
            [entry.size for entry in entries],
            partial(self._open_shard, name),
            digest=self.manifest.splits[name].digest,
            frequencies=self.frequencies(name),
        )

    def _open_shard(self, split: str, number: int) -> Shard:
        entry = self.manifest.splits[split].shards[number]
        if entry.file not in self._stamps:
            self.check([split])
        with self._advising():
            return open_shard(self.path / entry.file, self.manifest.id_type, entry.size)

    def frequencies(self, split: str) -> Int64:
        """How often each entry stands in a split, int64 [vocab_size]. Raises: `DataError`."""
        with self._advising():
            return self._read_frequencies(split)

    def check(
        self,
        splits: Iterable[str] | None = None,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Check what was not checked yet, with all processors.

        Args:
            splits: of which shards and frequencies; None: all of the store.
            progress: told megabytes done and in all.

        Raises:
            DataError: something is damaged, or cannot be read.
        """
        if self.checks and (damaged := self.damage(splits, progress=progress)):
            raise self._error(damaged)

    def damage(
        self,
        splits: Iterable[str] | None = None,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str]:
        """What is wrong with the store, a file each; see `check`.

        Raises:
            DataError: a file cannot be read; whether it is damaged is not known.
        """
        checks: list[tuple[Callable[[], object], int]] = []
        for split in self.manifest.splits if splits is None else splits:
            for entry in self.manifest.splits[split].shards:
                if entry.file not in self._stamps:
                    checks.append((partial(self._check_shard, entry), entry.bytes))
            checks.append((partial(self._read_frequencies, split), 0))
        if splits is None:
            checks.append((self._check_tokenizer, 0))
        return _all_said(checks, progress)

    def refuse_changed(self) -> None:
        """Refuse a store of which a file has changed since it was checked.

        Files whose size, time and place are as they were are taken to be the same; others are read
        again. What was removed is still there for who has it mapped, and is no change.

        Raises:
            DataError: a file has other bytes.
        """
        changed: list[tuple[ShardEntry, Stamp]] = []
        for entry in chain.from_iterable(split.shards for split in self.manifest.splits.values()):
            before = self._stamps.get(entry.file)
            path = self.path / entry.file
            if before is not None and path.exists() and (now := Stamp.of(path)) != before:
                changed.append((entry, now))
        if damaged := _all_said([(partial(self._check_same, *e), e[0].bytes) for e in changed]):
            raise DataError(
                f"{damaged[0]}. Put it back, or prepare the text again into {self.path}, and go on "
                "by --resume."
            )

    @contextmanager
    def _advising(self) -> Iterator[None]:
        """Say of a damaged file what to do about it."""
        try:
            yield
        except DamagedFileError as damaged:
            raise self._error([str(damaged)]) from damaged

    def _error(self, damaged: Sequence[str]) -> DataError:
        others = f", and {len(damaged) - 1} more of the store are damaged" if damaged[1:] else ""
        return DataError(
            f"{damaged[0]}{others}. Put back what was there, or prepare the text again into "
            f"{self.path}."
        )

    def _check_length(self, entry: ShardEntry) -> None:
        path = self.path / entry.file
        if (size := Stamp.of(path).size) != entry.bytes:
            raise DamagedFileError(f"{path} must have {entry.bytes} bytes; it has {size}")

    def _check_shard(self, entry: ShardEntry) -> None:
        path = self.path / entry.file
        stamp = Stamp.of(path)
        self._check_length(entry)
        if checked_digest(path) != entry.sha256:
            raise DamagedFileError(f"{path} does not match its checksum")
        manifest = self.manifest
        open_shard(path, manifest.id_type, entry.size, vocab_size=manifest.vocab_size)
        self._stamps[entry.file] = stamp

    def _check_same(self, entry: ShardEntry, now: Stamp) -> None:
        path = self.path / entry.file
        if checked_digest(path) != entry.sha256:
            raise DamagedFileError(
                f"{path} must stay as it is while it is trained on; it was changed"
            )
        self._stamps[entry.file] = now

    def _check_tokenizer(self) -> None:
        folder = self.path / TOKENIZER_FOLDER
        if tokenizer_digest(folder) != self.manifest.tokenizer_sha256:
            raise DamagedFileError(f"{folder} does not match its checksum")

    def _read_frequencies(self, split: str) -> Int64:
        entry = self.manifest.splits[split]
        return read_frequencies(
            self.path / split / FREQUENCIES_FILE,
            entry.frequencies_sha256,
            self.manifest.vocab_size,
            entry.tokens,
        )


def is_store(path: Path) -> bool:
    """Whether `path` is the folder of a token store."""
    return (path / MANIFEST_FILE).is_file()


def open_store(path: Path, *, checks: bool = True) -> StoreFolder:
    """The store in a folder.

    Args:
        path: the folder.
        checks: see `StoreFolder.checks`.

    Raises:
        DataError: the manifest is damaged, or says what cannot be.
    """
    return StoreFolder(path, Manifest.read(path), checks)


def total_counts(parts: Sequence[dict[str, int]]) -> Counter[str]:
    """Counts of several pieces, added up; those of zero stay."""
    total: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items():
            total[name] += count
    return total


def _all_said(
    checks: Sequence[tuple[Callable[[], object], int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What `checks` say of damaged files, with the bytes that each reads; by all processors."""
    if not checks:
        return []
    done, total = 0, sum(size for _, size in checks)
    # Threads: neither hashing nor looking at arrays holds Python's lock.
    with ThreadPoolExecutor(num_processors(), thread_name_prefix="check") as pool:
        try:
            said = []
            for found, (_, size) in zip(
                pool.map(_said_by, [check for check, _ in checks]), checks, strict=True
            ):
                done += size
                progress(done // _MEGABYTE, total // _MEGABYTE)
                said += found
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return said


def _said_by(check: Callable[[], object]) -> list[str]:
    """Of a file that is damaged, how."""
    try:
        check()
    except DamagedFileError as damaged:
        return [str(damaged)]
    return []
