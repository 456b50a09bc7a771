"""The sides of the GPU benchmark, as far as a CPU can make them: they train on the same work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import sides
from benchmarks.gpu.__main__ import Found
from benchmarks.gpu.sides import CASES, SIDES, Case
from benchmarks.gpu.tables import tables
from bertsmith import prepare
from tests.support.kernels import flash_on_cpu

CPU = torch.device("cpu")

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "batch_size": 24,
    "max_length": 32,
}


@pytest.fixture
def corpora(text_file: Path, tmp_path: Path) -> dict[str, Path]:
    found = {"word": {}, "wordpiece": {"vocab_size": 200}}
    for kind, size in found.items():
        options: dict[str, Any] = {"min_frequency": 1, "quiet": True, **size}
        prepare(text_file, output=tmp_path / kind, tokenizer=kind, **options)
    return {kind: tmp_path / kind for kind in found}


@pytest.mark.parametrize("name", ["base-128", "textbook", "modern-base-512"])
def test_all_sides_of_a_case_train(
    name: str, corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled, and nothing captured: that is a GPU's. Losses begin alike, and fall."""
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    monkeypatch.setattr(sides, "_SHARE_OF_RATE", 1.0)
    case = Case.load(name, corpora, CPU, 2, **SMALL, learning_rate=1e-3, precision="float32")
    found = {}
    with flash_on_cpu():
        for side in ("fixed", "eager", "transformers"):
            step = getattr(sides, side)(case)
            results = [step(number) for number in range(8)]
            if side != "transformers":
                counts = [case.objective.denominators(batch.sizes) for batch in case.batches]
                results = [
                    (result.losses / torch.tensor(counts[number % 2])).sum()
                    for number, result in enumerate(results)
                ]
            found[side] = [float(loss.detach()) for loss in results]
    for losses in found.values():
        assert losses[6] < losses[0]
    assert found["fixed"] == pytest.approx(found["eager"], abs=1e-4)
    # The peer begins with the same weights, and has made a small step when it is there.
    assert found["transformers"][0] == pytest.approx(found["eager"][0], abs=0.05)


@pytest.mark.parametrize("name", ["base-128", "modern-base-512"])
def test_gradients_are_compared_for_both_architectures(name: str, corpora: dict[str, Path]) -> None:
    case = Case.load(name, corpora, CPU, 1, **SMALL)
    exact, narrow = sides.gradients(case, "float32"), sides.gradients(case, "eager")
    assert len(exact) == len(narrow) == len(list(case.model().parameters()))


def test_the_peer_takes_less_at_once_where_memory_does_not_suffice(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    tried = []
    plain = sides._padded

    def padded(model: Any, case: Case, tokens: int, *, has_pairs: bool) -> Any:
        tried.append(tokens)
        if tokens > sides.TOKENS_AT_ONCE // 4:
            raise torch.OutOfMemoryError
        return plain(model, case, tokens, has_pairs=has_pairs)

    monkeypatch.setattr(sides, "_padded", padded)
    sides.transformers(Case.load("base-128", corpora, CPU, 1, **SMALL))
    assert tried == [2**17, 2**16, 2**15]


def test_what_was_found_is_kept_line_by_line_and_made_into_tables(tmp_path: Path) -> None:
    found = Found(tmp_path / "found.jsonl")
    assert not found.has("all right", device="H200")
    found.add("all right", device="H200", versions="torch 2.11")
    assert found.has("all right", device="H200")
    assert not found.has("all right", device="H100")
    for case in CASES:
        about = {"device": "NVIDIA H200", "versions": "torch 2.11", "parameters": 10}
        about |= {"batch_size": 8, "mean_length": 20.0, "filler": 0.01, "estimated_bytes": 10**9}
        found.add("case", case=case, **about)
        for side in SIDES:
            found.add("first", case=case, side=side, first_step_seconds=3.0, peak_bytes=10**9)
            rates = {"sequences_per_second": 5.0, "tokens_per_second": 100.0}
            rates |= {"flops_per_second": 4e14, "peak_flops_per_second": 8e14}
            found.add("turn", case=case, side=side, **rates)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    text = tables(lines)
    for case in CASES:
        assert f"## {case}\n" in text
    assert text.count("| 50.0 (50.0 to 50.0) % |") == len(CASES) * len(SIDES)
