"""Minimal pairs: scores held against transformers by hand, floors, ties, and wrong tables."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import PairColumns
from bertsmith.corpus.minimal_pairs import read_minimal_pairs
from bertsmith.errors import BertsmithError, CorpusError, InputError, ModelError
from bertsmith.evaluation.pll import masked_copies
from bertsmith.training.run import Run
from tests.support.runs import TINY_RUN

PAIRS = [
    ("The crane lifts a beam.", "The crane lift a beam."),
    ("The driver waits near the house.", "The driver waiting near the house."),
    ("A bird flies over the river.", "A bird fly over the river and the unhurried hills."),
    ("Winter comes.", "Winter comes."),
]


def rows(paradigm: str = "agreement") -> str:
    return "".join(
        json.dumps(
            {
                "sentence_good": good,
                "sentence_bad": bad,
                "UID": paradigm,
                "linguistics_term": "morphology",
            }
        )
        + "\n"
        for good, bad in PAIRS
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "agreement.jsonl"
    path.write_text(rows())
    return path


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def trained(
    request: pytest.FixtureRequest, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Of pieces, weights far from their beginning."""
    settings: dict[str, Any] = {**TINY_RUN, "vocab_size": 70, "tokenizer": "wordpiece"}
    settings |= {"max_length": 48}
    if request.param == "modernbert":
        settings |= {"architecture": "modernbert", "objective": "mlm", "tokenizer": "bpe"}
        settings |= {"vocab_size": 290, "lowercase": False}
    folder = tmp_path_factory.mktemp(request.param) / "run"
    run = bertsmith.pretrain(text_file, output=folder, steps=2, quiet=True, **settings)
    file = folder / "model" / "model.safetensors"
    draw = torch.Generator().manual_seed(0)
    weights = {
        name: value + 0.2 * torch.randn(value.shape, generator=draw)
        for name, value in load_file(file).items()
    }
    save_file(weights, file, {"format": "pt"})
    (folder / "model" / "SHA256SUMS").unlink()
    return run


def by_hand(folder: Path, text: str, pll_metric: str) -> tuple[float, int]:
    """The score of a sentence by transformers, a forward pass for each token, and its length."""
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding = tokenizer(text, return_tensors="pt")
    ids = encoding["input_ids"][0]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    are_pieces = any(token.startswith("##") for token in tokenizer.get_vocab())

    def goes_on(token: str) -> bool:
        if are_pieces:
            return token.startswith("##")
        return token.isalpha() and not token.startswith("\u0120")  # the byte of a space

    total = 0.0
    for place in range(1, len(ids) - 1):
        masked = ids.clone()
        masked[place] = tokenizer.mask_token_id
        for following in range(place + 1, len(ids) - 1):
            if pll_metric == "original" or not goes_on(tokens[following]):
                break
            masked[following] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(input_ids=masked[None]).logits[0, place]
        total += float(logits.log_softmax(0)[ids[place]])
    return total, len(ids) - 2


@pytest.mark.parametrize("pll_metric", ["within_word_l2r", "original"])
@pytest.mark.parametrize("per_token", [False, True])
def test_scores_are_those_of_transformers(
    trained: Run, table: Path, pll_metric: Any, per_token: bool
) -> None:
    found = bertsmith.evaluate_minimal_pairs(
        trained.output, table, pll_metric=pll_metric, per_token=per_token, device="cpu"
    )
    right = 0
    for (good, bad), scores in zip(PAIRS, found.scores, strict=True):
        expected = [by_hand(trained.output / "model", text, pll_metric) for text in (good, bad)]
        assert (scores.good, scores.bad) == pytest.approx([e[0] for e in expected], rel=1e-5)
        assert [scores.num_good_tokens, scores.num_bad_tokens] == [e[1] for e in expected]
        good_score, bad_score = (e[0] / (e[1] if per_token else 1) for e in expected)
        right += good != bad and good_score > bad_score
    assert found.overall.accuracy == right / len(PAIRS)
    assert found.overall.num_ties == 1


def test_a_word_of_several_pieces_is_masked_from_the_scored_one_on(trained: Run) -> None:
    settings = (trained.output / "config.toml").read_text()
    if "modernbert" in settings:
        pytest.skip("one architecture will do")
    by_word = by_hand(trained.output / "model", PAIRS[0][0], "within_word_l2r")
    alone = by_hand(trained.output / "model", PAIRS[0][0], "original")
    assert by_word[1] > len(PAIRS[0][0].split()) + 1  # it has such words
    assert by_word[0] != pytest.approx(alone[0], rel=1e-3)


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_copies_mask_the_rest_of_the_word(continues: list[list[bool]]) -> None:
    inner = np.array(continues)
    rows = np.arange(5 * len(inner)).reshape(-1, 5) + 10
    whole = np.zeros(rows.shape, dtype=bool)
    whole[:, 1:-1] = inner
    copies, labels = masked_copies(rows, whole, 0)
    assert labels.tolist() == rows[:, 1:-1].reshape(-1).tolist()
    for number, copy in enumerate(copies):
        row, place = rows[number // 3], number % 3 + 1
        last = place
        while last < 3 and whole[number // 3][last + 1]:
            last += 1
        expected = [0 if place <= i <= last else int(row[i]) for i in range(5)]
        assert copy.tolist() == expected


def test_a_folder_has_means_over_its_paradigms(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "one.jsonl").write_text(rows("one") * 3)
    (folder / "two.jsonl").write_text(rows("two").splitlines()[3] + "\n")  # the tie alone
    (folder / "README.md").write_text("Pairs.")
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(trained.output), "--minimal-pairs", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    one, two = found["by_paradigm"]["one"], found["by_paradigm"]["two"]
    assert (one["num_pairs"], one["num_ties"], two["num_ties"]) == (12, 3, 1)
    assert two["accuracy"] == two["unigram_accuracy"] == two["random_accuracy"] == 0
    assert found["overall"]["accuracy"] == pytest.approx(one["accuracy"] / 2)
    assert found["overall"]["num_pairs"] == 13
    assert found["by_phenomenon"]["morphology"] == found["overall"]
    assert "scores" not in found


def test_the_table_shows_ties_floors_and_what_is_unknown(
    trained: Run, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.jsonl"
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                *("evaluate", str(trained.output), "--minimal-pairs", str(table)),
                *("--scores", str(scores)),
            ]
        )
    shown = capsys.readouterr().out
    assert "unigram" in shown
    assert "random" in shown
    assert "of the tokens are unknown" in shown
    written = [json.loads(line) for line in scores.read_text().splitlines()]
    assert [row["line"] for row in written] == [1, 2, 3, 4]
    assert written[3]["good_score"] == written[3]["bad_score"] < 0
    assert {row["paradigm"] for row in written} == {"agreement"}


def test_word_frequencies_are_a_floor(trained: Run, table: Path, tmp_path: Path) -> None:
    found = bertsmith.evaluate_minimal_pairs(trained.output, table, device="cpu")
    assert found.overall.unigram_accuracy is not None
    bare = bertsmith.evaluate_minimal_pairs(trained.output / "model", table, device="cpu")
    assert bare.scores == found.scores
    away = tmp_path / "copy"
    shutil.copytree(trained.output / "model", away)
    alone = bertsmith.evaluate_minimal_pairs(away, table, device="cpu")
    assert alone.overall.unigram_accuracy is None
    assert alone.scores == found.scores


def test_other_columns_and_kinds_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("right\twrong\tkind\nA bird flies.\tA bird fly.\tverbs\n")
    columns = PairColumns(good="right", bad="wrong", paradigm="kind")
    (pair,) = read_minimal_pairs(path, columns)
    assert pair == ("A bird flies.", "A bird fly.", "verbs", "", "pairs.tsv", 2)
    (pair,) = read_minimal_pairs(path, PairColumns(good="right", bad="wrong"))
    assert pair.paradigm == "pairs"
    for flag in ("paradigm", "phenomenon"):
        with pytest.raises(CorpusError, match=f"the column 'typo'; .* --{flag}-column"):
            read_minimal_pairs(path, PairColumns(good="right", bad="wrong", **{flag: "typo"}))
    with pytest.raises(CorpusError, match=r"sentence_good.*--good-column"):
        read_minimal_pairs(path, PairColumns())
    path.write_text("sentence_good\tsentence_bad\n")
    with pytest.raises(CorpusError, match="must have rows"):
        read_minimal_pairs(path, PairColumns())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "it is empty"),
        ('{"sentence_good": "A."}\n', "line 1.*sentence_bad.*--bad-column"),
        ('{"sentence_good": "A.", "sentence_bad": ""}\n', "line 1"),
        ('{"sentence_good": "A.", "sentence_bad": 3}\n', "line 1"),
        ('{"sentence_good": "A.", "sentence_bad": " "}\n', "line 1"),
        ('{"sentence_good": ["A."], "sentence_bad": "B."}\n', "line 1"),
        ('{"sentence_good": "A.", "sentence_bad": "\\ud800"}\n', "line 1"),
        ("[1]\n", "line 1.*not a JSON object"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=expected):
        read_minimal_pairs(path, PairColumns())


def test_groups_are_clear(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = {"sentence_good": "A.", "sentence_bad": "B."}
    path.write_text(json.dumps({**pair, "UID": 7, "linguistics_term": "one"}) + "\n")
    assert read_minimal_pairs(path, PairColumns())[0].paradigm == "7"
    with path.open("a") as stream:
        stream.write(json.dumps({**pair, "UID": 7, "linguistics_term": "two"}) + "\n")
    with pytest.raises(CorpusError, match="'7' are of 'one' and 'two'"):
        read_minimal_pairs(path, PairColumns())


def test_unknown_words_count_in_the_floor_as_they_stand_in_the_text(
    text_file: Path, tmp_path: Path
) -> None:
    counted = Counter(text_file.read_text().lower().replace(".", " ").split()).most_common()
    least = counted[len(counted) * 3 // 4][1]
    # A part of the text is held out, so that a word must be there more often to be known.
    known = [word for word, count in counted if count >= 1.2 * least]
    settings: dict[str, Any] = {**TINY_RUN, "min_frequency": least, "steps": 1}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **settings)
    table = tmp_path / "pairs.jsonl"
    # Unknown words together are more frequent than the rarest known one.
    pair = {"sentence_good": counted[-1][0], "sentence_bad": known[-1]}
    table.write_text(json.dumps(pair) + "\n")
    found = bertsmith.evaluate_minimal_pairs(run.output, table, device="cpu")
    assert found.overall.share_unknown == 0.5
    assert found.overall.unigram_accuracy == 1.0


def test_wrong_places_are_refused(trained: Run, table: Path, tmp_path: Path) -> None:
    def judged(**how: Any) -> Any:
        return bertsmith.evaluate_minimal_pairs(
            **{"path": trained.output, "pairs": table, "device": "cpu", **how}
        )

    with pytest.raises(CorpusError, match="no file or folder"):
        judged(pairs=tmp_path / "none")
    with pytest.raises(CorpusError, match="must be a table"):
        (tmp_path / "empty").mkdir()
        judged(pairs=tmp_path / "empty")
    with pytest.raises(InputError, match="`pll_metric` must be"):
        judged(pll_metric="whole")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"sentence_good": "the " * 99, "sentence_bad": "a"}) + "\n")
    with pytest.raises(InputError, match="at most the 48 tokens"):
        judged(pairs=long)
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text(json.dumps({"sentence_good": "\x00\x7f", "sentence_bad": "a"}) + "\n")
    if trained.output.parent.name.startswith("bert"):  # bytes are never nothing
        with pytest.raises(InputError, match="line 1: a sentence must have tokens"):
            judged(pairs=nothing)
    with (tmp_path / "some.jsonl").open("w") as stream:
        stream.write(long.read_text() + rows())
    assert judged(pairs=tmp_path / "some.jsonl").num_long_pairs == 1


def test_a_model_without_its_head_is_refused(trained: Run, table: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(trained.output / "model").save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(trained.output / "model").save_pretrained(tmp_path / "bare")
    with pytest.raises(BertsmithError, match="MLM head") as raised:
        bertsmith.evaluate_minimal_pairs(tmp_path / "bare", table)
    assert isinstance(raised.value, ModelError)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--minimal-pairs", "X", "--similarity", "Y"], "one thing at a time"),
        (["--minimal-pairs", "X", "--sentences", "3"], "`sentences` changes nothing"),
        (["--minimal-pairs", "X", "--text-column", "a"], "`text_column` changes nothing"),
        (["--per-token"], "`per_token` changes nothing for held-out text"),
        (["--similarity", "X", "--scores", "Y"], "`scores` changes nothing for vectors"),
        (["--minimal-pairs", "X", "--scores", "no/folder/s"], "folder of --scores must exist"),
        (["--minimal-pairs", "X", "--scores", "."], "--scores must be a file"),
    ],
)
def test_flags_that_change_nothing_are_refused(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", "run", *flags])
    assert expected in capsys.readouterr().err
