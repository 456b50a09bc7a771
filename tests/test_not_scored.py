"""Nothing scored is not perfect: text of unknown words, labels that tell nothing, NaN weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bertsmith
from bertsmith.architectures import CLASSIFIER, build
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Sizes
from bertsmith.cli.main import main
from bertsmith.config import BertConfig, DataConfig
from bertsmith.data.store import build_store
from bertsmith.errors import BertsmithError, DivergenceError, ModelError
from bertsmith.evaluation.held_out import evaluate, evaluation_batches
from bertsmith.evaluation.pseudo import pseudo_perplexity
from bertsmith.finetuning.labels import Task
from bertsmith.finetuning.metrics import metrics_of, spread_of
from bertsmith.finetuning.sequences import predict
from bertsmith.preparation import vocabulary
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.rows import Row
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.run import Run
from bertsmith.training.sums import Sums
from tests.support.labelled import rows_of, write
from tests.support.objective import OBJECTIVE
from tests.support.runs import TINY_RUN

CPU = torch.device("cpu")


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A text of which the vocabulary of the fixtures has no word and no mark."""
    path = tmp_path / "unknown.txt"
    path.write_text("Qux quux corge? Grault garply waldo?\nFred plugh? Xyzzy thud?\n\n" * 40)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, told.out, told.err


def strict(text: str) -> Any:
    """JSON, in which NaN is no word."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_evaluating_on_unknown_words_gives_null_and_says_why(
    finished_run: Run, unknown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("evaluate", finished_run.output, "--corpus", unknown)
    status, out, err = call(capsys, *command, "--json")
    assert status == 0
    figures = strict(out)
    for name in ("mlm_loss", "mlm_perplexity", "mlm_accuracy"):
        assert figures[f"validation_{name}"] is None
    assert figures["validation_num_masked_tokens"] == 0
    assert figures["validation_by_length"] == figures["validation_by_frequency"] == []
    assert figures["validation_pseudo"]["loss"] is None
    assert figures["validation_nsp_loss"] > 0
    said = [line for line in err.splitlines() if "No masked token was scored" in line]
    assert len(said) == 1
    status, out, _ = call(capsys, *command)
    assert status == 0
    (loss,) = [line for line in out.splitlines() if line.startswith("MLM perplexity")]
    assert loss.split()[2] == "–"


def test_a_text_that_is_mostly_unknown_is_said_beside_its_figures(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("The qux quux corge. Grault garply bird waldo.\n" * 40)
    command = ("evaluate", finished_run.output, "--corpus", text, "--json")
    status, out, err = call(capsys, *command)
    assert status == 0
    assert strict(out)["validation_mlm_loss"] > 0
    assert "60% of the tokens of this text are unknown" in err


def test_figures_of_no_masked_token(tiny_model: Bert, tokenizer: Tokenizer) -> None:
    store, _ = build_store([[["qux quux", "corge grault"]]], tokenizer)
    batches = evaluation_batches(store, tokenizer, DataConfig(max_length=24))
    assert batches is not None
    assert not batches.has_words()
    found = evaluate(tiny_model, OBJECTIVE, batches, device=CPU, micro_batch=64)
    assert (
        found.figures["mlm_loss"],
        found.figures["mlm_perplexity"],
        found.figures["mlm_accuracy"],
    ) == (None, None, None)
    assert found.is_finite
    assert found.metrics()["validation_mlm_loss"] is None
    pseudo = pseudo_perplexity(
        tiny_model, store, tokenizer, num_sentences=9, device=CPU, tokens_at_once=64
    )
    assert (pseudo.loss, pseudo.perplexity, pseudo.num_tokens) == (None, None, 0)


def test_a_step_without_a_masked_token_has_no_loss() -> None:
    assert Sums(num_pairs=2, num_sequences=2, losses={"nsp": 1.0}).means(OBJECTIVE) == {
        "mlm_loss": None,
        "nsp_loss": 0.5,
    }
    sums = Sums(num_masked=4, losses={"mlm": 2.0})
    sums.add({"mlm": 0.0, "nsp": 0.0}, Sizes(1, 1, 8, 0, 64, 0, 0), 1.0)
    assert sums.means(OBJECTIVE)["mlm_loss"] == 0.5


@pytest.mark.parametrize("is_prepared", [False, True])
def test_training_on_unknown_words_is_refused_before_anything_is_written(
    is_prepared: bool,
    finished_run: Run,
    unknown: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = "At least half of a text's words must be in the vocabulary"
    if is_prepared:  # by who did not look at that
        monkeypatch.setattr(vocabulary, "refuse_unknown", lambda *_: None)
        message = r"all tokens of its \d+ examples are unknown"
    with pytest.raises(BertsmithError, match=message):
        bertsmith.pretrain(
            unknown,
            init_from=str(finished_run.output),
            output=tmp_path / "r",
            steps=2,
            batch_size=4,
            device="cpu",
            quiet=True,
        )
    assert not (tmp_path / "r").exists()


def test_validation_on_unknown_words_is_null_in_the_log(
    text_file: Path, unknown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bertsmith.pretrain(
        text_file,
        validation=(str(unknown),),
        output=tmp_path / "r",
        steps=2,
        quiet=True,
        **TINY_RUN,
    )
    assert "validation will score no masked token" in capsys.readouterr().err
    assert run.metrics["validation_mlm_loss"] is None
    lines = read_metrics(run.output)
    validated = [line for line in lines if "validation_num_pairs" in line]
    assert validated
    assert all(line["validation_mlm_loss"] is None for line in validated)
    closing = [line for line in run.closing_lines() if line.startswith("validation: ")]
    assert "no masked token" in closing[0]
    assert "NSP loss" in closing[0]


def spoil(folder: Path, name: str, value: float, dtype: torch.dtype = torch.float32) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = weights[name].to(dtype)
    weights[name].view(-1)[-1] = value
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (float("nan"), torch.float32),
        (float("inf"), torch.float32),
        (float("-inf"), torch.float16),
        (1e300, torch.float64),  # not in float32
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(
    value: float, dtype: torch.dtype, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "bert.encoder.layer.1.attention.self.key.weight"
    spoil(folder, name, value, dtype)
    for command in (
        ("encode", folder, "the crane"),
        ("fill", folder, "the [MASK]", "--json"),
        ("next", folder, "the crane", "a bird", "--json"),
        ("evaluate", folder, "--corpus", "python-docs", "--json"),
        ("similar", folder, "--word", "crane", folder / "config.json", "--json"),
    ):
        status, out, err = call(capsys, *command)
        assert (status, out) == (1, ""), command
        assert name in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.encode("the crane"),
        lambda model: model.fill("the [MASK]"),
        lambda model: model.next_sentence("the crane", "a bird"),
    ],
)
def test_results_that_are_no_numbers_are_refused(
    use: Callable[[Any], object], folder: Path
) -> None:
    for name in ("bert.encoder.layer.1.output.LayerNorm.bias", "cls.predictions.bias"):
        spoil(folder, name, 3e38)
    spoil(folder, "cls.predictions.transform.LayerNorm.weight", 3e38)
    spoil(folder, "bert.pooler.dense.weight", 3e38)
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.LayerNorm.bias"][:] = 3e38
    weights["cls.seq_relationship.weight"][:] = 3e38
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="finite"):
        use(bertsmith.load(folder, device="cpu"))


SCORES = Task(classes=())
CLASSES = Task(classes=("a", "b"))


@pytest.mark.parametrize(
    ("task", "guesses", "targets", "expected"),
    [
        (SCORES, [0.1, 0.2], [1.0, 1.0], {"spearman": None, "pearson": None}),
        (SCORES, [1.0, 1.0], [0.1, 0.2], {"spearman": 0, "pearson": 0}),
        (CLASSES, [0, 0], [0, 0], {"accuracy": 1, "f1": None, "matthews": None}),
        (CLASSES, [0, 1], [0, 0], {"accuracy": 0.5, "f1": None, "matthews": None}),
        (CLASSES, [0, 1], [1, 1], {"accuracy": 0.5, "f1": pytest.approx(2 / 3), "matthews": None}),
        (CLASSES, [0, 0], [0, 1], {"accuracy": 0.5, "f1": 0, "matthews": 0}),
    ],
)
def test_what_labels_cannot_tell_is_none(
    task: Task, guesses: list[float], targets: list[float], expected: dict[str, Any]
) -> None:
    kind = np.float32 if task.is_regression else np.int64
    assert metrics_of(np.array(guesses, kind), np.array(targets, kind), task) == expected  # type: ignore[arg-type]


def test_means_are_over_what_is_known() -> None:
    assert spread_of([None, None]) == {"mean": None, "std": None, "values": [None, None]}
    assert spread_of([0.5, None]) == {"mean": 0.5, "std": None, "values": [0.5, None]}


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([1.5, 1.5, 1.5], {}, r"different scores .* `metric` spearman; all 3 are 1\.5"),
        (
            [0, 0, 0],
            {"metric": "matthews"},
            "different classes .* `metric` matthews; all 3 are '0'",
        ),
        ([0, 0, 0], {"metric": "f1"}, "different classes .* `metric` f1"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no word that the model knows")
def test_a_best_moment_needs_rows_that_tell_it(
    labels: list[float], settings: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    of_train = [0.5, 1.5, 2.5] if labels[0] else [0, 1, 0]
    train = write(tmp_path / "t.tsv", list(zip("abc", of_train, strict=True)))
    validation = write(tmp_path / "v.tsv", list(zip("abc", labels, strict=True)))
    with pytest.raises(BertsmithError, match=message):
        bertsmith.finetune(
            folder,
            train=train,
            validation=validation,
            output=tmp_path / "o",
            device="cpu",
            quiet=True,
            **settings,
        )
    assert not (tmp_path / "o").exists()


def test_a_probe_shows_what_validation_rows_cannot_tell(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "t.tsv", rows_of(40))
    validation = write(tmp_path / "v.tsv", [row for row in rows_of(40) if row[1] == "no"][:4])
    command = ("probe", folder, "--train", train, "--validation", validation, "--device", "cpu")
    status, out, err = call(capsys, *command, "--quiet", "--json")
    assert status == 0, err
    assert strict(out)["pretrained"]["validation"]["matthews"] is None
    status, out, _ = call(capsys, *command, "--quiet")
    assert status == 0
    (row,) = [line for line in out.splitlines() if line.startswith("matthews, validation")]
    assert row.split()[2:] == ["–", "–", "–"]


def test_outputs_that_are_no_numbers_are_not_taken_for_a_class() -> None:
    shape = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = build(shape, 30, frozenset({CLASSIFIER}), num_labels=2)
    model.initialize(0)
    assert predict(model, [Row([1, 2], [0, 0])], CPU).shape == (1, 2)
    torch.nn.init.constant_(model.get_submodule(CLASSIFIER).get_parameter("bias"), float("nan"))
    with pytest.raises(DivergenceError, match="not finite"):
        predict(model, [Row([1, 2], [0, 0])], CPU)
