"""Stores, and tables of examples, that are not what was written: never trained on, made anew where
that loses nothing, and a clear line everywhere else.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import bertsmith
from bertsmith.config import DataConfig, PreparationConfig
from bertsmith.data import examples
from bertsmith.data.batches import Batches
from bertsmith.data.disk import StoreFolder, open_store
from bertsmith.data.manifest import FREQUENCIES_FILE, MANIFEST_FILE
from bertsmith.data.pairs import make_drawing
from bertsmith.data.shards import checked_digest, write_shard
from bertsmith.durable import damage
from bertsmith.errors import BertsmithError, CorpusError, DataError
from bertsmith.preparation import describe_text, describe_vocabulary, prepare_store
from bertsmith.ranks import Ranks
from bertsmith.training.checkpoint import Checkpoints
from tests.support.runs import TINY_RUN, result_of
from tests.support.stores import ACCIDENTS, config, content, sign
from tests.support.texts import make_documents, write_text

SHARD = "train/000000-000.arrow"
FREQUENCIES = f"train/{FREQUENCIES_FILE}"
FILES = (MANIFEST_FILE, SHARD, FREQUENCIES, "tokenizer/tokenizer.json")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", make_documents(60))


@pytest.fixture(scope="module")
def prepared(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store, never changed."""
    return prepare_store(config(text), tmp_path_factory.mktemp("store") / "store").path


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "store"))


def read(path: Path) -> StoreFolder:
    """Open a store and use all of it, as a run does."""
    found = prepare_store(PreparationConfig(corpus=(str(path),)))
    assert describe_text(found.manifest.report) + describe_vocabulary(found.manifest.report)
    train, data = found.split("train"), DataConfig(max_length=24)
    Batches(
        train,
        make_drawing(train, data, seed=0),
        found.tokenizer(24),
        batch_size=8,
        max_length=24,
        mlm_probability=0.15,
        seed=0,
    ).batch(0)
    return found


def with_another_id(path: Path) -> None:
    """Another entry of the vocabulary in the place of a third of the ids."""
    raw = bytearray(path.read_bytes())
    with pa.ipc.open_file(str(path)) as reader:
        ids = reader.get_batch(0).column("document").values.values.values.to_numpy()
    begin = bytes(raw).index(ids.tobytes())
    raw[begin : begin + 2 * (len(ids) // 3)] = ids[-1:].tobytes() * (len(ids) // 3)
    path.write_bytes(raw)


@pytest.mark.parametrize("kind", ACCIDENTS)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(file: str, kind: str, store: Path) -> None:
    ACCIDENTS[kind](store / file)
    if file == MANIFEST_FILE and not (store / file).is_file():
        # What is no store is a folder of texts, of which there are none.
        with pytest.raises(CorpusError, match=str(store)):
            read(store)
        return
    name = store / file.partition("/")[0] if file.startswith("tokenizer") else store / file
    with pytest.raises(DataError, match=f"{name}.*repare the text again") as caught:
        read(store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ACCIDENTS)
@pytest.mark.parametrize("file", FILES)
def test_the_cache_mends_itself(
    file: str, kind: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(text)
    # One that is there may be of the same text elsewhere, whose path it says.
    shutil.rmtree(prepare_store(settings).path)
    store = prepare_store(settings)
    whole = content(store.path)
    ACCIDENTS[kind](store.path / file)
    found = prepare_store(settings)
    assert found.path == store.path
    assert content(store.path) == whole
    assert f": making {store.path} anew." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "flipped", "a pipe"])
@pytest.mark.parametrize("file", FILES[1:])
def test_the_same_command_mends_a_store(file: str, kind: str, text: Path, store: Path) -> None:
    whole = content(store)
    ACCIDENTS[kind](store / file)
    prepare_store(config(text), store)
    assert content(store) == whole


def test_a_manifest_that_says_nothing_is_replaced_if_asked(text: Path, store: Path) -> None:
    whole = content(store)
    ACCIDENTS["flipped"](store / MANIFEST_FILE)
    with pytest.raises(DataError, match="--overwrite makes the store anew"):
        prepare_store(config(text), store)
    prepare_store(config(text), store, overwrite=True)
    assert content(store) == whole


def test_every_bit_counts(store: Path) -> None:
    draw = random.Random(0)
    for name in FILES * 10:
        path = store / name
        raw = path.read_bytes()
        place, bit = draw.randrange(len(raw)), 1 << draw.randrange(8)
        path.write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])
        with pytest.raises(DataError):
            read(store)
        path.write_bytes(raw)
    read(store)


@pytest.mark.parametrize("file", FILES)
def test_what_cannot_be_read_is_not_called_damaged(
    file: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare_store(config(text)).path
    refused = OSError(errno.EACCES, "Permission denied")
    plain = Path.open

    def deny(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == store / file:
            raise refused
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    before = sorted(store.rglob("*"))
    with pytest.raises(DataError, match=f"Cannot read {store / file}: Permission denied"):
        prepare_store(config(text))
    assert sorted(store.rglob("*")) == before


def test_a_manifest_may_be_written_by_others(store: Path) -> None:
    sign(store, lambda manifest: None)
    read(store)


@pytest.mark.parametrize("digest", [None, "", "0" * 63, "0" * 64])
def test_a_manifest_without_its_checksum_is_refused(digest: str | None, store: Path) -> None:
    manifest = json.loads((store / MANIFEST_FILE).read_text())
    del manifest["manifest_sha256"]
    if digest is not None:
        manifest["manifest_sha256"] = digest
    manifest["report"]["splits"]["train"]["documents"] += 1
    (store / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="does not match its own checksum"):
        read(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=1), "must be of format 2; it is of 1"),
        (lambda m: m.update(format="2"), "not the manifest"),
        (lambda m: m.pop("splits"), "not the manifest"),
        (lambda m: m["splits"].pop("train"), "must have the split train"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../x.arrow"), "which is none"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="/etc/0.arrow"), "which is none"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="test/0.arrow"), "which is none"),
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=-1), "not the manifest"),
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=2**64), "not the manifest"),
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=3), "must have the 3 tokens"),
        (lambda m: m["splits"]["train"]["shards"][0].update(documents=3), "must hold Size"),
        (lambda m: m["splits"]["train"]["shards"][0].update(sha256="0"), "not the manifest"),
        (lambda m: m.update(id_type="uint32"), "must hold ids of uint32"),
        (lambda m: m.update(id_type="float64"), "not the manifest"),
        (lambda m: m.update(vocab_size=7), "ids that its tokenizer has not"),
        (lambda m: m.update(vocab_size=10**12), "not the manifest"),
        (lambda m: m["splits"].update({"../x": m["splits"]["train"]}), "no others than"),
        (lambda m: m.update(report={}), "not the manifest"),
        (lambda m: m["report"].pop("splits"), "not the manifest"),
        (lambda m: m["report"]["splits"]["train"].pop("tokens"), "must have the tokens of train"),
        (lambda m: m["report"]["splits"]["train"].update(sentences="many"), "not the manifest"),
        (lambda m: m["report"]["splits"].pop("validation"), "must have the documents of val"),
        (lambda m: m["report"]["sha256"].update(train="0" * 64), "the checksum of train"),
        (lambda m: m["report"]["sha256"].pop("tokenizer"), "the checksum of the tokenizer"),
        (lambda m: m["report"].update(left_out={"rows": "all"}), "not the manifest"),
        (lambda m: m["report"].update(vocabulary=None), "not the manifest"),
        (lambda m: m["report"].update(corpus=["a"]), "not the manifest"),
        (lambda m: m.update(tokenizer_sha256="0" * 64), "does not match its checksum"),
    ],
)
def test_manifests_from_strangers_are_checked(change: Any, message: str, store: Path) -> None:
    sign(store, change)
    with pytest.raises(DataError, match=message) as caught:
        read(store)
    assert "\n" not in str(caught.value)


def with_shard(**arrays: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Write the first shard anew with other arrays, and what is right for them in the manifest."""

    def change(store: Path) -> None:
        shard = open_store(store).split("train").shard(0)
        changed = {name: make(getattr(shard, name)) for name, make in arrays.items()}
        write_shard(replace(shard, **changed), store / SHARD)
        sign(store, lambda manifest: None)

    return change


def with_bytes(name: str, make: Callable[[Any], Any]) -> Callable[[Path], None]:
    """The same for one array, written over the old one: Arrow would not make such a file."""

    def change(store: Path) -> None:
        array = getattr(open_store(store).split("train").shard(0), name)
        raw = (store / SHARD).read_bytes()
        assert raw.count(array.tobytes()) == 1
        (store / SHARD).write_bytes(raw.replace(array.tobytes(), make(array).tobytes()))
        sign(store, lambda manifest: None)

    return change


def falling(offsets: Any) -> Any:
    return np.concatenate([offsets[:3], offsets[2:0:-1], offsets[5:]])


def with_frequencies(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def make(store: Path) -> None:
        np.save(store / FREQUENCIES, change(np.load(store / FREQUENCIES)))
        sign(store, lambda manifest: None)

    return make


def as_parquet(store: Path) -> None:
    (store / SHARD).write_bytes(b"PAR1" + bytes(500) + b"PAR1")
    sign(store, lambda manifest: None)


def as_a_flat_list(store: Path) -> None:
    column = pa.array([[1, 2], [3]], pa.list_(pa.uint16()))
    batch = pa.record_batch({"document": column})
    with pa.OSFile(str(store / SHARD), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    sign(store, lambda manifest: None)


STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "ids beyond the vocabulary": (with_shard(ids=lambda a: a + np.uint16(9999)), "ids that its"),
    "ids of another type": (with_shard(ids=lambda a: a.astype(np.int32)), "must hold ids of"),
    "sentences that fall": (with_shard(sentence_offsets=falling), "sentence|shard"),
    "an empty sentence": (
        with_shard(sentence_offsets=lambda a: np.where(a == a[1], 0, a).astype(np.int32)),
        "a sentence that ends before it begins, or is empty",
    ),
    "paragraphs that fall": (with_shard(paragraph_offsets=falling), "paragraph|shard"),
    "documents that begin late": (
        with_shard(document_offsets=lambda a: np.maximum(a, 1).astype(np.int32)),
        "it holds Size",
    ),
    "sentences beyond the end": (
        with_bytes("sentence_offsets", lambda a: np.append(a[:-1], a[-1] * 2).astype(np.int32)),
        "no shard",
    ),
    "no Arrow": (as_parquet, "no shard"),
    "another shape": (as_a_flat_list, "no shard"),
    "negative counts": (with_frequencies(lambda a: a - 10**6), "add up to"),
    "other counts": (with_frequencies(lambda a: a + 1), "add up to"),
    "counts of another type": (with_frequencies(lambda a: a.astype(float)), "counts of int64"),
    "too few counts": (with_frequencies(lambda a: a[1:]), "must have .* bytes"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_files_from_strangers_are_checked(kind: str, store: Path) -> None:
    change, message = STRANGE[kind]
    change(store)
    with pytest.raises(DataError, match=message) as caught:
        read(store)
    assert "\n" not in str(caught.value)
    assert str(store) in str(caught.value)


def test_any_value_in_a_manifest_is_refused_or_fits(store: Path) -> None:
    draw = random.Random(0)
    values: list[object] = [
        None,
        True,
        -1,
        2**31,
        10**400,
        0.5,
        "",
        "../x",
        "\x1b[2J",
        [],
        {},
        "a" * 64,
    ]

    def change(manifest: Any) -> None:
        inside: Any = None
        key: Any = None
        while isinstance(manifest, dict | list) and manifest:
            if key is not None and draw.random() < 0.2:
                break
            inside = manifest
            key = draw.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            manifest = inside[key]
        assert inside is not None
        if draw.random() < 0.3:
            del inside[key]
        else:
            inside[key] = draw.choice(values)

    plain = (store / MANIFEST_FILE).read_bytes()
    for _ in range(100):
        sign(store, change)
        try:
            read(store)
        except BertsmithError as error:
            assert str(error).isprintable()
        (store / MANIFEST_FILE).write_bytes(plain)


def pretrain(corpus: Path | None, output: Path, **settings: Any) -> Path:
    begin = {} if settings.get("resume") else {**TINY_RUN, "steps": 6, "checkpoint_every": 2}
    for name in ("min_frequency",):
        begin.pop(name, None)
    found = bertsmith.pretrain(corpus, output=output, quiet=True, **{**begin, **settings})
    return found.output


def test_a_changed_store_is_not_trained_on(store: Path, tmp_path: Path) -> None:
    run = pretrain(store, tmp_path / "run")
    with_another_id(store / SHARD)
    message = f"{store / SHARD} does not match its checksum"
    with pytest.raises(DataError, match=message):
        pretrain(store, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    before = content(run)
    with pytest.raises(DataError, match=message):
        pretrain(None, run, resume=True, steps=8)
    assert content(run) == before
    with pytest.raises(DataError, match=message):
        bertsmith.evaluate(run, corpus=store, split="train", device="cpu")


def test_a_store_that_changes_under_a_run_ends_it_before_a_checkpoint(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(store, tmp_path / "whole")
    plain, save = (store / SHARD).read_bytes(), Checkpoints.save
    run = tmp_path / "run"

    def meddled(checkpoints: Checkpoints, *args: Any, **options: Any) -> None:
        save(checkpoints, *args, **options)
        with_another_id(store / SHARD)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", meddled)
        with pytest.raises(DataError, match=f"{store / SHARD} must stay as it is"):
            pretrain(store, run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    (store / SHARD).write_bytes(plain)
    pretrain(None, run, resume=True)
    assert result_of(run) == result_of(whole)


def test_a_store_that_was_only_touched_or_removed_is_trained_on(store: Path) -> None:
    found = read(store)
    os.utime(store / SHARD)
    found.refuse_changed()
    (store / SHARD).unlink()  # it stays where it is mapped
    found.refuse_changed()


def test_what_was_touched_is_read_again_by_all_processors_and_waited_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    long_ones: list[bool] = []
    together, refuse_changed = Ranks.raising_on_all, StoreFolder.refuse_changed

    def noted(path: Path) -> str:
        threads.append(threading.current_thread().name)
        return checked_digest(path)

    def noted_together(ranks: Ranks, *, is_long: bool = False) -> AbstractContextManager[None]:
        long_ones.append(is_long)
        return together(ranks, is_long=is_long)

    def touched(found: StoreFolder) -> None:
        assert long_ones[-1], "the other ranks give up"
        for shard in store.glob("*/*.arrow"):
            os.utime(shard)
        threads.clear()
        refuse_changed(found)
        assert [name[:5] for name in threads] == ["check"] * 2  # both splits

    monkeypatch.setattr("bertsmith.data.disk.checked_digest", noted)
    monkeypatch.setattr(Ranks, "raising_on_all", noted_together)
    monkeypatch.setattr(StoreFolder, "refuse_changed", touched)
    pretrain(store, tmp_path / "run")


def test_each_byte_is_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_files: list[Path] = []

    def noted(path: Path) -> str:
        read_files.append(path)
        return checked_digest(path)

    monkeypatch.setattr("bertsmith.data.disk.checked_digest", noted)
    read(store).refuse_changed()
    assert sorted(path.name for path in read_files) == ["000000-000.arrow"] * 2  # both splits
    prepare_store(PreparationConfig(corpus=(str(store),)), checks=False).split("train").shard(0)
    assert len(read_files) == 2


def as_anything_else(make: Callable[[Path], None]) -> Callable[[Path], object]:
    def change(table: Path) -> None:
        shutil.rmtree(table)
        make(table)

    return change


TABLES: dict[str, Callable[[Path], object]] = {
    "rows missing": lambda table: ACCIDENTS["missing"](table / "rows.bin"),
    "rows empty": lambda table: ACCIDENTS["empty"](table / "rows.bin"),
    "rows cut off": lambda table: ACCIDENTS["cut off"](table / "rows.bin"),
    "rows flipped": lambda table: ACCIDENTS["flipped"](table / "rows.bin"),
    "rows a pipe": lambda table: ACCIDENTS["a pipe"](table / "rows.bin"),
    "rows a link": lambda table: ACCIDENTS["a link to itself"](table / "rows.bin"),
    "sums a pipe": lambda table: ACCIDENTS["a pipe"](table / "SHA256SUMS"),
    "about flipped": lambda table: ACCIDENTS["flipped"](table / "about.json"),
    "no sums": lambda table: (table / "SHA256SUMS").unlink(),
    "a file": as_anything_else(Path.touch),
    "a link to itself": as_anything_else(lambda table: table.symlink_to(table)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_damaged_table_of_examples_is_made_anew(
    kind: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(examples, "_MOST_IN_MEMORY", 0)
    store = open_store(prepared).split("train")
    rows = np.array(examples.lay_out(store, "filled", 24).rows)
    (table,) = (path for path in (tmp_path / "cache" / "examples").iterdir() if path.is_dir())
    TABLES[kind](table)
    with pytest.warns(UserWarning, match=f"{table} is damaged .*: making it anew"):
        found = examples.lay_out(store, "filled", 24)
    assert np.array_equal(found.rows, rows)
    assert damage(table) is None
