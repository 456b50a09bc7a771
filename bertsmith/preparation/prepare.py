"""A store from its corpus: what is there is kept, what is missing is made."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bertsmith.config import PreparationConfig
from bertsmith.corpus import NUM_ROWS, Corpus, open_corpus, without_totals
from bertsmith.corpus.cache import cache_folder
from bertsmith.data.disk import StoreFolder, is_store, open_store, total_counts
from bertsmith.data.manifest import (
    FORMAT,
    FREQUENCIES_FILE,
    MANIFEST_FILE,
    TOKENIZER_FOLDER,
    Manifest,
    SplitEntry,
)
from bertsmith.data.shards import open_shard, tokenizer_digest, write_frequencies
from bertsmith.display import Display
from bertsmith.durable import damage, make_folder, read_with_sum, whole_folder, write_text
from bertsmith.errors import DataError, TokenizerError
from bertsmith.extras import require
from bertsmith.preparation.bad_rows import RowJudge, refuse_unreadable
from bertsmith.preparation.duplicates import find_duplicates, fingerprint_part
from bertsmith.preparation.engines import Engine, run_all
from bertsmith.preparation.folder import CORPUS_FILE, OutputFolder, taken, written_to
from bertsmith.preparation.report import report_json
from bertsmith.preparation.settings import (
    columns_of,
    key_of,
    refuse_idle_columns,
    rules_of,
    with_absolute_paths,
)
from bertsmith.preparation.vocabulary import given_tokenizer, make_tokenizer, measure_vocabulary
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
from bertsmith.tokenizer.added import Extended

_SHOWN = 10  # tokens in a message


def finished_store(corpus: Sequence[str], *, checks: bool = True) -> StoreFolder | None:
    """The store that `corpus` names, if it names one and nothing else. Raises: `DataError`."""
    if len(corpus) != 1 or not is_store(Path(corpus[0])):
        return None
    return open_store(Path(corpus[0]), checks=checks)


def find_store(config: PreparationConfig) -> StoreFolder | None:
    """The store of a corpus if it is in the cache, or is what the corpus names.

    Raises:
        BertsmithError: the text cannot be read, or the manifest is damaged.
    """
    config = with_absolute_paths(config)
    if (store := finished_store(config.corpus)) is not None:
        return store
    given = given_tokenizer(config)
    key = key_of(config, _open(config), given and given.tokenizer)
    folder = _cached(key)
    return open_store(folder) if is_store(folder) else None


def prepare_store(
    config: PreparationConfig,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    engine: Engine = "local",
    processes: int | None = None,
    display: Display | None = None,
    checks: bool = True,
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
        checks: whether every byte of a store that is there is held against its checksums; False:
            another process of this machine has just done that.

    Raises:
        BertsmithError: the text cannot be read, a store that is named is damaged, the folder
            holds something else, the disk is full.
    """
    display = display or Display(quiet=True)
    config = with_absolute_paths(config)
    if (store := finished_store(config.corpus, checks=checks)) is not None:
        if output is not None:
            raise DataError(f"{store.path} is a token store already; name the text it is to hold.")
        if checks:
            with display.stage("Checking the store (MB)") as progress:
                store.check(progress=progress)
        return store
    with display.stage("Opening the corpus") as progress:
        corpus = _open(config, progress)
        given = given_tokenizer(config)
        key = key_of(config, corpus, given and given.tokenizer)
    if given is not None and config.add_tokens is not None:
        known = f"; in it already: {given.num_known:,}" if given.num_known else ""
        display.say(f"Tokens added to the tokenizer: {len(given.tokens):,}{known}.")
    folder = output or _cached(key)
    with written_to(folder), taken(folder, waits=output is None, say=display.say) as target:
        store = target.finished(
            key, is_cache=output is None, checks=checks, overwrite=overwrite, display=display
        )
        if store is not None:
            display.say(f"The text is prepared already: {folder}")
            return store
        preparation = _Preparation(config, corpus, given, key, target, display)
        preparation.make(engine, processes)
        return open_store(folder, checks=checks)


def _open(
    config: PreparationConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> Corpus:
    corpus = open_corpus(
        config.corpus,
        validation=config.validation,
        validation_fraction=config.validation_fraction,
        rules=rules_of(config),
        columns=columns_of(config),
        encoding=config.encoding,
        progress=lambda name, done, total: progress(done, total),
    )
    refuse_idle_columns(config, corpus)
    return corpus


def _cached(key: str) -> Path:
    """Where the store with this key lies in the cache, if it does."""
    return cache_folder() / "stores" / key[:32]


class _Preparation:
    """One store in the making, its folder taken."""

    def __init__(
        self,
        config: PreparationConfig,
        corpus: Corpus,
        given: Extended | None,
        key: str,
        target: OutputFolder,
        display: Display,
    ) -> None:
        self.config = config
        self.corpus = corpus
        self.given = given
        self.key = key
        self.target = target
        self.folder = target.path
        self.display = display
        self.job = Job(
            folder=target.path,
            work=target.begin(key),
            tokenizer=target.path / TOKENIZER_FOLDER,
            splits=corpus.splits,
        )

    def make(self, engine: Engine, processes: int | None) -> None:
        """Make what is missing."""
        splits = (self.folder / split for split in self.corpus.splits)
        for folder in (self.job.work / "pieces", *splits):
            make_folder(folder)
        if self.config.deduplicate == "near":
            require("dedup", "--deduplicate near")
        if self.config.deduplicate != "none":
            self._find_duplicates(engine, processes)
        if not self.job.tokenizer.is_dir() or damage(self.job.tokenizer) is not None:
            with self.display.stage("Building the vocabulary"):
                try:
                    tokenizer = make_tokenizer(
                        self.config,
                        self.corpus,
                        self.job,
                        self.given and self.given.tokenizer,
                        self.display,
                        engine=engine,
                        processes=processes,
                    )
                except TokenizerError:
                    refuse_unreadable(self.corpus)  # which may be why
                    raise
                with whole_folder(self.job.tokenizer) as target:
                    tokenizer.save(target)
        pieces = self._work(engine, processes)
        self._finish(pieces)
        self.target.end()

    def _find_duplicates(self, engine: Engine, processes: int | None) -> None:
        near = self.config.deduplicate == "near"
        parts = self.corpus.parts
        files = (dropped_file(self.job, number) for number in range(len(parts)))
        if all(read_with_sum(file) is not None for file in files):
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
            judge = RowJudge(self.corpus)
            for found in pieces_by_part(pieces):
                judge.add(found)
            with contextlib.closing(work):
                for found in work:
                    pieces += found
                    look()
                    for text in (text for piece in found for text in piece.warnings):
                        kind = text.rpartition(": ")[2]  # of one kind, one is enough
                        if kind not in told:
                            told.add(kind)
                            warnings.warn(text, stacklevel=2)
                    judge.add(found)
        judge.end()
        return sorted(pieces, key=lambda piece: (piece.part, piece.number))

    def _finish(self, pieces: list[Piece]) -> None:
        """The manifest, and what it lists."""
        self.target.remove_unfinished()
        tokenizer = Tokenizer.load(self.job.tokenizer, default_max_length=NO_LENGTH)
        splits, counts = {}, {}
        for split in self.corpus.splits:
            shards = [piece.shards[split] for piece in pieces if split in piece.shards]
            counts[split] = total_counts([piece.counts[split] for piece in pieces])
            if not shards:
                with contextlib.suppress(OSError):
                    (self.folder / split).rmdir()
                continue
            found = np.zeros(tokenizer.vocab_size, dtype=np.int64)
            for entry in shards:
                ids = open_shard(self.folder / entry.file, id_type(tokenizer), entry.size).ids
                found += np.bincount(ids, minlength=tokenizer.vocab_size)
            if split == "train":
                self._tell_of_unseen(found)
            digest = write_frequencies(found, self.folder / split / FREQUENCIES_FILE)
            splits[split] = SplitEntry(shards=shards, frequencies_sha256=digest)
        if "train" not in splits:
            raise DataError(
                f"The corpus {self.corpus.name} must hold text to train on; it has none."
            )
        left_out = total_counts([piece.left_out for piece in pieces])
        report = self._report(tokenizer, splits, counts, left_out)
        manifest = self._manifest(tokenizer, splits, report)
        own = StoreFolder(self.folder, manifest, checks=False)
        report["vocabulary"] = measure_vocabulary(own, self.config.tokenizer, dict(counts["train"]))
        write_text(self.folder / CORPUS_FILE, report_json(report))
        write_text(self.folder / MANIFEST_FILE, manifest.to_json().decode())

    def _tell_of_unseen(self, counts: npt.NDArray[np.int64]) -> None:
        """Say which of the added tokens the training text does not have."""
        added = self.given.tokens if self.given else []
        unseen = [
            token
            for token, count in zip(added, counts[len(counts) - len(added) :], strict=True)
            if not count
        ]
        if unseen:
            shown = ", ".join(unseen[:_SHOWN]) + (", …" if len(unseen) > _SHOWN else "")
            self.display.warn(
                "Nowhere in the training text, so that nothing is learned of them: "
                f"{len(unseen):,} of the {len(added):,} added tokens ({shown})."
            )

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
            "left_out": dict(sorted(without_totals(left_out).items())),
        }

    def _manifest(
        self, tokenizer: Tokenizer, splits: dict[str, SplitEntry], report: dict[str, Any]
    ) -> Manifest:
        return Manifest(
            format=FORMAT,
            key=self.key,
            id_type=id_type(tokenizer),
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer_digest(self.job.tokenizer),
            settings=asdict(self.config),
            report=report,
            splits=splits,
        )


def id_type(tokenizer: Tokenizer) -> Literal["uint16", "uint32"]:
    """What ids are stored in, as the manifest has it."""
    return "uint16" if tokenizer.id_type is np.uint16 else "uint32"
