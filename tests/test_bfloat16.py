"""Products in bfloat16 on a CPU: rows that are filler, and rounding within derived bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.data.store import TokenStore
from bertsmith.hardware import device as device_module
from bertsmith.inference.model import cosine_similarity
from bertsmith.nn import loss as loss_module
from bertsmith.nn.loss import masked_lm_loss
from bertsmith.objectives.rows import last_rows
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.muon import orthogonalized
from bertsmith.training.run import Run
from tests.support.objective import losses_of, scores_of
from tests.support.stores import make_batches

UNIT_ROUNDOFF = 2.0**-9
"""Of bfloat16, which has eight significant bits: half a unit in the last place."""
FLOAT32_ROUNDOFF = 2.0**-24
PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_filler_changes_no_loss_gradient_or_score(
    dropout: float,
    tiny_model: Bert,
    store: TokenStore,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, where no rounding hides what a row of filler would add."""
    probabilities: dict[str, Any] = {
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    model = Bert(replace(tiny_model.config, **probabilities), tiny_model.vocab_size).double()
    model.initialize(0)
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", 20 * model.vocab_size)
    batch = make_batches(store, tokenizer).batch(0)
    found = []
    for rounds in (False, True):
        for module in (device_module, loss_module):
            monkeypatch.setattr(module, "rounds_rows", lambda *_, rounds=rounds: rounds)
        rows = last_rows(model, batch)
        assert (len(rows.masked_rows) > batch.num_masked) == rounds
        assert len(rows.hidden) % 128 == 0 or not rounds
        model.zero_grad()
        losses = losses_of(model, batch, 5)
        (losses.mlm / 3 + losses.nsp).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((losses, gradients, scores_of(model, batch)))
    (plain, filled) = found
    torch.testing.assert_close(filled[0], plain[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(filled[1], plain[1], rtol=1e-9, atol=1e-12)
    for name, scores in plain[2].items():
        torch.testing.assert_close(filled[2][name].losses, scores.losses, rtol=1e-6, atol=0)
        assert torch.equal(*(each[name].correct for each in (filled[2], plain[2])))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_filler", [0, 5])
@pytest.mark.parametrize("rows_at_once", [2000, 256])
def test_gradients_of_the_vocabulary_head_are_as_near_as_rounding_allows(
    rows_at_once: int, num_filler: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Element by element against float64, within a bound that is derived and not tuned.

    Logits, their gradient d = softmax - one-hot, and both products of it are rounded to bfloat16
    once each; all sums are in float32.
    """
    torch.manual_seed(0)
    num_rows, vocab_size, size = 700, 1000, 24
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", rows_at_once * vocab_size)
    hidden, weight = torch.randn(num_rows, size), torch.randn(vocab_size, size) * 0.7
    bias, labels = torch.randn(vocab_size), torch.randint(vocab_size, (num_rows,))
    leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    filler = torch.full((num_filler,), -100)
    with torch.autocast("cpu", torch.bfloat16):
        # What is rounded before the first product is no error of it.
        rows = torch.cat([leaves[0], torch.randn(num_filler, size)])
        found = masked_lm_loss(rows, leaves[1], leaves[2], torch.cat([labels, filler]))
    scale = 0.37
    (found * scale).backward()

    narrow_hidden, narrow_weight = (x.bfloat16().double() for x in (hidden, weight))
    logits = narrow_hidden @ narrow_weight.T
    probs = torch.softmax(logits + bias.double(), 1)
    exact = probs.clone()
    exact[torch.arange(num_rows), labels] -= 1
    expected = (exact @ narrow_weight, exact.T @ narrow_hidden, exact.sum(0))
    # A sum of n products in float32 is off by n units of the sum of their magnitudes.
    summed = size * FLOAT32_ROUNDOFF * (narrow_hidden.abs() @ narrow_weight.abs().T)
    shift = (UNIT_ROUNDOFF * logits.abs() + summed * (1 + UNIT_ROUNDOFF)).amax(1, keepdim=True)
    # If no logit moves by more than e, a probability moves by a factor of at most exp(2 e).
    moved = probs * torch.expm1(2 * shift) + 1e-6  # and by what float32's exp is off
    rounded = UNIT_ROUNDOFF * (exact.abs() + moved)
    error = moved + rounded
    magnitude = exact.abs() + error
    bounds = (
        error @ narrow_weight.abs() + UNIT_ROUNDOFF * (magnitude @ narrow_weight.abs()),
        error.T @ narrow_hidden.abs() + UNIT_ROUNDOFF * (magnitude.T @ narrow_hidden.abs()),
        moved.sum(0),
    )
    for leaf, gradient, bound in zip(leaves, expected, bounds, strict=True):
        assert leaf.grad is not None
        # The gradient of `hidden` is rounded once more when it is scaled.
        bound = bound * (1 + UNIT_ROUNDOFF) + UNIT_ROUNDOFF * gradient.abs()
        off = (leaf.grad.double() / scale - gradient).abs()
        assert bool((off <= bound + 1e-6 * gradient.abs()).all()), float((off / bound).max())
        # The bound says something: it is far below the gradient's own size.
        assert float(bound.norm()) < 0.25 * float(gradient.norm())


@pytest.mark.parametrize("shape", [(5, 48, 16), (3, 64, 256), (2, 512, 128)], ids=str)
def test_muon_in_bfloat16_gives_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-3, 3, shape[0])[:, None, None]
    matrices = torch.randn(shape, generator=generator) * sizes
    made: Tensor = orthogonalized(matrices, torch.bfloat16)
    assert made.dtype == torch.float32
    values = torch.linalg.svdvals(made.double())
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    inner = (made * (left @ right)).sum((1, 2))
    cosine = inner / made.double().norm(dim=(1, 2)) / min(shape[1:]) ** 0.5
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert cosine.min() > 0.97


def test_vectors_words_and_evaluations_are_near_those_of_float32(finished_run: Run) -> None:
    texts = ["the crane lifts a beam", "a bird", "winter comes to quiet hills every day ."] * 5
    plain, narrow = (
        bertsmith.load(finished_run.output, device="cpu", precision=precision)
        for precision in PRECISIONS
    )
    pairs = zip(plain.encode(texts), narrow.encode(texts), strict=True)
    for one, other in pairs:
        assert other.tokens.dtype == np.float32
        assert one.tokens.shape == other.tokens.shape
        assert not np.array_equal(one.tokens, other.tokens)
        cosines = [cosine_similarity(*both) for both in zip(one.tokens, other.tokens, strict=True)]
        assert min(cosines) > 0.999
    masked = "the [MASK] lifts a beam"
    likeliest = [model.fill(masked)[0][0].probability for model in (plain, narrow)]
    assert likeliest[1] == pytest.approx(likeliest[0], rel=0.05)
    found = [
        bertsmith.evaluate(finished_run.output, num_sentences=5, device="cpu", precision=precision)
        for precision in PRECISIONS
    ]
    before, after = (each.to_json("validation") for each in found)
    assert before.keys() == after.keys()
    assert after["validation_mlm_loss"] == pytest.approx(before["validation_mlm_loss"], abs=0.02)
    assert after["validation_mlm_loss"] != before["validation_mlm_loss"]
