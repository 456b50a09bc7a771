"""Vectors of texts: learnt from pairs, scores or a corpus, loaded elsewhere, judged, searched."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sklearn.metrics import ndcg_score
from transformers import AutoModel

import bertsmith
from bertsmith.batch import Batch
from bertsmith.cli.main import main
from bertsmith.config import resolve
from bertsmith.corpus.collections import collection_of_rows, read_collection
from bertsmith.errors import (
    BertsmithError,
    ConfigError,
    CorpusError,
    DataError,
    InputError,
    ModelError,
    RunStopped,
)
from bertsmith.evaluation.ranking import judge, nearest
from bertsmith.finetuning.batches import RowBatches
from bertsmith.finetuning.pairs import Neighbours, drawn
from bertsmith.ranks import ALONE, Ranks
from bertsmith.saved.sentence_transformers import Pooling, read_pooling, write_pooling
from bertsmith.training.run import Run
from bertsmith.vectors import search as searching
from bertsmith.vectors.encoder import TextEncoder
from bertsmith.vectors.evaluate import BEFORE, BM25, MODEL, RANDOM
from bertsmith.vectors.search import Documents
from tests.support.labelled import stop_after, write
from tests.support.runs import TINY_RUN
from tests.support.texts import WORDS

MODERN: dict[str, Any] = {
    **TINY_RUN,
    "architecture": "modernbert",
    "num_hidden_layers": 4,
    "local_attention": 8,
    "tokenizer": "bpe",
    "vocab_size": 300,
    "max_length": 48,
    "steps": 6,
}
FAST: dict[str, Any] = {
    "task": "similarity",
    "epochs": 6,
    "batch_size": 16,
    "learning_rate": 0.01,
    "dropout_prob": 0.0,
    "patience": 0,
    "device": "cpu",
    "precision": "float32",
    "quiet": True,
}
ENCODER: dict[str, Any] = {"device": "cpu", "precision": "float32"}


def pairs_of(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """Questions of two words and answers that have them, among others."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        first, second = draw.sample(WORDS, 2)
        answer = draw.sample([first, second, *draw.choices(WORDS, k=4)], 6)
        rows.append((f"where is {first} {second}", " ".join(answer)))
    return rows


def table_of(path: Path, number: int, seed: int = 0) -> Path:
    rows = pairs_of(number, seed)
    lines = (json.dumps({"id": n, "question": q, "answer": a}) for n, (q, a) in enumerate(rows))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": table_of(folder / "train.jsonl", 120),
        "validation": table_of(folder / "dev.jsonl", 40, seed=1),
    }


@pytest.fixture(scope="module")
def tuned(
    finished_run: Run, tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    output = tmp_path_factory.mktemp("tuned") / "vectors"
    return bertsmith.finetune(finished_run.output, **tables, output=output, **FAST)


def assert_like_theirs(folder: Path, *, normalized: bool = True) -> None:
    texts = ["where is the crane", "old river winter hills", "wings", "the " * 80]
    with pytest.warns(UserWarning, match="cut to"):
        mine = TextEncoder.load(folder, **ENCODER).encode(texts)
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert theirs.similarity_fn_name == "cosine"
    np.testing.assert_allclose(mine, theirs.encode(texts), atol=1e-5, rtol=0)
    lengths = np.linalg.norm(mine, axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) == normalized


def test_vectors_are_learnt_from_pairs(tuned: Any, finished_run: Run) -> None:
    results = tuned.results
    assert (results["task"], results["source"]) == ("similarity", "pairs")
    assert (results["metric"], results["rows"]["train"]) == ("ndcg_at_10", 120)
    before = results["untrained"]["ndcg_at_10"]
    assert results["pretrained"]["ndcg_at_10"]["mean"] > before + 0.1
    assert set(results["random"]) > {"ndcg_at_10", "mrr_at_10", "recall_at_100"}
    assert_like_theirs(tuned.output)
    theirs = AutoModel.from_pretrained(tuned.output)
    assert type(theirs).__name__ == "BertModel"
    pooler = bertsmith.load(finished_run.output, device="cpu").bert.state_dict()["pooler.weight"]
    torch.testing.assert_close(theirs.pooler.dense.weight, pooler)


@pytest.mark.slow
def test_a_modernbert_learns_them_too(
    text_file: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **MODERN)
    found = bertsmith.finetune(
        run.output,
        **tables,
        output=tmp_path / "vectors",
        **{**FAST, "epochs": 2},
        pooling="cls",
        normalize=False,
        matryoshka=(4, 8),
        baseline=False,
    )
    assert found.results["similarity"]["matryoshka"] == (4, 8)
    assert_like_theirs(found.output, normalized=False)
    assert type(AutoModel.from_pretrained(found.output)).__name__ == "ModernBertModel"


def test_scores_are_learnt_and_judged(finished_run: Run, tmp_path: Path) -> None:
    draw = random.Random(0)

    def table(path: Path, number: int) -> Path:
        rows = []
        for _ in range(number):
            a = draw.sample(WORDS, 5)
            same = draw.randint(0, 5)
            b = a[:same] + draw.choices(WORDS, k=5 - same)
            rows.append((" ".join(a), " ".join(b), float(same)))
        path.write_text("".join(f"{a},{b},{s}\n" for a, b, s in rows))  # as STS-B: no header
        return path

    train, validation = table(tmp_path / "train.csv", 150), table(tmp_path / "dev.csv", 60)
    found = bertsmith.finetune(
        finished_run.output,
        train=train,
        validation=validation,
        output=tmp_path / "vectors",
        **FAST,
        baseline=False,
    )
    assert (found.results["source"], found.results["metric"]) == ("scores", "spearman")
    reached = found.results["pretrained"]["spearman"]["mean"]
    assert reached > found.results["untrained"]["spearman"]
    judged = bertsmith.evaluate_vectors(found.output, similarity=validation, **ENCODER)
    assert judged.figures[MODEL]["spearman"] == pytest.approx(reached, abs=1e-3)
    before = found.results["untrained"]["spearman"]
    assert judged.figures[BEFORE]["spearman"] == pytest.approx(before, abs=1e-3)
    assert judged.figures[RANDOM]["spearman"] is not None


def test_neighbouring_sentences_of_the_run_are_learnt(finished_run: Run, tmp_path: Path) -> None:
    found = bertsmith.finetune(
        finished_run.output, output=tmp_path / "vectors", **{**FAST, "epochs": 1}, baseline=False
    )
    assert found.results["source"] == "neighbouring sentences"
    assert found.results["rows"]["train"] > 100
    assert_like_theirs(found.output)


def test_neighbours_are_the_sentences_of_the_text(finished_run: Run, text_file: Path) -> None:
    from bertsmith.preparation import prepare_store

    store = prepare_store(resolve(file=finished_run.output / "config.toml").preparation)
    tokenizer = store.tokenizer(24)
    rows = Neighbours(store.split("train"), tokenizer)
    text = text_file.read_text().lower()
    for first, second in zip(*rows.texts(np.arange(20)), strict=True):
        words = [
            [tokenizer.token(i) for i in row.ids[1:-1] if i != tokenizer.unk_id]
            for row in (first, second)
        ]
        together = " ".join(words[0]).replace(" .", ".") + " " + " ".join(words[1])
        assert together.replace(" .", ".") in " ".join(text.split())

    def batch_of(ranks: Ranks) -> Batch:
        draw = partial(drawn, rows)
        return RowBatches(len(rows), draw, batch_size=8, seed=3, ranks=ranks).batch(2)

    batch = batch_of(ALONE)
    assert sorted(batch.sequence_labels[:, 0].tolist()) == list(range(16))
    parts = [batch_of(Ranks(rank, 3)) for rank in range(3)]
    assert sum(part.num_sequences for part in parts) == 16
    starts = sorted(start for part in parts for start in part.starts)
    assert starts == sorted(batch.starts)


@pytest.mark.slow
def test_one_that_is_stopped_goes_on_to_the_same_bytes(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**FAST, "epochs": 1, "dropout_prob": 0.1}
    whole = bertsmith.finetune(folder, **tables, output=tmp_path / "whole", **options)
    output = tmp_path / "mine"
    for number in (3, 12):
        with monkeypatch.context() as patch:
            stop_after(patch, number)
            with pytest.raises(RunStopped):
                bertsmith.finetune(folder, **tables, output=output, **options)
        bertsmith.finetune(folder, **tables, output=output, resume=True, **options)
        found = [one / "model.safetensors" for one in (whole.output, output)]
        assert found[0].read_bytes() == found[1].read_bytes()
        shutil.rmtree(output)


def test_settings_that_do_not_suit_are_refused(
    finished_run: Run, folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    one = write(tmp_path / "one.tsv", [("only texts", "yes")])
    few = table_of(tmp_path / "few.jsonl", 1)
    header = "question1\tquestion2\tis_duplicate"
    qqp = write(tmp_path / "qqp.tsv", [("a", "b", 0), ("c", "d", 1)], header=header)
    cases: list[tuple[type[BertsmithError], str, Path, dict[str, Any]]] = [
        (InputError, "is not a run, whose text", folder, {}),
        (InputError, "name --train and --validation, or neither", folder, {"train": few}),
        (InputError, "`test` changes nothing", folder, {**tables, "test": few}),
        (
            CorpusError,
            "it has labels \\('is_duplicate'\\)",
            folder,
            {"train": qqp, "validation": qqp},
        ),
        (ConfigError, "`label_names` changes", folder, {**tables, "label_names": ("a", "b")}),
        (ConfigError, "`pooling` changes", folder, {**tables, "task": "classes", "pooling": "cls"}),
        (ConfigError, "`metric` changes nothing", folder, {**tables, "metric": "f1"}),
        (ConfigError, "at most the model's 32; got 64", folder, {**tables, "matryoshka": 64}),
        (ConfigError, "sizes of 1 or more", folder, {**tables, "matryoshka": (0,)}),
        (ConfigError, "`temperature` must be over 0", folder, {**tables, "temperature": 0}),
        (CorpusError, "must have a column of texts", folder, {"train": one, "validation": one}),
        (
            CorpusError,
            "two columns of texts that belong together; .* there is 'sentence' alone",
            folder,
            {"train": one, "validation": one, "text_column": "sentence"},
        ),
        (CorpusError, "a column 'wrong'", folder, {**tables, "negative_column": "wrong"}),
        (DataError, "two rows or more", folder, {**tables, "train": few}),
        (InputError, "name --train and --validation", folder, {"task": "classes"}),
    ]
    for error, says, path, more in cases:
        with pytest.raises(error, match=says):
            bertsmith.finetune(path, output=tmp_path / "out", **{**FAST, **more})
    assert not (tmp_path / "out").exists()


def test_negatives_are_a_column(folder: Path, tmp_path: Path) -> None:
    rows = [(q, a, "winter hills children") for q, a in pairs_of(30)]
    table = write(tmp_path / "t.tsv", rows, header="query\tpositive\tnegative")
    found = bertsmith.finetune(
        folder,
        train=table,
        validation=table,
        output=tmp_path / "out",
        **{**FAST, "epochs": 1},
        baseline=False,
    )
    assert found.results["pretrained"]["ndcg_at_10"]["mean"] > 0


def test_pooling_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) is None
    for pooling in (Pooling(), Pooling(mode="cls", normalize=False)):
        folder = tmp_path / pooling.mode
        folder.mkdir()
        write_pooling(folder, pooling, size=8, max_length=32)
        assert read_pooling(folder) == pooling
    file = folder / "1_Pooling" / "config.json"
    file.write_text('{"embedding_dimension": 8, "pooling_mode": "mean"}')
    assert read_pooling(folder) == Pooling(normalize=False)
    file.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="must say mean or cls; got pooling_mode_max_tokens"):
        read_pooling(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "x.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="maybe Normalize; it is Transformer, Pooling, Dense"):
        read_pooling(folder)


def trec(folder: Path) -> Path:
    folder.mkdir()
    (folder / "docs.trec").write_text(
        "<DOC>\n<DOCNO>a</DOCNO>\nthe old <b>crane</b>\n</DOC>\n"
        "<DOC>\n<DOCNO>b</DOCNO>\nquiet hills\nin winter\n</DOC>\n<DOC><DOCNO>c</DOCNO>bird</DOC>\n"
    )
    (folder / "topics").write_text(
        "<top>\n<num> Number: 1\n<title> crane\n\n<desc> Description:\nwhat\n</top>\n"
        "<top><num>2</num><title>\nhills\n</title></top>\n<top><num>3</num><title>x</title></top>"
    )
    (folder / "qrels").write_text("1 0 a 2\n1 0 c 1\n2 0 b 1\n2 0 a 0\n2 0 gone 1\n")
    return folder


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = [("a", "the old", "crane"), ("b", "", "quiet hills in winter"), ("c", "", "bird")]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": t, "text": x}) + "\n" for i, t, x in documents)
    )
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": i, "text": x}) + "\n"
            for i, x in [(1, "crane"), (2, "hills"), (3, "x")]
        )
    )
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tc\t1\n2\tb\t1\n2\ta\t0\n2\tgone\t1\n"
    )
    return folder


@pytest.mark.parametrize("make", [trec, beir])
def test_collections_are_read(make: Any, tuned: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    found = read_collection(folder)
    assert found.queries == ["crane", "hills"]
    assert found.documents == ["the old crane", "quiet hills in winter", "bird"]
    assert found.relevant == [{0: 2.0, 2: 1.0}, {1: 1.0}]
    assert found.left_out == {
        "queries without a relevant document": 1,
        "judgements of unknown queries or documents": 1,
    }
    judged = bertsmith.evaluate_vectors(tuned.output, retrieval=folder, **ENCODER)
    assert list(judged.figures) == [MODEL, BM25, BEFORE, RANDOM]
    assert judged.figures[BM25]["mrr_at_10"] == 1.0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("qrels", "", "must have a file of judgements"),
        ("qrels", "1 0 a 1\nnonsense\n", "line 2: a judgement must be"),
        ("qrels", "1 0 b 0\n", "must have a query with a relevant document"),
        ("topics", "<top>\n<title> crane\n</top>", "each topic must have a <num>"),
        ("docs.trec", "<DOC>crane</DOC>", "each document must have a <DOCNO>"),
    ],
)
def test_collections_that_lack_a_part_are_refused(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    folder = trec(tmp_path / "c")
    (folder / name).write_text(content)
    with pytest.raises(CorpusError, match=says):
        read_collection(folder)


def test_a_table_is_a_collection(tuned: Any, tables: dict[str, Any]) -> None:
    found = bertsmith.evaluate_vectors(tuned.output, retrieval=tables["validation"], **ENCODER)
    reached = tuned.results["pretrained"]["ndcg_at_10"]["mean"]
    assert found.figures[MODEL]["ndcg_at_10"] == pytest.approx(reached, abs=1e-6)
    before = tuned.results["untrained"]["ndcg_at_10"]
    assert found.figures[BEFORE]["ndcg_at_10"] == pytest.approx(before, abs=1e-6)
    with pytest.raises(InputError, match="one of the two"):
        bertsmith.evaluate_vectors(tuned.output)
    with pytest.raises(InputError, match="must have a column of scores"):
        bertsmith.evaluate_vectors(tuned.output, similarity=tables["validation"], **ENCODER)


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 5))
def test_figures_are_those_of_another_library(seed: int, documents: int, queries: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.permuted(np.tile(np.arange(documents), (queries, 1)), axis=1).astype(np.float32)
    gains = draw.integers(0, 3, (queries, documents))
    gains[:, 0] = np.maximum(gains[:, 0], 1)
    ranked = np.argsort(-scores, axis=1)
    relevant = [{n: float(g) for n, g in enumerate(row) if g} for row in gains]
    found = judge(ranked, relevant)
    assert found.ndcg_at_10 == pytest.approx(ndcg_score(gains, scores, k=10))
    places = [
        next((n for n, d in enumerate(row[:10]) if d in own), None)
        for row, own in zip(ranked, relevant, strict=True)
    ]
    assert found.mrr_at_10 == pytest.approx(
        np.mean([0 if n is None else 1 / (n + 1) for n in places])
    )
    assert found.recall_at_100 == 1.0


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
def test_the_nearest_are_found_exactly(seed: int, documents: int, depth: int) -> None:
    draw = np.random.default_rng(seed)
    left = draw.integers(-2, 3, (3, 4)).astype(np.float32)  # with equal products
    right = draw.integers(-2, 3, (documents, 4)).astype(np.float32)
    numbers, scores = nearest(left, right, depth)
    products = left @ right.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :depth]
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(products, expected, axis=1))


def test_rows_are_searched(
    tuned: Any, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "cache"))
    encoder = TextEncoder.load(tuned.output, **ENCODER)
    documents = Documents.read(tables["validation"])
    questions = [q for q, _ in pairs_of(40, seed=1)][:7]
    found = searching.search(encoder, documents, questions, top_k=5)
    vectors = encoder.encode(documents.texts)
    numbers, cosines = nearest(encoder.encode(questions), vectors, 5)
    assert [[hit.line - 1 for hit in hits] for hits in found] == numbers.tolist()
    np.testing.assert_allclose([[hit.cosine for hit in hits] for hits in found], cosines, atol=1e-6)
    # The second question finds the vectors there, in blocks of any size.
    monkeypatch.setattr(searching, "_ROWS_AT_ONCE", 7)
    made: list[int] = []

    def counted(vectors: Any) -> Any:
        made.append(len(vectors))
        return vectors

    monkeypatch.setattr(searching, "with_length_1", counted)
    again = searching.search(encoder, documents, questions, top_k=5)
    assert made == [7]
    assert [[hit.line for hit in hits] for hits in again] == [
        [h.line for h in hits] for hits in found
    ]
    # Damaged ones are made anew.
    (file,) = (tmp_path / "cache" / "vectors").glob("*/vectors.npy")
    file.write_bytes(file.read_bytes()[:-50])
    monkeypatch.undo()
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "cache"))
    third = bertsmith.search(tuned.output, tables["validation"], questions, top_k=5, **ENCODER)
    assert third == found
    (one,) = bertsmith.search(
        tuned.output, tables["validation"], "where is bird", top_k=99, **ENCODER
    )
    assert len(one) == 40
    wrong: dict[str, Any]
    for wrong, says in (
        ({"questions": " "}, "must have a word"),
        ({"questions": "a", "top_k": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=says):
            bertsmith.search(tuned.output, tables["validation"], **wrong, **ENCODER)


def test_what_it_began_with_is_shown_only_if_it_is_still_that(
    finished_run: Run, tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run.output, run)
    one = {**FAST, "epochs": 1}
    found = bertsmith.finetune(run, **tables, output=tmp_path / "out", **one, baseline=False)
    assert found.results["pretrained"]["epochs"] == [pytest.approx(1, abs=0.1)]
    where = tables["validation"]
    assert BEFORE in bertsmith.evaluate_vectors(found.output, retrieval=where, **ENCODER).figures
    bertsmith.pretrain(output=run, resume=True, steps=9, quiet=True)
    later = bertsmith.evaluate_vectors(found.output, retrieval=where, **ENCODER)
    assert list(later.figures) == [MODEL, BM25, RANDOM]


def test_a_text_does_not_find_itself(tuned: Any, tmp_path: Path) -> None:
    rows = [(WORDS[n], WORDS[n + 1]) for n in range(20)]  # each text but one is also an answer
    collection = collection_of_rows("t", rows)
    ranked = np.tile(np.arange(len(collection.documents)), (len(collection.queries), 1))
    for query, row in zip(collection.queries, collection.without_itself(ranked), strict=True):
        assert query not in [collection.documents[number] for number in row]
        assert len(row) == len(collection.documents) - (query in collection.documents)
    same = [(word, word) for word in WORDS[:9]]
    found = collection_of_rows("t", [*same, ("a", WORDS[0])])
    assert (found.queries, found.relevant) == (["a"], [{0: 1.0}])
    assert found.left_out == {"rows whose document is the query": 9}
    table = write(tmp_path / "t.tsv", same, header="question\tanswer")
    with pytest.raises(CorpusError, match="must have a query whose document is another text"):
        bertsmith.evaluate_vectors(tuned.output, retrieval=table, **ENCODER)


def test_lists_are_asked_for(tuned: Any) -> None:
    encoder = TextEncoder.load(tuned.output, **ENCODER)
    for wrong in ("abc", [None], [1]):
        with pytest.raises(InputError):
            encoder.encode(wrong)  # type: ignore[arg-type]
    assert encoder.encode([]).shape == (0, 16)


def test_a_model_that_was_not_trained_for_it_says_so(finished_run: Run, text_file: Path) -> None:
    with pytest.warns(UserWarning, match="was not trained for vectors of texts|were cut to"):
        (found,) = bertsmith.search(finished_run.output, text_file, "the crane", top_k=2, **ENCODER)
    assert [hit.text for hit in found]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--device", "cpu"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_commands_print_what_is_found(
    tuned: Any, tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = str(tuned.output), str(tables["validation"])
    lines = said(capsys, "search", folder, table, "where is bird", "--top-k", "2").splitlines()
    expected = bertsmith.search(folder, table, "where is bird", top_k=2, **ENCODER)[0]
    assert [line.split()[:3] for line in lines] == [
        [f"{hit.cosine:.4f}", "line", str(hit.line)] for hit in expected
    ]
    questions = tmp_path / "questions.txt"
    questions.write_text("where\tis bird\n\nold hills\n")
    found = json.loads(said(capsys, "search", folder, table, "--input", str(questions), "--json"))
    assert [one["question"] for one in found["found"]] == ["where\tis bird", "old hills"]
    shown = said(capsys, "evaluate", folder, "--retrieval", table)
    assert "38 queries, 40 documents" in shown
    assert all(name in shown for name in ("ndcg@10", MODEL, BM25, BEFORE, RANDOM))
    figures = json.loads(said(capsys, "evaluate", folder, "--retrieval", table, "--json"))
    assert figures["figures"][MODEL]["recall_at_100"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "{folder}", "{table}"], "Give a question, or a file of questions"),
        (["evaluate", "{folder}", "--retrieval", "x", "--similarity", "y"], "judged by one thing"),
        (
            ["evaluate", "{folder}", "--retrieval", "x", "--split", "test"],
            "`split` changes nothing",
        ),
        (["evaluate", "{folder}", "--retrieval", "nowhere"], "there is none"),
    ],
)
def test_wrong_commands_end_with_a_line(
    arguments: list[str],
    says: str,
    tuned: Any,
    tables: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([a.format(folder=tuned.output, table=tables["validation"]) for a in arguments])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bertsmith: error: ")
    assert says in line
