"""Classifiers, regressors and probes on tiny encoders; the tables they are learnt from."""

from __future__ import annotations

import copy
import gzip
import json
import math
import random
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

import bertsmith
from bertsmith.architectures import CLASSIFIER, build
from bertsmith.architectures.bert.network import Bert
from bertsmith.cli.main import main
from bertsmith.config import BertConfig, FinetuneConfig, LabelledConfig
from bertsmith.data.ahead import BatchesAhead
from bertsmith.errors import BertsmithError
from bertsmith.finetuning.batches import RowBatches
from bertsmith.finetuning.labels import Task, task_of
from bertsmith.finetuning.metrics import majority_accuracy, metrics_of, predictions_of
from bertsmith.finetuning.sequences import class_weights, labelled_rows, predict
from bertsmith.finetuning.tables import read_labelled
from bertsmith.finetuning.train import default_learning_rate
from bertsmith.objectives.classification import SequenceClassification
from bertsmith.ranks import Ranks
from bertsmith.rows import Row, packed, tokenize
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.tokenizer import Tokenizer
from tests.support.labelled import FAST, rows_of, write
from tests.support.texts import WORDS


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    return {
        "train": write(tmp_path / "train.tsv", rows_of(160)),
        "validation": write(tmp_path / "dev.tsv", rows_of(40, seed=1)),
    }


def test_the_classifier_is_that_of_transformers(
    folder: Path, tables: dict[str, Any], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    found = bertsmith.finetune(
        folder, **tables, output=tmp_path / "out", quiet=True, baseline=False, **FAST
    )
    assert found.results["pretrained"]["accuracy"]["mean"] > 0.75  # of two classes, alike in size
    theirs = BertForSequenceClassification.from_pretrained(found.output).eval()
    assert theirs.config.id2label == {0: "no", 1: "yes"}
    texts = [text for text, _ in rows_of(40, seed=1)]
    encoded = AutoTokenizer.from_pretrained(found.output)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded).logits.softmax(-1).numpy()
    lines = (found.output / "predictions-validation.tsv").read_text().splitlines()
    header, *rows = [line.split("\t") for line in lines]
    assert header == ["line", "prediction", "label", "no", "yes"]
    assert [row[0] for row in rows] == [str(line) for line in range(2, 42)]
    np.testing.assert_allclose([[float(x) for x in row[3:]] for row in rows], expected, atol=2e-6)
    right = np.mean([row[1] == row[2] for row in rows])
    assert right == pytest.approx(found.results["pretrained"]["accuracy"]["mean"])
    classify = pipeline("text-classification", model=str(found.output), device="cpu")
    assert classify(texts[0])[0]["label"] == rows[0][1]


@pytest.mark.filterwarnings("ignore:1 of 3 texts were cut")
def test_outputs_do_not_depend_on_the_batch(tiny_model: Bert, tokenizer: Tokenizer) -> None:
    heads = frozenset({CLASSIFIER})
    model = build(tiny_model.config, tiny_model.vocab_size, heads, num_labels=3)
    model.initialize(0)
    short = copy.copy(tokenizer)
    short.max_length = 12
    rows, num_cut = tokenize(
        [("the crane lifts", None), ("a bird", "flies north"), ("old " * 50, None)], short
    )
    assert (num_cut, max(len(row.ids) for row in rows)) == (1, 12)
    together = predict(model, rows, torch.device("cpu"))
    alone = np.concatenate([predict(model, [row], torch.device("cpu")) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    with torch.no_grad():
        dropped = SequenceClassification().outputs(model, packed(rows), dropout_key=1).numpy()
    np.testing.assert_allclose(together, dropped, atol=1e-5)  # its dropout is 0


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    options = {**FAST, "epochs": 1, "baseline": False, "quiet": True}
    outputs = [
        bertsmith.finetune(
            folder, **tables, output=tmp_path / name, seeds=(seed,), **options
        ).output
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    weights = [(path / "model.safetensors").read_bytes() for path in outputs]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_several_seeds_and_random_weights_are_summed_up(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    options = {**FAST, "epochs": 2}
    found = bertsmith.finetune(
        folder, **tables, output=tmp_path / "out", seeds=(3, 5), quiet=True, **options
    )
    on_disk = json.loads((found.output / "results.json").read_text())
    assert {**on_disk, "output": str(found.output)} == found.results
    assert on_disk["seeds"] == [3, 5]
    assert on_disk["majority_accuracy"] == 0.5
    assert on_disk["rows"]["train"] == 160
    for kind in ("pretrained", "random"):
        accuracy = on_disk[kind]["accuracy"]
        assert accuracy["mean"] == pytest.approx(np.mean(accuracy["values"]))
        assert accuracy["std"] == pytest.approx(np.std(accuracy["values"], ddof=1))
        assert len(on_disk[kind]["best_epochs"]) == 2
    values = on_disk["pretrained"]["accuracy"]["values"]
    assert on_disk["best_seed"] == [3, 5][int(np.argmax(values))]


def test_training_stops_early_and_keeps_the_best_moment(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    options = {**FAST, "epochs": 40, "patience": 3, "evaluations_per_epoch": 1}
    found = bertsmith.finetune(
        folder, **tables, output=tmp_path / "out", quiet=True, baseline=False, **options
    ).results["pretrained"]
    assert found["epochs"][0] == found["best_epochs"][0] + 3 < 40


def test_pairs_and_scores(folder: Path, tmp_path: Path) -> None:
    draw = random.Random(0)

    def table(name: str, number: int) -> Path:
        rows = []
        for _ in range(number):
            a, b = (draw.choices(WORDS, k=5) for _ in range(2))
            score = 100.5 + draw.choice([-1, 1]) * 3
            a[0] = "bird" if score > 100.5 else "crane"  # learnt surely, whatever the rounding
            rows.append({"sentence1": " ".join(a), "sentence2": " ".join(b), "score": score})
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    found = bertsmith.finetune(
        folder,
        train=table("train.jsonl", 200),
        validation=table("dev.jsonl", 50),
        test=table("test.jsonl", 7),
        output=tmp_path / "out",
        quiet=True,
        baseline=False,
        **{**FAST, "epochs": 20},
    )
    results = found.results
    assert (results["task"], results["metric"], results["classes"]) == ("scores", "spearman", [])
    assert results["pretrained"]["spearman"]["mean"] > 0.5
    lines = (found.output / "predictions-validation.tsv").read_text().splitlines()[1:]
    predicted, true = zip(*[map(float, line.split("\t")[1:]) for line in lines], strict=True)
    assert np.mean(predicted) == pytest.approx(100.5, abs=2)  # in the unit of the scores
    spearman = stats.spearmanr(predicted, true).statistic
    assert spearman == pytest.approx(results["pretrained"]["spearman"]["mean"], abs=1e-6)
    assert len((found.output / "predictions-test.tsv").read_text().splitlines()) == 8
    theirs = BertForSequenceClassification.from_pretrained(found.output)
    assert (theirs.num_labels, theirs.config.problem_type) == (1, "regression")


@pytest.mark.parametrize("number", [2, 4])
def test_metrics_of_classes_are_those_of_scikit_learn(number: int) -> None:
    draw = np.random.default_rng(number)
    task = Task(classes=tuple("abcd"[:number]))
    outputs = draw.normal(size=(50, number)).astype(np.float32)
    guesses, true = predictions_of(outputs, task), draw.integers(0, number, 50)
    found = metrics_of(guesses, true, task)
    average = "binary" if number == 2 else "macro"
    assert found == {
        "accuracy": pytest.approx(np.mean(guesses == true)),
        "f1": pytest.approx(sklearn_metrics.f1_score(true, guesses, average=average)),
        "matthews": pytest.approx(sklearn_metrics.matthews_corrcoef(true, guesses)),
    }
    if number == 2:  # by its definition
        hits = int(((guesses == 1) & (true == 1)).sum())
        assert found["f1"] == pytest.approx(2 * hits / ((guesses == 1).sum() + (true == 1).sum()))
    assert majority_accuracy(true) == max(np.mean(true == k) for k in range(number))


def test_metrics_of_scores_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    true = draw.normal(size=40).astype(np.float32)
    guesses = (true + draw.normal(size=40)).astype(np.float32)
    task = Task(classes=())
    found = metrics_of(guesses, true, task)
    assert found["spearman"] == pytest.approx(stats.spearmanr(guesses, true).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(guesses, true).statistic)
    assert metrics_of(np.ones(40, np.float32), true, task) == {"spearman": 0, "pearson": 0}


def test_guesses_of_one_class_have_figures() -> None:
    task = Task(classes=("a", "b"))
    found = metrics_of(np.zeros(4, np.int64), np.array([0, 1, 0, 0]), task)
    assert found == {"accuracy": 0.75, "f1": 0.0, "matthews": 0.0}


# Tables ---------------------------------------------------------------------


GLUE = {
    "SST-2": ("sentence\tlabel", 'a "fine" film\t1', ('a "fine" film', None), "1"),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '0\t1\t2\tHe said "go .\tShe went .',
        ('He said "go .', "She went ."),
        "0",
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\twhy ?\thow ?\t0",
        ("why ?", "how ?"),
        "0",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tf\t2012\t1\tnone\tnone\ta plane\ta jet\t4.200",
        ("a plane", "a jet"),
        "4.200",
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tx\tone\ttwo\tneutral\tneutral",
        ("one", "two"),
        "neutral",
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        "0\twho ?\the .\tentailment",
        ("who ?", "he ."),
        "entailment",
    ),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailment", ("a", "b"), "entailment"),
    "CoLA": ("gj04\t1\t\tthe sailors rode .", "gj04\t0\t*\trode .", ("rode .", None), "0"),
}


@pytest.mark.parametrize("name", GLUE)
def test_the_layouts_of_glue_are_known(name: str, tmp_path: Path) -> None:
    header, line, texts, label = GLUE[name]
    path = tmp_path / "train.tsv"
    path.write_text(f"{header}\n{line}\n")
    found = read_labelled(path, LabelledConfig())
    assert (found.texts[-1], (found.labels or [""])[-1]) == (texts, label)
    assert len(found) == (2 if name == "CoLA" else 1)
    assert found.lines[-1] == 2


def test_formats_and_packed_files_give_the_same_rows(tmp_path: Path) -> None:
    rows = [('say "no", twice', 1), ("a tab is none", 0)]
    (tmp_path / "t.csv").write_text('text,label\n"say ""no"", twice",1\na tab is none,0\n')
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    )
    with gzip.open(tmp_path / "t.tsv.gz", "wt") as stream:
        stream.write('text\tlabel\nsay "no", twice\t1\na tab is none\t0\n')
    for name in ("t.csv", "t.jsonl", "t.tsv.gz"):
        found = read_labelled(tmp_path / name, LabelledConfig())
        assert found.texts == [(text, None) for text, _ in rows], name
        assert [str(label) for label in found.labels or []] == ["1", "0"], name


def test_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", [("x", "a", "b", "c")], "id\tbody\ttitle\tkind")
    config = LabelledConfig(text_column="title", text_pair_column="body", label_column="kind")
    found = read_labelled(path, config)
    assert (found.texts, found.labels) == ([("b", "a")], ["c"])


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["0", "1", "10", "2"], "auto", ("0", "1", "2", "10")),
        ([1, 0, 1], "auto", ("0", "1")),
        (["pos", "neg"], "auto", ("neg", "pos")),
        ([True, False], "auto", ("False", "True")),
        (["1.5", "2"], "auto", ()),
        ([1.0, 2.0], "auto", ()),
        (["1", "3"], "scores", ()),
        (["1.5", "2"], "classes", ("1.5", "2")),
        (["²", "³"], "auto", ("²", "³")),
        (["01", "1", "001"], "auto", ("001", "01", "1")),
        ([10**400, 1], "auto", ("1", str(10**400))),
    ],
)
def test_what_labels_are(
    labels: list[Any], kind: Any, classes: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": x}) + "\n" for x in labels))
    config = LabelledConfig(task=kind)
    table = read_labelled(path, config)
    task = task_of(table, config)
    assert task.classes == classes
    if classes:
        assert [classes[number] for number in task.targets(table)] == [str(x) for x in labels]
    else:
        assert task.targets(table).tolist() == [float(x) for x in labels]


def test_numbered_classes_can_be_given_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", [("a", 0), ("b", 1)])
    config = LabelledConfig(label_names=("negative", "positive"))
    task = task_of(read_labelled(path, config), config)
    assert task.classes == ("negative", "positive")
    assert task.targets(read_labelled(path, config)).tolist() == [0, 1]


def test_rows_that_lack_something_are_left_out_and_said(tmp_path: Path) -> None:
    rows: list[tuple[str, Any]] = [("a", 0), ("b", 1)] * 100
    path = write(tmp_path / "t.tsv", rows)
    with path.open("a") as stream:
        stream.write("no label\nfine\t1\n")
    with pytest.warns(UserWarning, match="line 202: no label in the column 'label'"):
        found = read_labelled(path, LabelledConfig())
    assert (len(found), found.num_left_out) == (201, 1)
    with pytest.warns(UserWarning), pytest.raises(BertsmithError, match=r"all but 0\.1%"):
        read_labelled(path, LabelledConfig(max_bad_rows=0.001))


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        ("", {}, "must hold text; it is empty"),
        ("sentence\tlabel\n", {}, "must have rows under its header"),
        ("sentence\tlabel\na\t1\nb\t1\n", {}, "two classes or more; all of its 2 rows"),
        ("sentence\tkind\na\t1\nb\t0\n", {}, "a column of labels; of 'sentence', 'kind'"),
        ("body\tlabel\na\t1\nb\t0\n", {}, "a column of texts"),
        ("text\tlabel\na\t1\nb\t0\n", {"label_column": "lable"}, "did you mean label"),
        ("text\tlabel\na\t1\nb\t0\n", {"text_column": "txt"}, "must have a column 'txt'"),
        ("text\tlabel\na\t1.5\nb\tx\n", {"task": "scores"}, "line 3: the label must be a number"),
        ("text\tlabel\n" + "a\t1.5\n" * 20 + "b\tN/A\n", {}, "line 22: .* got 'N/A'"),
        ("text\tlabel\na\t1.5\nb\t1e39\n", {"task": "scores"}, "line 3: .* at most 1e.15"),
        ("text\tlabel\na\t1.5\n", {}, "must have 2 rows or more"),
        ("text\ttext\tlabel\na\tb\t1\n", {}, "one column 'text'; it has several"),
        ("text\tlabel\n \t1\nb\t0\nc\t1\n", {}, "no text in the column 'text'"),
        ("text\tlabel\na\t1.5\nb\t1.5\n", {}, "must have different scores"),
        ("text\tlabel\na\t1\nb\t0\n", {"metric": "spearman"}, "accuracy or f1 or matthews"),
        ("text\tlabel\na\t1\nb\t0\n", {"label_names": ("x",)}, "needs labels from 0 to 0"),
        ("text\tlabel\na\t1\nb\t0\n", {"max_length": 99}, "from 4 to the model's 40"),
        ("text\tlabel\na\t1\nb\t0\n", {"sedes": (1,)}, "did you mean seeds"),
        ("text\ttext_pair\tlabel\na\tb\t1\nb\tc\t0\n", {}, "must hold pairs of texts"),
    ],
)
def test_what_does_not_suit_is_said_and_leaves_nothing(
    train: str, settings: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(train)
    validation = write(tmp_path / "dev.tsv", [("a", 1), ("b", 0)])
    warnings.simplefilter("ignore", UserWarning)  # of rows that are left out
    with pytest.raises(BertsmithError, match=message):
        bertsmith.finetune(
            folder,
            train=path,
            validation=validation,
            output=tmp_path / "out",
            quiet=True,
            **settings,
        )
    assert not (tmp_path / "out").exists()


def test_a_test_set_needs_no_labels_and_keeps_its_lines(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    test = tmp_path / "test.tsv"
    test.write_text("index\tsentence\tlabel\n0\ta bird\t-\n\n1\tthe crane\t?\n")
    found = bertsmith.finetune(
        folder,
        **tables,
        test=test,
        output=tmp_path / "out",
        quiet=True,
        baseline=False,
        **{**FAST, "epochs": 1},
    )
    lines = (found.output / "predictions-test.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["line", "prediction", "no", "yes"]
    assert [line.split("\t")[0] for line in lines[1:]] == ["2", "4"]


def test_a_table_of_bad_rows_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("text\tlabel\na\t-\n")
    with pytest.warns(UserWarning), pytest.raises(BertsmithError, match="1 of 1 have not"):
        read_labelled(path, LabelledConfig(max_bad_rows=1.0))


@pytest.mark.filterwarnings("ignore:.*no word that the model knows")
def test_an_unseen_label_is_said_with_its_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BertsmithError, match=r"dev\.tsv, line 3.*got 'maybe'"):
        bertsmith.finetune(
            folder,
            train=write(tmp_path / "train.tsv", rows_of(8)),
            validation=write(tmp_path / "dev.tsv", [("a", "yes"), ("b", "maybe")]),
            output=tmp_path / "out",
            quiet=True,
        )


@pytest.mark.parametrize("name", ["t.txt", "t"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BertsmithError, match=r"\.tsv, \.csv, \.jsonl"):
        read_labelled(write(tmp_path / name, rows_of(4)), LabelledConfig())


def test_json_rows_have_the_columns_of_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"text": "a", "label": 1}\n{"text": "b", "text_pair": "c", "label": 0}\n'
        '{"text": "\\ud800", "text_pair": "c", "label": 0}\n'
    )
    with pytest.warns(UserWarning, match="no text in the column 'text_pair'|half of a surrogate"):
        found = read_labelled(path, LabelledConfig(max_bad_rows=0.9))
    assert (found.texts, found.num_left_out) == ([("b", "c")], 2)


@pytest.mark.parametrize(("line", "problem"), [("{", "not JSON"), ("[1]", "not a JSON object")])
def test_json_that_is_none_is_said_with_its_line(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": 1}\n' + line + "\n")
    with pytest.warns(UserWarning, match=f"line 2: {problem}; left out"):
        found = read_labelled(path, LabelledConfig(max_bad_rows=0.5))
    assert (len(found), found.num_left_out) == (1, 1)
    with pytest.warns(UserWarning), pytest.raises(BertsmithError, match=f"1 of 2 .*{problem}"):
        read_labelled(path, LabelledConfig())


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = np.array([0, 0, 0, 1, 2, 2])
    task = Task(classes=("a", "b", "c"))
    cpu, balanced = torch.device("cpu"), FinetuneConfig(class_weights="balanced")
    found = class_weights(targets, task, balanced, cpu)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert class_weights(targets, task, FinetuneConfig(), cpu) is None


def test_rare_classes_can_weigh_more(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(200)
    rare = [row for i, row in enumerate(rows) if row[1] == "no" or i % 20 == 0]
    train = write(tmp_path / "train.tsv", rare)
    validation = write(tmp_path / "dev.tsv", rows_of(60, seed=2))
    shares = []
    for weights in ("none", "balanced"):
        found = bertsmith.finetune(
            folder,
            train=train,
            validation=validation,
            output=tmp_path / weights,
            quiet=True,
            baseline=False,
            **{
                **FAST,
                "epochs": 2,
                "learning_rate": 0.003,
                "class_weights": weights,
            },
        )
        lines = (found.output / "predictions-validation.tsv").read_text().splitlines()[1:]
        shares.append(np.mean([float(line.split("\t")[-1]) for line in lines]))
    assert shares[1] > shares[0] + 0.02


def test_only_an_earlier_finetuning_is_replaced(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    options = {**FAST, "epochs": 1, "baseline": False, "quiet": True}
    output = tmp_path / "out"
    bertsmith.finetune(folder, **tables, output=output, **options)
    before = (output / "results.json").read_bytes()
    with pytest.raises(BertsmithError, match="already holds a fine-tuned model"):
        bertsmith.finetune(folder, **tables, output=output, **options)
    assert (output / "results.json").read_bytes() == before
    bertsmith.finetune(folder, **tables, output=output, overwrite=True, seeds=(4,), **options)
    assert json.loads((output / "results.json").read_text())["seeds"] == [4]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BertsmithError, match="other files"):
        bertsmith.finetune(folder, **tables, output=tmp_path / "mine", overwrite=True, **options)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_batches_hold_each_row_once_an_epoch_also_if_other_processes_make_them() -> None:
    rows = [Row([2, 5 + i, *[9] * (i % 5), 3], [0] * (3 + i % 5)) for i in range(20)]
    targets = (np.arange(20) / 7).astype(np.float32)

    draw = partial(labelled_rows, rows, targets)
    batches = RowBatches(len(rows), draw, batch_size=8, seed=1)
    seen: list[float] = []
    with BatchesAhead(batches.batch, pin_memory=False, num_workers=1) as ahead:
        for number in range(5):
            batch, made = batches.batch(number), ahead.batch(number)
            assert list(batch.lengths) == sorted(batch.lengths, reverse=True)
            for name, value in vars(batch).items():
                other = getattr(made, name)
                is_tensor = isinstance(value, torch.Tensor)
                assert torch.equal(other, value) if is_tensor else other == value, name
            seen += batch.sequence_labels.tolist()
    assert sorted(seen) == sorted(2 * targets.tolist())
    parts = [
        RowBatches(len(rows), draw, batch_size=8, seed=1, ranks=Ranks(rank, 3)).batch(2)
        for rank in range(3)
    ]
    whole = batches.batch(2)
    starts = [start for part in parts for start in part.starts]
    assert sorted(starts) == sorted(whole.starts)
    labels = torch.cat([part.sequence_labels for part in parts]).tolist()
    assert sorted(labels) == sorted(whole.sequence_labels.tolist())


def test_narrower_networks_learn_at_higher_rates() -> None:
    assert default_learning_rate(768) == pytest.approx(3e-5)
    assert 1e-4 < default_learning_rate(256) < default_learning_rate(128) < 1e-3


def test_settings_are_held_to_what_they_mean() -> None:
    refused: list[dict[str, Any]] = [
        *({"epochs": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"seeds": ("a",)}),
        *({"dropout_prob": 1.0}, {"warmup_ratio": 1.1}, {"max_grad_norm": -1.0}),
    ]
    for settings in refused:
        with pytest.raises(BertsmithError):
            FinetuneConfig(**settings)
    with pytest.raises(BertsmithError, match="text_column"):
        LabelledConfig(text_pair_column="b")


# Probing --------------------------------------------------------------------


def test_a_probe_is_cross_validated_and_judged(folder: Path, tables: dict[str, Any]) -> None:
    found = bertsmith.probe(folder, **tables, folds=4, quiet=True, device="cpu")
    for kind in ("pretrained", "random"):
        accuracy = found[kind]["accuracy"]
        assert len(accuracy["values"]) == 4
        assert accuracy["mean"] == pytest.approx(np.mean(accuracy["values"]))
        assert 0.5 < found[kind]["validation"]["accuracy"] <= 1
    assert found["majority_accuracy"] == 0.5
    again = bertsmith.probe(folder, **tables, folds=4, quiet=True, device="cpu")
    assert again == found


def test_a_probe_of_scores(folder: Path, tmp_path: Path) -> None:
    rows = [(text, len(text) / 7) for text, _ in rows_of(60)]
    found = bertsmith.probe(
        folder,
        train=write(tmp_path / "t.tsv", rows, "text\tscore"),
        baseline=False,
        quiet=True,
        label_column="score",
        pooling="cls",
    )
    assert set(found["pretrained"]) == {"spearman", "pearson"}
    assert math.isfinite(found["pretrained"]["spearman"]["mean"])


def test_a_probe_says_what_was_cut_and_refuses_other_kinds(folder: Path, tmp_path: Path) -> None:
    rows = [("a bird " * 40, "x"), ("crane", "y")] * 5
    train = write(tmp_path / "t.tsv", rows)
    validation = write(tmp_path / "v.tsv", [("a", "x")])
    with pytest.warns(UserWarning, match=r"t\.tsv: 5 of 10 texts were cut to 32") as caught:
        found = bertsmith.probe(folder, train=train, validation=validation, quiet=True)
    assert len(caught) == 1, "not again for the random encoder"
    assert (found["rows"]["train_cut"], found["rows"]["validation_cut"]) == (5, 0)
    assert (found["majority_accuracy"], found["validation_majority_accuracy"]) == (0.5, 1.0)
    pairs = write(tmp_path / "p.tsv", [("a", "b", "x")], "text\ttext_pair\tlabel")
    with pytest.raises(BertsmithError, match="must hold single texts"):
        bertsmith.probe(folder, train=train, validation=pairs, quiet=True)


def test_what_cannot_be_written_is_said_before_the_work(
    folder: Path, tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.finetuning.train.Training.run", None)  # would be called
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BertsmithError, match="Cannot write to"):
        bertsmith.finetune(folder, **tables, output=tmp_path / "file" / "x", quiet=True)


@pytest.mark.filterwarnings("ignore:.*texts were cut")
def test_an_output_that_is_a_link_keeps_it(
    folder: Path, tables: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    options = {**FAST, "epochs": 1, "baseline": False, "quiet": True}
    bertsmith.finetune(folder, **tables, output=tmp_path / "link", max_length=9, **options)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "results.json").is_file()
    settings = json.loads((tmp_path / "real" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 9


def test_pairs_need_a_model_of_two_segments(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape = BertConfig(hidden_size=16, type_vocab_size=1, max_position_embeddings=40)
    bert = Bert(shape, tokenizer.vocab_size)
    bert.initialize(0)
    (tmp_path / "m").mkdir()
    Snapshot.of(bert, tokenizer).write(tmp_path / "m")
    rows = [("a", "b", "x"), ("a", "b", "y")]
    table = write(tmp_path / "p.tsv", rows, "text\ttext_pair\tlabel")
    with pytest.raises(BertsmithError, match="one segment"):
        bertsmith.finetune(
            tmp_path / "m", train=table, validation=table, output=tmp_path / "o", quiet=True
        )


def test_a_class_with_fewer_rows_than_folds_is_said(folder: Path, tmp_path: Path) -> None:
    rows = [("a b", "x")] * 9 + [("c", "y")] * 2
    with pytest.raises(BertsmithError, match=r"5 folds; it has 2 rows of the class 'y'"):
        bertsmith.probe(folder, train=write(tmp_path / "t.tsv", rows), quiet=True)


# The command line -----------------------------------------------------------


def test_the_commands(
    folder: Path, tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--train", str(tables["train"]), "--validation", str(tables["validation"])]
    output = str(tmp_path / "out")
    commands = {
        "finetune": ["--output", output, "--epochs", "1", "--seeds", "0", "1", "--device", "cpu"],
        "probe": ["--folds", "3", "--device", "cpu"],
    }
    for name, flags in commands.items():
        with pytest.raises(SystemExit) as stop:
            main([name, str(folder), *files, *flags])
        out = capsys.readouterr().out
        assert stop.value.code == 0
        assert "random weights" in out
        assert "points" in out
        assert "the most frequent class alone: accuracy 50.0%" in out
    with pytest.raises(SystemExit) as stop:
        main(["finetune", str(folder), *files, "--output", output])
    assert stop.value.code == 1
    assert "--overwrite" in capsys.readouterr().err
