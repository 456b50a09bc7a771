"""A model that was trained on the device, used there and on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertsmith
from bertsmith.training.run import Run
from tests.support.gpu import LONG, Finding, settings_of
from tests.support.labelled import rows_of, write

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def run(corpus: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With all that a run does at its end, which other tests are spared."""
    output = tmp_path_factory.mktemp("runs") / "r"
    settings = settings_of(device, **{**LONG, "steps": 60, "learning_rate": 5e-3})
    return bertsmith.pretrain(corpus, output=output, quiet=True, **settings)


def test_evaluation_is_that_of_a_cpu(run: Run, device: torch.device, finding: Finding) -> None:
    options: dict[str, Any] = {"num_sentences": 40}
    found = bertsmith.evaluate(run.output, device=device.type, **options)
    expected = bertsmith.evaluate(run.output, device="cpu", **options)
    for name, value in expected.metrics().items():
        assert found.metrics()[name] == pytest.approx(value, rel=1e-4), name
    assert found.pseudo is not None
    assert expected.pseudo is not None
    assert found.pseudo.loss == pytest.approx(expected.pseudo.loss, rel=1e-4)
    # The closing figures come of bfloat16 on CUDA, evaluation of float32.
    closing = run.metrics["validation_mlm_loss"]
    loss = found.figures["mlm_loss"]
    finding(
        f"MLM loss: closing {closing:.5f}, evaluated {loss:.5f}, on a CPU "
        f"{expected.figures['mlm_loss']}"
    )
    assert closing == pytest.approx(loss, rel=2e-3)


def test_vectors_words_and_judgements_are_those_of_a_cpu(run: Run, device: torch.device) -> None:
    here, there = (bertsmith.load(run.output, device=kind) for kind in (device.type, "cpu"))
    texts = ["the crane lifts a beam", "bird", "the crane lifts a beam over old river " * 20]
    for one, other in zip(here.encode_many(texts), there.encode_many(texts), strict=True):
        np.testing.assert_allclose(one.tokens, other.tokens, rtol=1e-4, atol=1e-4)
    masked = "the crane [MASK] a beam over old [MASK]"
    for found, expected in zip(here.fill(masked), there.fill(masked), strict=True):
        for word, other_word in zip(found, expected, strict=True):
            assert word.probability == pytest.approx(other_word.probability, rel=1e-3)
    judged = [model.next_sentence("the crane lifts", "a bird flies") for model in (here, there)]
    assert judged[0] == pytest.approx(judged[1], rel=1e-3)


def test_fine_tuning_and_probing_work(
    run: Run, device: torch.device, tmp_path: Path, finding: Finding
) -> None:
    tables: dict[str, Any] = {
        "train": write(tmp_path / "train.tsv", rows_of(160)),
        "validation": write(tmp_path / "dev.tsv", rows_of(40, seed=1)),
    }
    kinds: tuple[Any, ...] = (device.type, "cpu")
    shares = []
    for kind in kinds:
        found = bertsmith.finetune(
            run.output,
            **tables,
            output=tmp_path / f"tuned on {kind}",
            overwrite=True,
            baseline=False,
            quiet=True,
            device=kind,
            epochs=1,
            seeds=(0,),
            dropout_prob=0.0,
            patience=0,
            precision="float32",
        )
        lines = (found.output / "predictions-validation.tsv").read_text().splitlines()[1:]
        shares.append([float(line.split("\t")[3]) for line in lines])
    worst = max(abs(one - other) for one, other in zip(*shares, strict=True))
    finding(f"probabilities after an epoch differ by {worst:.2e} at most")
    assert worst <= 0.02
    probed = [
        bertsmith.probe(run.output, train=tables["train"], device=kind, baseline=False, quiet=True)
        for kind in kinds
    ]
    accuracies = [found["pretrained"]["accuracy"]["mean"] for found in probed]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)
