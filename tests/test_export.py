"""Exported files: what onnxruntime makes of them, what they say, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard

import bertsmith
from bertsmith import extras
from bertsmith.architectures import CLASSIFIER, MLM_HEAD, TOKEN_CLASSIFIER, build
from bertsmith.cli.main import main
from bertsmith.config import BertConfig, ModelConfig, ModernBertConfig
from bertsmith.errors import ConfigError, MissingExtraError, ModelError, RunError
from bertsmith.exporting.export import TOLERANCE
from bertsmith.exporting.graph import to_onnx
from bertsmith.exporting.session import OnnxModel
from bertsmith.exporting.tasks import Exportable
from bertsmith.nn.padded import PaddedLayout
from bertsmith.reporting.card import _read_card
from bertsmith.rows import Row, packed
from bertsmith.saved.hugging_face import Snapshot, labels_config
from bertsmith.saved.sentence_transformers import Pooling, write_pooling
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.run import Run

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
CONFIGS: dict[str, ModelConfig] = {
    "bert": BertConfig(**SIZES, hidden_act="gelu"),
    "modernbert": ModernBertConfig(**SIZES, local_attention=8, classifier_pooling="mean"),
}
HEADS = {
    "fill-mask": MLM_HEAD,
    "text-classification": CLASSIFIER,
    "token-classification": TOKEN_CLASSIFIER,
    "sentence-similarity": None,
}
CLASSES = ["O", "B-animal", "I-animal"]


def make(
    folder: Path,
    tokenizer: Tokenizer,
    architecture: str,
    task: str,
    pooling: Pooling | None = None,
) -> Path:
    """A folder of a model for a task; weights are far from small, so that an error shows."""
    head = HEADS[task]
    heads = frozenset({head} if head else ())
    num_labels = len(CLASSES) if head not in (None, MLM_HEAD) else 0
    model = build(CONFIGS[architecture], tokenizer.vocab_size, heads, num_labels=num_labels)
    generator = torch.Generator().manual_seed(1)
    model.initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    folder.mkdir()
    found = Snapshot.of(model, tokenizer)
    labels = labels_config(CLASSES) if num_labels else {}
    replace(found, config={**found.config, **labels}).write(folder)
    if task == "sentence-similarity":
        write_pooling(folder, pooling or Pooling(), size=SIZES["hidden_size"], max_length=24)
    return folder


def rows_of(tokenizer: Tokenizer, *lengths: int) -> list[Row]:
    random = np.random.default_rng(3)
    return [Row(random.integers(5, tokenizer.vocab_size, n).tolist(), [0] * n) for n in lengths]


def kinds(*fast: tuple[str, str]) -> list[Any]:
    """All architectures and tasks; those that are not fast are marked slow."""
    return [
        pytest.param(a, t, marks=[] if (a, t) in fast else pytest.mark.slow, id=f"{a}-{t}")
        for a in CONFIGS
        for t in HEADS
    ]


@pytest.mark.parametrize(
    ("architecture", "task"),
    kinds(("modernbert", "text-classification")),
)
def test_a_graph_gives_what_the_model_gives(
    tokenizer: Tokenizer, tmp_path: Path, architecture: str, task: str
) -> None:
    exported = Exportable.load(make(tmp_path / "model", tokenizer, architecture, task))
    assert exported.task == task
    content = to_onnx(exported, 18).SerializeToString()
    session = OnnxModel(content, exported)
    assert session.interface["inputs"][-1] == (
        "token_type_ids" if architecture == "bert" else "attention_mask"
    )
    rows = rows_of(tokenizer, 32, 9, 4, 1)
    batch = packed(rows, tags=[[0] * len(row.ids) for row in rows])
    expected = exported.outputs(batch)
    torch.testing.assert_close(session.outputs(batch), expected, atol=2e-5, rtol=1e-5)
    # A row is the same whatever is beside it, so that its padding has another length.
    ends = np.cumsum([0, *(len(row.ids) for row in rows)])
    for number, row in enumerate(rows):
        alone = session.outputs(packed([row], tags=[[0] * len(row.ids)]))
        own = slice(ends[number], ends[number + 1]) if exported.is_of_tokens else [number]
        torch.testing.assert_close(alone, expected[own], atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23])
def test_every_opset_that_is_offered(tokenizer: Tokenizer, tmp_path: Path, opset: int) -> None:
    source = make(tmp_path / "model", tokenizer, "modernbert", "fill-mask")
    found = bertsmith.export(source, output=tmp_path / "out", opset=opset, quiet=True)
    domains = {entry.domain: entry.version for entry in onnx.load(found.file).opset_import}
    assert domains[""] == opset


@pytest.mark.slow
@pytest.mark.parametrize(
    "pooling", [Pooling(mode="cls", normalize=False), Pooling(mode="mean", normalize=False)]
)
def test_pooling_is_as_the_folder_says(
    tokenizer: Tokenizer, tmp_path: Path, pooling: Pooling
) -> None:
    source = make(tmp_path / "model", tokenizer, "bert", "sentence-similarity", pooling)
    found = bertsmith.export(source, output=tmp_path / "out", quiet=True)
    assert found.report["largest_difference"]["float32"] < TOLERANCE
    assert found.report["max_length"] == 24


@pytest.fixture(scope="module")
def vectors(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An export in 8 bits, whose model card names a licence and a language."""
    folder = tmp_path_factory.mktemp("vectors")
    source = make(folder / "model", tokenizer, "bert", "sentence-similarity")
    card = "---\nlanguage: [en]\nlicense: mit\n---\n\n# Vectors\n\n## Training\n\nLong.\n"
    (source / "README.md").write_text(card + "\n## Use\n\nNot so.\n")
    return source, bertsmith.export(source, output=folder / "out", quantize="int8", quiet=True)


@pytest.mark.slow
def test_8_bits_are_near_and_the_largest_matrix_is_among_them(
    vectors: Any, tokenizer: Tokenizer
) -> None:
    source, found = vectors
    assert found.file.name == "model_int8.onnx"
    graph = onnx.load(found.file).graph
    vocabulary = [e for e in graph.initializer if e.dims[:1] == [tokenizer.vocab_size]]
    assert {(tuple(e.dims[1:]), e.data_type) for e in vocabulary} == {
        ((32,), onnx.TensorProto.INT8),
        ((), onnx.TensorProto.FLOAT),
    }
    model = OnnxModel(found.file.read_bytes(), exported := Exportable.load(source))
    batch = packed(rows_of(tokenizer, 20, 7, 2))
    cosines = torch.cosine_similarity(model.outputs(batch), exported.outputs(batch))
    assert cosines.min() > 0.99
    sizes = found.report["bytes"]
    assert sizes["int8"] == found.file.stat().st_size < sizes["float32"]
    assert 0 < found.report["largest_difference"]["int8"] < 0.2
    assert found.report["figures"] is None


@pytest.mark.slow
def test_words_of_masks_share_their_matrix_in_8_bits(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = make(tmp_path / "model", tokenizer, "bert", "fill-mask")
    found = bertsmith.export(source, output=tmp_path / "out", quantize="int8", quiet=True)
    large = [e for e in onnx.load(found.file).graph.initializer if tokenizer.vocab_size in e.dims]
    assert [tuple(e.dims) for e in large if len(e.dims) == 2] == [(32, tokenizer.vocab_size)]


def test_the_card_says_what_it_is(vectors: Any) -> None:
    card = ModelCard.load(vectors[1].output / "README.md")
    about = card.data.to_dict()
    assert about["library_name"] == "onnx"
    assert (about["pipeline_tag"], about["license"]) == ("sentence-similarity", "mit")
    assert about["language"] == ["en"]
    assert "### Training\n\nLong." in card.text
    assert "Not so." not in card.text
    assert str(vectors[0].parent) not in card.content


def test_a_card_that_is_none_costs_nothing(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    for text in ("---\nfoo: [\n---\n", "", "no head"):
        card.write_text(text)
        assert _read_card(card)[0].get("license") is None
    head = "---\nlicense: other\nlicense_name: mine\n---\n"
    card.write_text(f"{head}# T\n```sh\n# install\n## Use\n```\n## Use\nNo.\n")
    about, lines = _read_card(card)
    assert about["license_name"] == "mine"
    assert lines == ["```sh", "# install", "## Use", "```"]


def without_torch(folder: Path) -> dict[str, str]:
    """An environment with onnxruntime, tokenizers and what they need, and no other package."""
    for name in ("onnxruntime", "tokenizers", "numpy", "flatbuffers", "protobuf", "packaging"):
        tops = {path.parts[0] for path in distribution(name).files or () if path.parts}
        for top in tops - {"..", "bin"}:
            source = Path(str(distribution(name).locate_file(top)))
            if not (folder / top).exists():
                (folder / top).symlink_to(source)
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize(
    ("architecture", "task", "said"),
    [
        pytest.param("bert", "sentence-similarity", r"\[\[[01]\.", id="vectors"),
        pytest.param("modernbert", "fill-mask", "", marks=pytest.mark.slow, id="masks"),
        pytest.param(
            "modernbert",
            "text-classification",
            "text [OBI]",
            marks=pytest.mark.slow,
            id="classes",
        ),
        pytest.param(
            "bert", "token-classification", "text [OBI]", marks=pytest.mark.slow, id="tags"
        ),
    ],
)
def test_the_program_in_the_card_runs_without_torch(
    tokenizer: Tokenizer, tmp_path: Path, vectors: Any, architecture: str, task: str, said: str
) -> None:
    found = vectors[1]
    if task != "sentence-similarity":
        source = make(tmp_path / "model", tokenizer, architecture, task)
        found = bertsmith.export(source, output=tmp_path / "out", quiet=True)
    program = re.findall(r"```python\n(.*?)```", (found.output / "README.md").read_text(), re.S)[0]
    assert len(program.splitlines()) <= 27
    program = program.replace('"PATH"', repr(str(found.output)))
    (libraries := tmp_path / "libraries").mkdir()
    environment = without_torch(libraries)
    command = [sys.executable, "-S", "-W", "error", "-c"]
    no_torch = "import importlib.util as u; assert not u.find_spec('torch')\n"
    done = subprocess.run(
        [*command, no_torch + program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout)


@pytest.mark.slow
def test_tags_are_judged_by_the_table_of_their_fine_tuning(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "dev.tsv"
    table.write_text("the\tO\nbird\tB-a\nsings\tO\n\na\tO\ncrane\tB-a\nlifts\tI-a\n\n" * 20)
    tuned = tmp_path / "tags"
    settings: dict[str, Any] = {"task": "tokens", "epochs": 2, "device": "cpu", "quiet": True}
    bertsmith.finetune(
        finished_run.output,
        train=table,
        validation=table,
        output=tuned,
        baseline=False,
        learning_rate=0.01,
        **settings,
    )
    expected = json.loads((tuned / "results.json").read_text())["pretrained"]["f1"]["mean"]
    command = ["export", str(tuned), "--quantize", "int8", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        main(command)
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "dev.tsv" in shown
    assert "int8 outputs are within" in shown
    figures = json.loads((tmp_path / "out" / "export.json").read_text())["figures"]
    assert figures["float32"]["f1"] == pytest.approx(expected, abs=1e-6)
    assert set(figures["int8"]) == set(figures["float32"])
    table.unlink()
    with pytest.raises(SystemExit) as left:
        main([*command, "--overwrite", "--json"])
    assert not left.value.code
    assert json.loads(capsys.readouterr().out)["figures"] is None


@pytest.mark.slow
def test_classes_vectors_and_masks_are_judged_too(finished_run: Run, tmp_path: Path) -> None:
    classes, scores, pairs = tmp_path / "c.tsv", tmp_path / "s.tsv", tmp_path / "p.jsonl"
    classes.write_text("sentence\tlabel\n" + "the crane lifts\t1\nthe bird flies\t0\n" * 9)
    scores.write_text("sentence\tlabel\n" + "the crane lifts\t1.5\nthe bird flies\t0.5\n" * 9)
    rows = [{"question": f"where is {w}", "answer": f"{w} is here"} for w in ("bird", "crane", "a")]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    for name, table, metric, more in (
        ("classes", classes, "accuracy", {"label_names": ("no", "yes")}),
        ("scores", scores, "spearman", {}),
        ("similarity", pairs, "ndcg_at_10", {}),
    ):
        settings: dict[str, Any] = {**more, "task": name, "epochs": 1, "device": "cpu"}
        found = bertsmith.finetune(
            finished_run.output,
            train=table,
            validation=table,
            output=tmp_path / name,
            baseline=False,
            quiet=True,
            **settings,
        )
        out = bertsmith.export(
            found.output, output=tmp_path / f"{name}-onnx", quantize="int8", quiet=True
        )
        mean = found.results["pretrained"][metric]["mean"]
        assert out.report["figures"]["float32"][metric] == pytest.approx(mean, abs=1e-4)
    out = bertsmith.export(
        finished_run.output, output=tmp_path / "masks", quantize="int8", quiet=True
    )
    expected = bertsmith.evaluate(finished_run.output).figures["mlm_loss"]
    assert out.report["figures"]["float32"]["mlm_loss"] == pytest.approx(expected, abs=1e-3)
    assert "held-out" in out.report["judged_by"]


def test_what_is_refused_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "model", tokenizer, "bert", "fill-mask")
    output = tmp_path / "out"
    how: dict[str, Any] = {"output": output, "quiet": True}
    with pytest.raises(ConfigError, match=r"`opset` must be from 18 to 23.* got 17"):
        bertsmith.export(source, **how, opset=17)
    with pytest.raises(ConfigError, match=r"`quantize` must be int8 or left out.*'int4'"):
        bertsmith.export(source, **how, quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(bertsmith.InputError, match="`validation` changes nothing for words"):
        bertsmith.export(source, **how, quantize="int8", validation=source / "config.json")
    with pytest.raises(ConfigError, match="give `quantize` beside it"):
        bertsmith.export(source, **how, validation=source / "config.json")
    bare = make(tmp_path / "bare", tokenizer, "bert", "sentence-similarity")
    (bare / "modules.json").unlink()
    with pytest.raises(ModelError, match="must have a head for a task"):
        bertsmith.export(bare, **how)
    with pytest.raises(ModelError, match="There is no run and no model folder"):
        bertsmith.export(tmp_path / "nowhere", **how)
    with monkeypatch.context() as patch:
        patch.setitem(extras.EXTRAS, "onnx", ("no_such_module",))
        with pytest.raises(MissingExtraError, match=r"needs the extra `onnx`.*bertsmith\[onnx\]"):
            bertsmith.export(source, **how)
    with monkeypatch.context() as patch:
        patch.setattr(PaddedLayout, "attend", lambda self, query, key, value, heads: value)
        with pytest.raises(ModelError, match=r"outputs to within 0\.0001"):
            bertsmith.export(source, **how)
    assert not output.exists()
    output.mkdir()
    (output / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match="must be new, an empty folder or an earlier export"):
        bertsmith.export(source, **how, overwrite=True)
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_an_earlier_export_is_replaced_only_when_asked(vectors: Any, tmp_path: Path) -> None:
    source, found = vectors
    copy = shutil.copytree(found.output, tmp_path / "copy")
    with pytest.raises(RunError, match="already holds an export"):
        bertsmith.export(source, output=copy, quiet=True)
    assert (copy / "onnx" / "model_int8.onnx").is_file()
    bertsmith.export(source, output=copy, overwrite=True, quiet=True)
    assert [path.name for path in (copy / "onnx").iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(copy / "onnx" / "model.onnx"))
    assert session.get_outputs()[0].name == "sentence_embedding"
