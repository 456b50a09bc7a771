"""From a corpus to a store on disk: the same bytes whoever makes it, and whatever happens to it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

import bertsmith
from bertsmith.config import STORE_MANIFEST_FILE, DataConfig, PreparationConfig, given_by_store
from bertsmith.corpus import open_corpus
from bertsmith.data.batches import Batches
from bertsmith.data.disk import StoreFolder, open_store
from bertsmith.data.pairs import make_drawing
from bertsmith.data.store import TokenStore
from bertsmith.errors import (
    BertsmithError,
    ConfigError,
    CorpusError,
    DataError,
    TokenizerError,
)
from bertsmith.preparation import prepare, prepare_store, work
from bertsmith.preparation.duplicates import bands_for
from tests.support.runs import TINY_RUN
from tests.support.stores import config, content
from tests.support.texts import make_documents, sentences_of, write_text

LANGUAGES = {
    "en": "Dr. Grey saw a crane. It lifted 3.5 tons of stone! Did the driver wave?",
    "de": "Der Kran hebt z. B. einen Balken. Am 3. Oktober ruht er. Wer fährt ihn heute?",
    "zh": "起重机在河边工作。司机看着远处的山！今天的风很大吗？孩子们在桥上等候。",
    "hi": "सारस नदी के पास खड़ा है। वह धीरे धीरे चलता है। क्या बच्चे उसे देख रहे हैं?",
    "ar": "تقف الرافعة قرب النهر. هل يراها السائق اليوم؟ الطيور تطير نحو الشمال.",
}


def texts_of(store: StoreFolder, split: str = "train") -> list[list[list[int]]]:
    """The ids of each sentence of each document, read with Arrow alone."""
    found: list[list[list[int]]] = []
    for entry in store.manifest.splits[split].shards:
        with pa.ipc.open_file(str(store.path / entry.file)) as reader:
            for document in reader.read_all().column("document").to_pylist():
                found.append([sentence for paragraph in document for sentence in paragraph])
    return found


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in parts of two thousand bytes."""
    monkeypatch.setattr("bertsmith.corpus.lines.PART_BYTES", 2000)
    monkeypatch.setattr("bertsmith.corpus.files.PART_BYTES", 2000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt", make_documents(120))


@pytest.mark.parametrize("tokenizer", ["word", "wordpiece", "bpe", "unigram"])
def test_a_store_holds_the_ids_that_auto_tokenizer_gives(
    tokenizer: str, corpus: Path, tmp_path: Path
) -> None:
    store = prepare_store(config(corpus, tokenizer=tokenizer), tmp_path / "store")
    theirs = AutoTokenizer.from_pretrained(store.path / "tokenizer")
    for split in ("train", "validation"):
        documents = list(open_corpus([str(corpus)]).read(split))
        assert len(documents) > 1
        ids = theirs(sentences_of(documents), add_special_tokens=False)["input_ids"]
        assert [one for document in texts_of(store, split) for one in document] == ids


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_languages_are_split_and_tokenized(language: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join([LANGUAGES[language]] * 3 + ["a b"]), encoding="utf-8")
    for kind in ("wordpiece", "bpe", "unigram"):
        settings = {"tokenizer": kind, "pre_tokenization": "characters", "validation_fraction": 0}
        store = prepare_store(config(file, language=language, **settings), tmp_path / kind)
        counts = store.manifest.report["splits"]["train"]
        assert counts["documents"] == 4
        assert counts["sentences"] in (10, 13)  # three or four a text, and one
        assert counts["unknown_tokens"] == 0
        tokenizer = store.tokenizer(512)
        text = tokenizer.decode([i for sentence in texts_of(store)[0] for i in sentence])
        letters = [c for c in LANGUAGES[language].lower() if c.isalpha()]
        assert kind == "wordpiece" or [c for c in text if c.isalpha()] == letters


def test_processes_make_the_same_bytes(in_parts: None, corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tokenizer="wordpiece", deduplicate="near")
    one = prepare_store(settings, tmp_path / "one", processes=1)
    four = prepare_store(settings, tmp_path / "four", processes=4)
    assert len(one.manifest.splits["train"].shards) > 5
    assert content(one.path) == content(four.path)
    assert one.damage() == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_makes_the_same_bytes(in_parts: None, corpus: Path, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    settings = config(corpus, tokenizer="wordpiece", deduplicate="exact")
    local = prepare_store(settings, tmp_path / "local", processes=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        found = prepare_store(settings, tmp_path / "ray", engine="ray")
        with pytest.raises(CorpusError, match="UTF-8"):
            corpus.write_bytes(corpus.read_bytes() + b"\xff")
            strict = replace(settings, max_bad_rows=0.0)
            prepare_store(strict, tmp_path / "bad", engine="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert content(local.path) == content(found.path)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_what_is_finished_is_not_done_again(
    at: int,
    in_parts: None,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work, "PIECE_BYTES", 700)  # several pieces a part
    whole = prepare_store(config(corpus), tmp_path / "whole", processes=1)
    made: list[tuple[int, int]] = []
    make = work._make

    def dying(job: work.Job, part: int, number: int, *rest: Any) -> work.Piece:
        if len(made) == at:
            raise KeyboardInterrupt
        made.append((part, number))
        return make(job, part, number, *rest)

    monkeypatch.setattr(work, "_make", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_store(config(corpus), tmp_path / "dead", processes=1)
    assert not (tmp_path / "dead" / STORE_MANIFEST_FILE).exists()
    before, at = made.copy(), 10**9
    again = prepare_store(config(corpus), tmp_path / "dead", processes=1)
    assert len(set(made)) == len(made) == len(before) + len(made[len(before) :])
    assert len(made) > 8
    assert content(again.path) == content(whole.path)


def test_a_piece_that_changed_meanwhile_is_made_again(
    in_parts: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare_store(config(corpus), tmp_path / "whole", processes=1)
    with monkeypatch.context() as patch:
        patch.setattr(prepare._Preparation, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_store(config(corpus), tmp_path / "dead", processes=1)
    shard = tmp_path / "dead" / whole.manifest.splits["train"].shards[2].file
    shard.write_bytes(shard.read_bytes()[:-9])
    again = prepare_store(config(corpus), tmp_path / "dead", processes=1)
    assert content(again.path) == content(whole.path)


def test_the_cache_goes_by_content(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_store(config(corpus))
    moved = tmp_path / "moved.txt"
    shutil.copy(corpus, moved)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "work_on_part", lambda *_: 1 / 0)
        assert prepare_store(config(moved)).path == first.path
    assert prepare_store(config(corpus, lowercase=False)).path != first.path
    moved.write_text(moved.read_text() + "One more.\n")
    assert prepare_store(config(moved)).path != first.path


def test_a_run_trains_on_a_store_as_on_its_text(corpus: Path, tmp_path: Path) -> None:
    store = bertsmith.prepare(corpus, tmp_path / "store", min_frequency=2, quiet=True)
    runs = [
        bertsmith.pretrain(source, output=tmp_path / name, steps=3, quiet=True, **TINY_RUN)
        for name, source in (("a", corpus), ("b", store))
    ]
    weights = [(run.output / "model" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert bertsmith.evaluate(runs[1].output).figures["mlm_loss"] == pytest.approx(
        runs[0].metrics["validation_mlm_loss"]
    )
    with pytest.raises(BertsmithError, match=r"prepared with `lowercase` = True, and False was"):
        bertsmith.pretrain(store, output=tmp_path / "c", steps=1, lowercase=False, quiet=True)
    with pytest.raises(DataError, match="another"):
        other = bertsmith.prepare(corpus, tmp_path / "other", min_frequency=200, quiet=True)
        bertsmith.evaluate(runs[0].output, corpus=other)


def test_a_store_stands_alone_and_has_its_own_validation(corpus: Path, tmp_path: Path) -> None:
    store = bertsmith.prepare(corpus, tmp_path / "store", min_frequency=2, quiet=True)
    options: dict[str, Any] = {"steps": 1, "quiet": True, **TINY_RUN}
    with pytest.raises(ConfigError, match="cannot name another"):
        bertsmith.pretrain(store, output=tmp_path / "a", validation=(str(corpus),), **options)
    with pytest.raises(CorpusError, match="is a token store: it stands alone"):
        bertsmith.pretrain([store, corpus], output=tmp_path / "b", **options)
    (store / STORE_MANIFEST_FILE).unlink()
    (store / ".work").mkdir()
    (store / ".work" / "plan.json").write_text('{"key": "x"}')
    with pytest.raises(CorpusError, match="not finished; `bertsmith prepare` goes on"):
        bertsmith.pretrain(store, output=tmp_path / "c", **options)


def test_a_failure_at_the_beginning_blocks_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('title,body\n1,"A text. Of two."\n')
    with pytest.raises(CorpusError, match="--text-column"):
        prepare_store(config(file), tmp_path / "store")
    settings: dict[str, Any] = {"text_column": "body", "validation_fraction": 0}
    assert prepare_store(config(file, **settings), tmp_path / "store").damage() == []


@pytest.mark.parametrize(("strips", "kept"), [(None, True), (True, False)])
@pytest.mark.parametrize("language", ["ja", "en", None])
def test_marks_are_kept_where_they_make_other_letters(
    language: str | None, strips: bool | None, kept: bool, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("猫が椅子の上で寝ています。\n", encoding="utf-8")
    settings: dict[str, Any] = {"tokenizer": "wordpiece", "pre_tokenization": "characters"}
    settings["strip_accents"] = strips
    store = prepare_store(
        config(file, language=language, validation_fraction=0, **settings), tmp_path / "store"
    )
    assert ("が" in store.manifest.report["vocabulary"]["sample"][0]) == kept


def test_words_of_preset_give_way_to_those_of_the_store(corpus: Path, tmp_path: Path) -> None:
    store = bertsmith.prepare(corpus, tmp_path / "store", preset="tiny", vocab_size=300, quiet=True)
    settings = {**TINY_RUN, "min_frequency": 2}
    run = bertsmith.pretrain(store, output=tmp_path / "run", steps=2, quiet=True, **settings)
    assert 'tokenizer = "wordpiece"' in (run.output / "config.toml").read_text()
    assert run.metrics["vocabulary_entries"] == open_store(store).manifest.vocab_size


def test_a_sample_for_the_vocabulary_does_not_depend_on_parts(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = corpus.stat().st_size
    sampled = config(corpus, tokenizer_sample_bytes=size // 3)
    whole = prepare_store(sampled, tmp_path / "whole")
    for name in ("lines", "files"):
        monkeypatch.setattr(f"bertsmith.corpus.{name}.PART_BYTES", 2000)
    parted = prepare_store(sampled, tmp_path / "parted", processes=1)
    tokenizers = [content(store.path / "tokenizer") for store in (whole, parted)]
    assert tokenizers[0] == tokenizers[1]
    monkeypatch.undo()
    rare = prepare_store(config(corpus, min_frequency=70), tmp_path / "all")
    fewer = prepare_store(
        config(corpus, min_frequency=70, tokenizer_sample_bytes=size // 3), tmp_path / "third"
    )
    assert fewer.manifest.vocab_size < rare.manifest.vocab_size


def test_a_given_validation_text_is_taken_whole(corpus: Path, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other.txt", make_documents(7, seed=3))
    store = prepare_store(config(corpus, validation=(str(other),)), tmp_path / "store")
    counts = store.manifest.report["splits"]
    assert (counts["train"]["documents"], counts["validation"]["documents"]) == (120, 7)


def test_bad_rows_are_judged_over_all_parts(in_parts: None, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = [json.dumps({"text": f"Number {n} is here. Again it is."}) for n in range(400)]
    file.write_text("\n".join([*good, "null", "7", *good, "{"]) + "\n")
    with pytest.warns(UserWarning) as caught:
        store = prepare_store(config(file), tmp_path / "store", processes=1)
    messages = [str(warning.message) for warning in caught]
    assert messages == [
        f"{file}, row 401: not a JSON object; left out.",
        f"{file}, row 803: not JSON; left out.",
    ]
    assert len(store.manifest.splits["train"].shards) > 5
    left_out = store.manifest.report["left_out"]
    assert left_out == {"rows: not JSON": 1, "rows: not a JSON object": 2}
    with pytest.warns(UserWarning), pytest.raises(CorpusError, match=r"all but 0\.1% of its rows"):
        prepare_store(config(file, max_bad_rows=0.001), tmp_path / "bad", processes=1)


@pytest.mark.parametrize("at_once", [2**21, 7])
@pytest.mark.parametrize("kind", ["none", "exact", "near"])
def test_duplicates_are_dropped_and_counted(
    kind: str, at_once: int, in_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.preparation.duplicates._DOCUMENTS_AT_ONCE", at_once)
    documents = make_documents(60)
    long = [[[f"word{n * 37 % 101} is number {n}" for n in range(90)]]]
    changed = [[["another word", *long[0][0][1:]]]]
    file = write_text(tmp_path / "t.txt", [*long, *documents, *documents[5:9], *changed])
    store = prepare_store(
        config(file, deduplicate=kind, validation_fraction=0), tmp_path / "store", processes=1
    )
    dropped = {"none": 0, "exact": 4, "near": 5}[kind]
    assert store.manifest.report["splits"]["train"]["documents"] == 66 - dropped
    assert store.manifest.report["left_out"].get("duplicate documents", 0) == dropped
    kept = prepare_store(
        config(write_text(tmp_path / "u.txt", [*long, *documents]), validation_fraction=0),
        tmp_path / "kept",
    )
    if kind == "near":
        assert texts_of(store) == texts_of(kept)


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_nine_in_ten(similarity: float) -> None:
    bands, rows = bands_for(similarity)
    assert bands * rows == 128
    assert 1 - (1 - similarity**rows) ** bands >= 0.9


def test_a_tokenizer_of_ones_own(corpus: Path, tmp_path: Path) -> None:
    own = prepare_store(config(corpus, tokenizer="bpe"), tmp_path / "own")
    folder = own.path / "tokenizer"
    store = prepare_store(config(corpus, tokenizer=str(folder)), tmp_path / "store")
    assert content(store.path / "train") == content(own.path / "train")
    with pytest.raises(TokenizerError, match=r"no kind .* 'wordpeice'; did you mean wordpiece"):
        prepare_store(config(corpus, tokenizer="wordpeice"), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_folders_that_are_not_ours_are_left_alone(corpus: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name in ("train/a.txt", "notes.md"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("Mine.")
    before = content(mine)
    for overwrite in (False, True):
        with pytest.raises(DataError, match="must be empty or a store"):
            prepare_store(config(corpus), mine, overwrite=overwrite)
    (mine / "notes.md").unlink()
    with pytest.raises(DataError, match=r"other files \(train/a.txt\)"):
        prepare_store(config(corpus), mine, overwrite=True)
    assert content(mine)["train/a.txt"] == before["train/a.txt"]
    alike = tmp_path / "alike"
    alike.mkdir()
    (alike / "corpus.json").write_text("Mine.")
    with pytest.raises(DataError, match=r"other files \(corpus.json\)"):
        prepare_store(config(corpus), alike, overwrite=True)
    store = prepare_store(config(corpus), tmp_path / "store")
    with pytest.raises(DataError, match="another text or other settings"):
        prepare_store(config(corpus, lowercase=False), store.path)
    (store.path / "notes.md").write_text("Mine, too.")
    with pytest.raises(DataError, match="must be empty or a store"):
        prepare_store(config(corpus, lowercase=False), store.path, overwrite=True)
    (store.path / "notes.md").unlink()
    other = prepare_store(config(corpus, lowercase=False), store.path, overwrite=True)
    assert other.manifest.key != store.manifest.key
    assert other.damage() == []


def test_a_stranger_sets_no_other_settings(corpus: Path, tmp_path: Path) -> None:
    store = prepare_store(config(corpus), tmp_path / "store")
    path = store.path / STORE_MANIFEST_FILE
    manifest = json.loads(path.read_text())
    assert given_by_store([str(store.path)])[0].settings["tokenizer"] == "word"
    manifest["settings"]["learning_rate"] = 9.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="not the manifest"):
        given_by_store([str(store.path)])


def test_ids_that_no_vocabulary_has_are_refused(corpus: Path, tmp_path: Path) -> None:
    store = prepare_store(config(corpus), tmp_path / "store")
    shard = store.split("train").shard(0)
    for change, message in (
        ({"ids": shard.ids + np.uint16(9999)}, "ids that its tokenizer has not"),
        ({"sentence_offsets": shard.sentence_offsets[::-1].copy()}, "ends before it begins"),
    ):
        bad = TokenStore.of(replace(shard, **change))
        data = DataConfig(max_length=24)
        batches = Batches(
            bad,
            make_drawing(bad, data, seed=0),
            store.tokenizer(24),
            batch_size=8,
            max_length=24,
            mlm_probability=0.15,
            seed=0,
        )
        with pytest.raises(DataError, match=message):
            batches.batch(0)


@pytest.mark.parametrize("name", [".tokenizer.part", f".{STORE_MANIFEST_FILE}.part", ".work"])
def test_what_a_killed_process_left_is_ours(name: str, corpus: Path, tmp_path: Path) -> None:
    whole = prepare_store(config(corpus), tmp_path / "whole")
    folder = tmp_path / "store" / name
    folder.mkdir(parents=True)
    (folder / ".plan.json.part").write_text("{")
    store = prepare_store(config(corpus), tmp_path / "store")
    assert content(store.path) == content(whole.path)


def test_another_place_of_a_text_is_another_key(corpus: Path, tmp_path: Path) -> None:
    texts = [
        str(write_text(tmp_path / f"{name}.txt", make_documents(20, seed)))
        for seed, name in enumerate("abc")
    ]
    keys = {
        prepare_store(PreparationConfig(corpus=one, validation=two, min_frequency=1)).path
        for one, two in (
            ((texts[0], texts[1]), (texts[2],)),
            ((texts[0],), (texts[1], texts[2])),
            ((texts[1], texts[0]), (texts[2],)),
        )
    }
    assert len(keys) == 3
    folder = tmp_path / "wikitext"
    folder.mkdir()
    shutil.copy(texts[0], folder / "wiki.train.tokens")
    settings: dict[str, Any] = {"min_frequency": 1, "validation_fraction": 0}
    read_as_file = config(folder / "wiki.train.tokens", **settings)
    (folder / "wiki.train.tokens").write_text(" = A = \n one fact . two facts . \n")
    assert prepare_store(config(folder, **settings)).path != prepare_store(read_as_file).path


def test_a_sample_has_at_least_a_document(
    in_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_text(tmp_path / "a.txt", make_documents(40))
    store = prepare_store(config(file, tokenizer_sample_bytes=1), processes=1)
    assert store.manifest.vocab_size > 5


def test_sentences_follow_one_another_by_a_space(corpus: Path, tmp_path: Path) -> None:
    """Of byte-level vocabularies that put no space before the first word, as RoBERTa's."""
    own = prepare_store(config(corpus, tokenizer="bpe"), tmp_path / "own")
    path = own.path / "tokenizer" / "tokenizer.json"
    rules = json.loads(path.read_text())
    rules["pre_tokenizer"]["add_prefix_space"] = False
    folder = tmp_path / "roberta"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    settings: dict[str, Any] = {"tokenizer": str(folder), "validation_fraction": 0}
    store = prepare_store(config(corpus, **settings), tmp_path / "store")
    theirs = AutoTokenizer.from_pretrained(store.path / "tokenizer")
    for document, text in zip(
        texts_of(store),
        open_corpus([str(corpus)], validation_fraction=0).read("train"),
        strict=True,
    ):
        ids = [i for sentence in document for i in sentence]
        expected = [
            i
            for paragraph in text
            for i in theirs(" ".join(paragraph), add_special_tokens=False)["input_ids"]
        ]
        assert ids == expected


def test_a_text_with_nothing_in_it(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text\n" "\n')
    with pytest.raises(DataError, match="must hold text to train on"):
        prepare_store(config(file, tokenizer="bpe"), tmp_path / "bytes")
    with pytest.raises(TokenizerError, match="the text has none"):
        prepare_store(config(file, tokenizer="wordpiece"), tmp_path / "pieces")
