"""An objective and an architecture that stand in this file alone, through the public API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bertsmith
from bertsmith import architectures, objectives
from bertsmith.architectures import (
    CLASSIFIER,
    MLM_HEAD,
    Architecture,
    Encoder,
    MlmProjection,
    call_module,
)
from bertsmith.batch import Batch
from bertsmith.config import ModelConfig, registered
from bertsmith.errors import ConfigError
from bertsmith.nn.layout import PackedInput, TokenSubset
from bertsmith.objectives import Scores, Term, VectorObjective
from bertsmith.objectives.mlm import MLM, MaskedLM
from bertsmith.objectives.rows import LastRows, RowObjective, last_rows
from tests.support.labelled import FAST, rows_of, write
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed

PACKAGE = Path(bertsmith.__file__).parent

SQUARED = Term(name="sq", title="Squared logits", count=lambda sizes: sizes.num_masked)
COUNTED = Term(name="seq", title="Sequences", count=lambda sizes: sizes.num_sequences)


class WithSquaredLogits(RowObjective):
    """MLM and a penalty on the logits' size."""

    name = "mlm+sq"
    terms = (MLM, SQUARED)
    heads = frozenset({MLM_HEAD})

    def row_losses(self, model: Encoder, rows: LastRows) -> tuple[Tensor, ...]:
        (mlm,) = MaskedLM().row_losses(model, rows)
        return mlm, 1e-3 * model.mlm_logits(rows.masked()).float().square().mean(1).sum()

    def row_scores(self, model: Encoder, rows: LastRows) -> dict[str, Scores]:
        squares = model.mlm_logits(rows.masked()).float().square().mean(1)
        return {**MaskedLM().row_scores(model, rows), "sq": Scores(1e-3 * squares)}


class Spread(VectorObjective):
    """A loss of all sequences of a batch at once: how alike their vectors are."""

    name = "spread"
    terms = (COUNTED,)
    heads = frozenset({MLM_HEAD})

    def vectors(self, model: Encoder, batch: Batch, dropout_key: int | None = None) -> Tensor:
        return last_rows(model, batch, dropout_key).first().float()

    def losses_of(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        vectors = nn.functional.normalize(vectors, dim=1)
        return ((vectors @ vectors.T).logsumexp(1).sum(),)

    @torch.no_grad()
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        vectors = last_rows(model, batch).first().float()
        return {"seq": Scores(vectors.square().mean(1))}


class Bag(Encoder):
    """A layer that looks at no other token."""

    def __init__(
        self, config: ModelConfig, vocab_size: int, heads: frozenset[str], num_labels: int
    ) -> None:
        super().__init__()
        self.config, self.vocab_size, self.heads = config, vocab_size, heads
        self.num_labels = num_labels
        size = config.hidden_size
        self.words = nn.Embedding(vocab_size, size)
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(config.num_hidden_layers))
        if MLM_HEAD in heads:
            self.mlm_head = nn.Linear(size, vocab_size)
        if CLASSIFIER in heads:
            self.classifier = nn.Linear(size, num_labels)

    def forward(
        self,
        inputs: PackedInput,
        subset: TokenSubset | None = None,
        call: Callable[..., Tensor] = call_module,
    ) -> Tensor:
        hidden = call(self.words, inputs.input_ids)
        for layer in self.layers:
            hidden = hidden + call(layer, hidden).tanh()
        return hidden if subset is None else subset.select(hidden)

    def initialize(self, seed: int, *, looks_near: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data.normal_(0.0, 0.02, generator=generator)

    def hidden_matrices(self) -> dict[str, int]:
        return {f"layers.{number}.weight": 1 for number in range(len(self.layers))}

    @property
    def dropout_sites(self) -> int:
        return 0

    def mlm_projection(self, hidden: Tensor) -> MlmProjection:
        return MlmProjection(hidden, self.mlm_head.weight, self.mlm_head.bias)

    @property
    def word_embedding(self) -> Tensor:
        return self.words.weight

    @property
    def mlm_bias(self) -> nn.Parameter:
        return self.mlm_head.bias

    def pool(self, vectors: Tensor) -> Tensor:
        return vectors

    def class_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled)
        return logits


class BagArchitecture(Architecture[ModelConfig]):
    name = "bag"
    config_class = ModelConfig
    heads: Mapping[str, str] = {MLM_HEAD: "decoder.", CLASSIFIER: "classifier."}

    def build(
        self, config: ModelConfig, vocab_size: int, heads: frozenset[str], num_labels: int
    ) -> Encoder:
        return Bag(config, vocab_size, heads, num_labels)

    def transformers_class(self, heads: frozenset[str]) -> str:
        return "BagForMaskedLM"

    def read_config(self, found: Mapping[str, Any]) -> ModelConfig:
        names = set(asdict(ModelConfig()))
        return ModelConfig(**{k: v for k, v in found.items() if k in names}, architecture="bag")

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        return {name: value for name, value in asdict(config).items() if name != "architecture"}

    def hugging_face_names(self, name: str) -> list[str]:
        return [name.replace("mlm_head.", "decoder.")]

    def training_flops(self, config: ModelConfig, vocab_size: int, work: Any) -> int:
        layers = config.num_hidden_layers * work.num_tokens * config.hidden_size**2
        return 6 * (layers + int(work.num_masked * config.hidden_size * vocab_size))

    def skipped_flops(self, config: ModelConfig, batch: Batch) -> int:
        return 0

    def layer_bytes(self, config: ModelConfig, batch: Any, *args: Any, **how: Any) -> int:
        return int(8 * batch.num_tokens * config.hidden_size)

    def activation_bytes(self, config: ModelConfig, vocab_size: int, batch: Any, **how: Any) -> int:
        return config.num_hidden_layers * self.layer_bytes(config, batch)

    def working_bytes(self, config: ModelConfig, vocab_size: int, batch: Any, **how: Any) -> int:
        return int(4 * vocab_size * batch.num_masked)


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    for module, name in (
        (objectives, "_OBJECTIVES"),
        (architectures, "_ARCHITECTURES"),
        (architectures, "MODEL_CONFIGS"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    lists = (registered.OBJECTIVES, registered.PAIR_OBJECTIVES, registered.ARCHITECTURES)
    before = [list(names) for names in lists]
    yield
    for names, was in zip(lists, before, strict=True):
        names[:] = was


SETTINGS = {**TINY_RUN, "max_length": 24, "steps": 6}


def test_an_objective_trains_resumes_and_is_evaluated(
    registering: None, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives.register(WithSquaredLogits(), reads_pairs=False)
    settings = {**SETTINGS, "objective": "mlm+sq"}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    assert whole.metrics["sq_loss"] > 0
    assert re.fullmatch(r"MLM loss \d\.\d+, SQ loss \d\.\d+", whole.closing_lines()[0])
    assert "SQ loss" in whole.closing_lines()[3]
    resumed = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert result_of(resumed.output) == result_of(whole.output)
    found = bertsmith.evaluate(whole.output)
    expected = whole.metrics["validation_sq_loss"]
    assert found.figures["sq_loss"] == pytest.approx(expected, rel=1e-5)
    assert (whole.output / "curves.png").is_file()


def test_an_architecture_trains_resumes_and_is_used(
    registering: None, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architectures.register(BagArchitecture())
    settings = {**SETTINGS, "architecture": "bag", "objective": "mlm", "optimizer": "muon"}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    resumed = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert result_of(resumed.output) == result_of(whole.output)
    config = json.loads((whole.output / "model" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bag", ["BagForMaskedLM"])
    found = bertsmith.evaluate(whole.output)
    expected = whole.metrics["validation_mlm_loss"]
    assert found.figures["mlm_loss"] == pytest.approx(expected, rel=1e-5)
    model = bertsmith.load(whole.output)
    assert model.encode("a crane").tokens.shape[1] == TINY_RUN["hidden_size"]
    assert model.fill("the [MASK] crane")
    table = write(tmp_path / "t.tsv", rows_of(80))
    tuned = bertsmith.finetune(
        whole.output, train=table, validation=table, output=tmp_path / "d", quiet=True, **FAST
    )
    assert tuned.results["pretrained"]["accuracy"]["mean"] == 0.5, "it reads [CLS] alone"
    with pytest.raises(ConfigError, match=r"this bag has 0\. Choose mlm"):
        bertsmith.pretrain(
            text_file,
            output=tmp_path / "c",
            quiet=True,
            **{**settings, "objective": "mlm+nsp"},
        )


def test_a_loss_of_a_whole_batch_is_the_same_in_parts(
    registering: None, text_file: Path, tmp_path: Path
) -> None:
    objectives.register(Spread(), reads_pairs=False)
    settings = {**SETTINGS, "objective": "spread"}
    runs = [
        bertsmith.pretrain(
            text_file, output=tmp_path / str(size), quiet=True, micro_batch=size, **settings
        )
        for size in (30, 10_000)
    ]
    one, other = (run.metrics["seq_loss"] for run in runs)
    assert one == pytest.approx(other, rel=1e-5)


def test_names_are_taken_once(registering: None) -> None:
    with pytest.raises(ConfigError, match="one objective of a name"):
        objectives.register(MaskedLM(), reads_pairs=False)
    with pytest.raises(ConfigError, match="one architecture of a name"):
        architectures.register(architectures.architecture_of("bert"))


def test_no_name_of_a_weight_stands_outside_its_architecture() -> None:
    names = "bert.embeddings|bert.encoder|bert.pooler|cls.predictions|cls.seq|bert.embeddings.word"
    own = r"attention\.qkv|embeddings\.(word|position|token_type)|mlm_head\.|nsp_head\."
    told = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.parent.name != "architectures"
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(f"{names}|{own}", line)
    ]
    assert not told
