"""A store from its corpus: what is there is kept, what is missing is made, the manifest comes last.

tokenizer/  train/  validation/  corpus.json  manifest.json
.work/      while it is not finished: plan.json, counts of finished pieces, duplicates
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bertsmith.config import TOKENIZERS, PreparationConfig
from bertsmith.corpus import (
    BAD_ROW,
    FEWEST_TO_JUDGE,
    NUM_ROWS,
    Columns,
    Corpus,
    Rules,
    Splitter,
    absolute_names,
    open_corpus,
    refuse_bad_rows,
)
from bertsmith.corpus.cache import cache_folder
from bertsmith.data.disk import (
    FORMAT,
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    SPLITS,
    TOKENIZER_FOLDER,
    Manifest,
    SplitEntry,
    StoreFolder,
    is_store,
    open_store,
    tokenizer_digest,
    total_counts,
    write_frequencies,
)
from bertsmith.display import Display
from bertsmith.durable import make_folder, remove_leftovers, whole_folder, write_text
from bertsmith.errors import BertsmithError, DataError
from bertsmith.preparation.duplicates import find_duplicates, fingerprint_part
from bertsmith.preparation.engines import Engine, run_all
from bertsmith.preparation.report import report_json
from bertsmith.preparation.vocabulary import given_tokenizer, measure_vocabulary, train_tokenizer
from bertsmith.preparation.work import (
    NO_LENGTH,
    Job,
    Piece,
    dropped_file,
    finished_pieces,
    make_progress_marks,
    pieces_by_part,
    work_on_part,
)
from bertsmith.tokenizer import Tokenizer

CORPUS_FILE = "corpus.json"
_LOCK_FILE = ".lock"
_WORK_FOLDER = ".work"
_PLAN_FILE = "plan.json"

_UNFINISHED = r"\.[^/]+\.(part|old)(/[^/]+)*"
_OURS = re.compile(
    rf"({MANIFEST_FILE}|{CORPUS_FILE}|\.lock|{_UNFINISHED}"
    rf"|{TOKENIZER_FOLDER}/(tokenizer\.json|tokenizer_config\.json|SHA256SUMS)"
    rf"|({'|'.join(SPLITS)})/(\d{{6}}-\d{{3}}\.arrow|{FREQUENCIES_FILE}|{_UNFINISHED})"
    rf"|\{_WORK_FOLDER}/(.+/)?({_PLAN_FILE}|progress\.bin|[\d-]+\.json|[\w-]+\.npy|{_UNFINISHED}))"
)
"""Files that a preparation writes; only these are ever removed."""

_RULE_LIBRARIES = ("bertsmith", "rensa", "sentencex", "tokenizers")
"""Whose versions decide what text becomes."""


def finished_store(corpus: Sequence[str]) -> StoreFolder | None:
    """The store that `corpus` names, if it names one and nothing else. Raises: `DataError`."""
    if len(corpus) != 1 or not is_store(Path(corpus[0])):
        return None
    return open_store(Path(corpus[0]))


def prepare_store(
    config: PreparationConfig,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    engine: Engine = "local",
    processes: int | None = None,
    display: Display | None = None,
) -> StoreFolder:
    """Turn a corpus into a token store, or find the one that was made of it before.

    What a process that died had finished is not done again. The store is the same, byte for byte,
    whatever the engine and the number of processes.

    Args:
        config: the text and all that is done to it.
        output: the store's folder: new, empty, or one that was begun with the same text and
            settings; default: one in the cache that is found again by its content.
        overwrite: replace a store that is in `output`.
        engine: processes of this machine, or a Ray cluster that reaches the same folders.
        processes: of this machine; default: one a processor.
        display: default: a silent one.

    Raises:
        BertsmithError: the text cannot be read, the folder holds something else, the disk is full.
    """
    display = display or Display(quiet=True)
    config = with_absolute_paths(config)
    if (store := finished_store(config.corpus)) is not None:
        if output is not None:
            raise DataError(f"{store.path} is a token store already; name the text it is to hold.")
        return store
    with display.stage("Opening the corpus") as progress:
        corpus = open_corpus(
            config.corpus,
            validation=config.validation,
            validation_fraction=config.validation_fraction,
            rules=rules_of(config),
            columns=columns_of(config),
            progress=lambda name, done, total: progress(done, total),
        )
        tokenizer = given_tokenizer(config)
        key = _key(config, corpus, tokenizer)
    folder = output or cache_folder() / "stores" / key[:32]
    with _written_to(folder), _locked(folder, waits=output is None, display=display):
        preparation = _Preparation(config, corpus, tokenizer, key, folder, display)
        if preparation.is_done(checks=output is not None, overwrite=overwrite):
            display.say(f"The text is prepared already: {folder}")
        else:
            preparation.make(engine, processes)
        return open_store(folder)


def with_absolute_paths(config: PreparationConfig) -> PreparationConfig:
    """The same text and settings, whatever folder they are named from."""
    tokenizer = config.tokenizer
    if tokenizer not in TOKENIZERS:
        (tokenizer,) = absolute_names([tokenizer])
    return replace(
        config,
        corpus=absolute_names(config.corpus),
        validation=absolute_names(config.validation),
        tokenizer=tokenizer,
    )


def rules_of(config: PreparationConfig) -> Rules:
    """What documents, paragraphs and sentences are, by the settings."""
    split = Splitter(config.sentences, config.language)
    return Rules(config.documents, config.paragraphs, split)


def columns_of(config: PreparationConfig) -> Columns:
    """How tables are read, by the settings."""
    return Columns(config.text_column, config.id_column, config.max_bad_rows)


class _Preparation:
    """One store in the making, under its lock."""

    def __init__(
        self,
        config: PreparationConfig,
        corpus: Corpus,
        tokenizer: Tokenizer | None,
        key: str,
        folder: Path,
        display: Display,
    ) -> None:
        self.config = config
        self.corpus = corpus
        self.given = tokenizer
        self.key = key
        self.folder = folder
        self.display = display
        self.job = Job(
            folder=folder,
            work=folder / _WORK_FOLDER / key[:16],
            tokenizer=folder / TOKENIZER_FOLDER,
            splits=corpus.splits,
        )

    def is_done(self, *, checks: bool, overwrite: bool) -> bool:
        """Whether the store is there; if not, the folder is made ready for it.

        Args:
            checks: whether every byte of a store that is there is looked at.
            overwrite: whether what is there may be removed.

        Raises:
            DataError: the folder holds something else.
        """
        self._refuse_strangers()
        begun = _key_of_plan(self.folder)
        if is_store(self.folder) and not overwrite:
            store = open_store(self.folder)
            if store.manifest.key != self.key:
                raise DataError(
                    f"{self.folder} holds a store of another text or other settings; name another "
                    "folder with --output, or replace it with --overwrite."
                )
            damaged = store.damage() if checks else []
            if not damaged and store.is_complete():
                return True
            names = ", ".join(damaged[:3])
            self.display.warn(f"{self.folder} is damaged ({names}): making it anew.")
        elif begun == self.key and not overwrite:
            return False
        elif begun and not overwrite:
            raise DataError(
                f"{self.folder} was begun with another text or other settings; name another folder "
                "with --output, or begin anew with --overwrite."
            )
        self._clear()
        return False

    def _refuse_strangers(self) -> None:
        """Refuse a folder with files that no preparation writes: others are never removed."""
        strange = sorted(
            str(name)
            for path in self.folder.rglob("*")
            if not path.is_dir() or path.is_symlink()
            if not _OURS.fullmatch(str(name := path.relative_to(self.folder)))
        )
        if strange:
            raise DataError(
                f"The output folder {self.folder} must be empty or a store; it has other files "
                f"({', '.join(strange[:3])})."
            )

    def _clear(self) -> None:
        """Remove a store, or what was begun of one."""
        entries = sorted(path for path in self.folder.iterdir() if path.name != _LOCK_FILE)
        # What says that it is a store goes first.
        for path in sorted(entries, key=lambda path: path.name != MANIFEST_FILE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def make(self, engine: Engine, processes: int | None) -> None:
        """Make what is missing."""
        work = self.job.work
        make_folder(work.parent)
        write_text(work.parent / _PLAN_FILE, json.dumps({"key": self.key}))
        for folder in (work / "pieces", *(self.folder / split for split in self.corpus.splits)):
            make_folder(folder)
        if self.config.deduplicate != "none":
            self._find_duplicates(engine, processes)
        if not self.job.tokenizer.is_dir():
            with self.display.stage("Building the vocabulary"):
                tokenizer = self.given or train_tokenizer(
                    self.config, self.corpus, self.job, engine=engine, processes=processes
                )
                with whole_folder(self.job.tokenizer) as target:
                    tokenizer.save(target)
        pieces = self._work(engine, processes)
        self._finish(pieces)
        shutil.rmtree(work.parent)

    def _find_duplicates(self, engine: Engine, processes: int | None) -> None:
        near = self.config.deduplicate == "near"
        parts = self.corpus.parts
        if all(dropped_file(self.job, number).is_file() for number in range(len(parts))):
            return
        similarity = self.config.near_duplicate_similarity if near else None
        tasks = [(self.job, number, part, similarity) for number, part in enumerate(parts)]
        with self.display.stage("Looking for duplicates") as progress:
            done = 0
            size = sum(part.size for part in parts)
            work = run_all(fingerprint_part, tasks, engine=engine, processes=processes, size=size)
            with contextlib.closing(work):
                for count in work:
                    done += count
                    progress(done, 0)
            find_duplicates(self.job, len(parts), similarity)

    def _work(self, engine: Engine, processes: int | None) -> list[Piece]:
        """All pieces, in the corpus's order."""
        parts = self.corpus.parts
        pieces: list[Piece] = []
        tasks = []
        for number, part in enumerate(parts):
            if (done := finished_pieces(self.job, number)) is not None:
                pieces += done
            else:
                tasks.append((self.job, number, part))
        if pieces:
            self.display.say(f"{len(parts) - len(tasks)} of {len(parts)} parts are there already.")
        marks = np.memmap(make_progress_marks(self.job, len(parts)), dtype=np.int64, mode="r")
        size = sum(part.size for _, _, part in tasks)
        told: set[str] = set()
        with self.display.stage("Tokenizing (MB)") as progress:

            def look() -> None:
                progress(int(marks.sum()) // 10**6, size // 10**6)

            work = run_all(
                work_on_part, tasks, engine=engine, processes=processes, size=size, look=look
            )
            judge = _RowJudge(self.corpus.name, columns_of(self.config), len(parts))
            for found in pieces_by_part(pieces):
                judge.add(found)
            with contextlib.closing(work):
                for found in work:
                    pieces += found
                    look()
                    for text in (text for piece in found for text in piece.warnings):
                        # Of one kind in one file, one is enough.
                        kind = text.partition(", row ")[0] + text.rpartition(": ")[2]
                        if kind not in told:
                            told.add(kind)
                            warnings.warn(text, stacklevel=2)
                    judge.add(found)
        judge.end()
        return sorted(pieces, key=lambda piece: (piece.part, piece.number))

    def _finish(self, pieces: list[Piece]) -> None:
        """The manifest, and what it lists."""
        for folder in (self.folder, *(self.folder / split for split in self.corpus.splits)):
            remove_leftovers(folder, lambda name: True)
        tokenizer = Tokenizer.load(self.job.tokenizer, default_max_length=NO_LENGTH)
        splits, counts = {}, {}
        for split in self.corpus.splits:
            shards = [piece.shards[split] for piece in pieces if split in piece.shards]
            counts[split] = total_counts([piece.counts[split] for piece in pieces])
            if not shards:
                with contextlib.suppress(OSError):
                    (self.folder / split).rmdir()
                continue
            entry = SplitEntry(shards=shards, frequencies_sha256="")
            manifest = self._manifest(tokenizer, {split: entry}, {})
            path = self.folder / split / FREQUENCIES_FILE
            empty = np.zeros(tokenizer.vocab_size, dtype=np.int64)
            write_frequencies(empty, path)
            store = StoreFolder(self.folder, manifest).split(split)
            found = sum(
                (
                    np.bincount(shard.ids, minlength=tokenizer.vocab_size)
                    for shard, *_ in store.shards()
                ),
                empty,
            )
            splits[split] = SplitEntry(
                shards=shards, frequencies_sha256=write_frequencies(found, path)
            )
        if "train" not in splits:
            raise DataError(
                f"The corpus {self.corpus.name} must hold text to train on; it has none."
            )
        left_out = total_counts([piece.left_out for piece in pieces])
        report = self._report(tokenizer, splits, counts, left_out)
        manifest = self._manifest(tokenizer, splits, report)
        report["vocabulary"] = measure_vocabulary(
            StoreFolder(self.folder, manifest), dict(counts["train"])
        )
        write_text(self.folder / CORPUS_FILE, report_json(report))
        write_text(self.folder / MANIFEST_FILE, manifest.to_json().decode())

    def _report(
        self,
        tokenizer: Tokenizer,
        splits: dict[str, SplitEntry],
        counts: dict[str, Counter[str]],
        left_out: Counter[str],
    ) -> dict[str, Any]:
        """What corpus.json says."""
        num_rows = left_out.pop(NUM_ROWS, 0)
        return {
            "corpus": self.corpus.name,
            "vocabulary_entries": tokenizer.vocab_size,
            "sha256": {
                "tokenizer": tokenizer.sha256(),
                **{split: entry.digest for split, entry in splits.items()},
            },
            "splits": {split: dict(sorted(counts[split].items())) for split in splits},
            "rows_of_tables": num_rows,
            "left_out": dict(sorted(left_out.items())),
        }

    def _manifest(
        self, tokenizer: Tokenizer, splits: dict[str, SplitEntry], report: dict[str, Any]
    ) -> Manifest:
        return Manifest(
            format=FORMAT,
            key=self.key,
            id_type=np.dtype(tokenizer.id_type).name,
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer_digest(self.job.tokenizer),
            settings=asdict(self.config),
            report=report,
            splits=splits,
        )


class _RowJudge:
    """Ends a preparation that meets too many bad rows, whoever reads them in whatever order.

    Args:
        name: of the corpus.
        columns: how much may be bad.
        num_parts: of the corpus.
    """

    def __init__(self, name: str, columns: Columns, num_parts: int) -> None:
        self._name = name
        self._columns = columns
        self._waiting: dict[int, list[Piece]] = {}
        self._next = 0
        self._left_out: Counter[str] = Counter()

    def add(self, pieces: list[Piece]) -> None:
        """All pieces of a part. Raises: `CorpusError`, by what stands before the first gap."""
        self._waiting[pieces[0].part] = pieces
        while (found := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            for piece in found:
                self._left_out.update(piece.left_out)
            if self._left_out[NUM_ROWS] >= FEWEST_TO_JUDGE:
                self.end()

    def end(self) -> None:
        """Judge what there is. Raises: `CorpusError`."""
        bad = {
            reason.removeprefix(BAD_ROW): count
            for reason, count in self._left_out.items()
            if reason.startswith(BAD_ROW)
        }
        refuse_bad_rows(self._name, sum(bad.values()), self._left_out[NUM_ROWS], self._columns, bad)


def _key_of_plan(folder: Path) -> str:
    """The key of what was begun in a folder; empty if nothing was, or nobody knows what."""
    try:
        plan = json.loads((folder / _WORK_FOLDER / _PLAN_FILE).read_text("utf-8"))
        return str(plan["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _key(config: PreparationConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> str:
    """A digest of all that decides what is in a store: text, settings, the rules of libraries."""
    settings = asdict(config)
    for name in ("corpus", "validation"):  # where the text lies does not matter
        settings[name] = len(settings[name])
    if tokenizer is not None:
        settings["tokenizer"] = tokenizer.sha256()
    about = {
        "format": FORMAT,
        "settings": settings,
        "splits": corpus.splits,
        "pretokenized": corpus.pretokenized,
        "content": [digest() for digest in corpus.content],
        "libraries": {name: version(name) for name in _RULE_LIBRARIES},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@contextmanager
def _locked(folder: Path, *, waits: bool, display: Display) -> Iterator[None]:
    """The lock of a store's folder, which is made if it is not there."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"The output {folder} must be a folder; it is a file.")
    is_new = not folder.exists()
    make_folder(folder)
    lock = FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        if not waits:
            raise DataError(f"{folder} is in use by another process; name another.") from error
        display.say("Another process prepares this text; waiting for it.")
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        # Not in the cache, where another process may wait for this very lock.
        if is_new and not waits and not any(path.name != _LOCK_FILE for path in folder.iterdir()):
            with contextlib.suppress(OSError):
                (folder / _LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except BertsmithError:
        raise
    except OSError as error:
        raise DataError(
            f"Cannot write to {folder}: {error.strerror or error}. What is finished is kept: run "
            "the same command again to go on."
        ) from error
