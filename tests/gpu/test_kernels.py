"""Each kernel on the device against float64 on a CPU.

u is the unit roundoff of a type, half of its eps: 2**-8 of bfloat16, 2**-11 of float16, 2**-24 of
float32. Inputs are numbers of the type that is tested, so that float64 begins with the same ones.
Errors are by norm, of the difference over the reference. Rounding errors are independent of one
another, so that the error of a sum grows as its norm does, and k roundings between input and output
give √k u / √3 at most; the bounds are k u, which nothing but a wrong formula goes beyond.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures.bert.network import Bert
from bertsmith.config import TrainingConfig
from bertsmith.nn import attention
from bertsmith.nn import loss as loss_module
from bertsmith.nn.attention import attend
from bertsmith.nn.dropout import DropoutKey, dropout
from bertsmith.nn.layout import Layout, TokenSubset
from bertsmith.nn.loss import masked_lm_loss
from bertsmith.training.muon import orthogonalized
from bertsmith.training.optimizer import make_optimizers
from tests.support.gpu import Finding
from tests.support.kernels import halves

pytestmark = pytest.mark.gpu

HEADS = 3
LENGTHS = (300, 257, 128, 65, 64, 17, 8, 2, 1)
ROUNDOFF = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-24}
TYPES = tuple(ROUNDOFF)


def error(found: Tensor, expected: Tensor) -> float:
    """By norm, relative."""
    difference = found.detach().cpu().double() - expected.detach()
    return float(difference.norm() / expected.detach().norm())


def chosen(every: int, device: torch.device) -> TokenSubset:
    """The first token of each sequence and every so many after it."""
    places = torch.cat([torch.arange(length) for length in LENGTHS])
    counts = [-(-length // every) for length in LENGTHS]
    positions = (places % every == 0).nonzero().squeeze(1)
    return TokenSubset(positions.to(device), Layout.of(counts, device))


def by_the_formula(query: Tensor, key_value: Tensor, every: int) -> Tensor:
    """Softmax attention, one sequence and one head at a time."""
    rows = []
    hidden = query.shape[1]
    size = hidden // HEADS
    for start, end in pairwise((0, *accumulate(LENGTHS))):
        asking, keys = query[start:end][::every], key_value[start:end]
        heads = []
        for first in range(0, hidden, size):
            q, k = asking[:, first : first + size], keys[:, first : first + size]
            v = keys[:, hidden + first : hidden + first + size]
            heads.append(torch.softmax(q @ k.T * size**-0.5, 1) @ v)
        rows.append(torch.cat(heads, 1))
    return torch.cat(rows)


def attention_bounds(dtype: torch.dtype) -> tuple[float, float]:
    """Of values and of gradients.

    Flash attention rounds the probabilities before they meet the values, and the result: two
    roundings. Back it also rounds the gradient of the scores, and subtracts a row's sum of
    gradient times result, which is made of the rounded result: four. A float32 kernel rounds
    nothing to fewer digits, and its sums of up to 300 + 128 numbers lose √428 u at most.
    """
    if dtype == torch.float32:
        return (1e-5, 2e-5)
    return 2 * ROUNDOFF[dtype], 4 * ROUNDOFF[dtype]


@pytest.mark.parametrize("every", [1, 3], ids=["all", "each third"])
@pytest.mark.parametrize("size", [64, 32, 20, 128, 256])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_attention_is_the_formula(
    dtype: torch.dtype,
    size: int,
    every: int,
    device: torch.device,
    finding: Finding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unpadded, calls = attention._attend_unpadded, 0

    def counted(*given: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return unpadded(*given)

    monkeypatch.setattr(attention, "_attend_unpadded", counted)
    generator = torch.Generator().manual_seed(size)
    hidden = HEADS * size
    qkv = torch.randn(sum(LENGTHS), 3 * hidden, generator=generator).to(dtype)
    mine = qkv.to(device).requires_grad_()
    plain = qkv.double().requires_grad_()
    keys, choice = Layout.of(LENGTHS, device), chosen(every, device)
    query, key_value = mine.split((hidden, 2 * hidden), 1)
    found = attend(choice.select(query), *halves(key_value), choice.layout, keys, HEADS)
    plain_query, plain_key_value = plain.split((hidden, 2 * hidden), 1)
    expected = by_the_formula(plain_query, plain_key_value, every)
    assert found.dtype == dtype
    is_half = dtype != torch.float32
    assert calls == int(device.type == "cuda" and is_half and size != 20)
    direction = torch.randn(expected.shape, generator=generator).to(dtype)
    (grad,) = torch.autograd.grad(found, mine, direction.to(device))
    (plain_grad,) = torch.autograd.grad(expected, plain, direction.double())
    forward = error(found, expected)
    parts = zip(grad.split(hidden, 1), plain_grad.split(hidden, 1), strict=True)
    backward = [error(*part) for part in parts]
    values, gradients = attention_bounds(dtype)
    finding(
        f"forward {forward:.2e} of {values:.2e}; gradients of query, key, value "
        f"{', '.join(f'{part:.2e}' for part in backward)} of {gradients:.2e}"
    )
    assert forward <= values
    assert max(backward) <= gradients


@pytest.mark.parametrize("lengths", [(32, 20, 7, 1), (2100, 700)], ids=["short", "long"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_attention_drops_the_same_places(
    dtype: torch.dtype, lengths: tuple[int, ...], device: torch.device, finding: Finding
) -> None:
    """Values that are the rows of the identity bring the dropped probabilities out as they are.

    Of the long ones every 32nd stands in the same column: those are compared by their sums.
    """
    size, probability = 32, 0.3
    tokens, hidden = sum(lengths), HEADS * size
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(tokens, 3 * hidden, generator=generator).to(dtype)
    places = torch.cat([torch.arange(length) for length in lengths])
    qkv[:, 2 * hidden :] = torch.eye(size, dtype=dtype)[places % size].repeat(1, HEADS)
    direction = torch.randn(tokens, hidden, generator=generator)
    found, grads = [], []
    for where, kind in ((device, dtype), (torch.device("cpu"), torch.float64)):
        noise = DropoutKey(2**63 + 5, torch.arange(tokens, device=where) + 1000)
        layout = Layout.of(lengths, where)
        given = qkv.to(where, kind).requires_grad_()
        query, key_value = given.split((hidden, 2 * hidden), 1)
        out = attend(query, *halves(key_value), layout, layout, HEADS, probability, noise, site=9)
        (grad,) = torch.autograd.grad(out, given, direction.to(dtype).to(where, kind))
        found.append(out)
        grads.append(grad)
    dropped = found[1] == 0
    assert torch.equal(found[0].cpu() == 0, dropped)
    if max(lengths) <= size:
        counts = torch.tensor(lengths)
        is_real = torch.arange(size) < counts.repeat_interleave(counts)[:, None]
        assert 0.2 < float(dropped[is_real.repeat(1, HEADS)].double().mean()) < 0.4
    errors = error(*found), error(*grads)
    # Scores, probabilities, what dropout leaves, the result; back the same again.
    bound = 8 * ROUNDOFF[dtype] if dtype != torch.float32 else 1e-5
    finding(f"forward {errors[0]:.2e}, gradient {errors[1]:.2e} of {bound:.2e}")
    assert max(errors) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_and_its_gradients(
    dtype: torch.dtype, device: torch.device, finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, vocabulary, hidden = 700, 1003, 64
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", 2**18)  # several chunks
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, hidden), (vocabulary, hidden), (vocabulary,))
    scales = (1.0, hidden**-0.5, 1.0)
    given = [
        (torch.randn(shape, generator=generator) * scale).to(dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    mine = [part.to(device).requires_grad_() for part in given]
    plain = [part.double().requires_grad_() for part in given]
    found = masked_lm_loss(mine[0], mine[1], mine[2], labels.to(device))
    expected = F.cross_entropy(F.linear(*plain), labels, reduction="sum")
    assert found.dtype == torch.float32
    errors = [error(found, expected)]
    grads = torch.autograd.grad(found, mine), torch.autograd.grad(expected, plain)
    errors += [error(*pair) for pair in zip(*grads, strict=True)]
    # Logits are rounded when they are made and when the bias is added: a probability p then errs by
    # p u |logit|, twice. The gradient of the logits is rounded, and so is its product.
    bound = 4 * ROUNDOFF[dtype] if dtype != torch.float32 else 1e-5
    finding(f"loss, gradients: {', '.join(f'{part:.2e}' for part in errors)} of {bound:.2e}")
    assert errors[0] <= bound
    assert max(errors) <= bound


@pytest.mark.parametrize("probability", [0.0001, 0.1, 0.5, 0.9])
def test_dropout_is_that_of_a_cpu_bit_for_bit(probability: float, device: torch.device) -> None:
    tokens = torch.cat([torch.arange(300), torch.tensor([2**31, 2**40 - 1])])
    hidden = torch.randn(len(tokens), 131, generator=torch.Generator().manual_seed(0))
    for key in (0, 77, 2**63 - 1, 2**64 - 1):
        for place in (0, 1, 500):
            cpu, other = (DropoutKey(key, tokens.to(d)) for d in ("cpu", device))
            expected = cpu.keeps(place, cpu.tokens, 131, probability)
            found = other.keeps(place, other.tokens, 131, probability)
            assert torch.equal(found.cpu(), expected)
            dropped = dropout(hidden.to(device), probability, other, place)
            assert torch.equal(dropped.cpu(), dropout(hidden, probability, cpu, place))


@pytest.mark.parametrize("shape", [(5, 48, 16), (3, 64, 256), (2, 512, 128)], ids=str)
def test_muon_gives_singular_values_near_one(
    shape: tuple[int, int, int], device: torch.device, finding: Finding
) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-3, 3, shape[0])[:, None, None]
    matrices = torch.randn(shape, generator=generator) * sizes
    made = orthogonalized(matrices.to(device), torch.bfloat16)
    assert made.dtype == torch.float32
    values = torch.linalg.svdvals(made.cpu().double())
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    short = min(shape[1:])
    inner = (made.cpu() * (left @ right)).sum((1, 2))
    cosine = inner / made.cpu().double().norm(dim=(1, 2)) / short**0.5
    finding(
        f"singular values {float(values.min()):.3f} to {float(values.max()):.3f}, "
        f"cosine {float(cosine.min()):.4f}"
    )
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert cosine.min() > 0.97


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon"])
def test_a_step_that_is_left_out_changes_nothing(
    optimizer: str, tiny_model: Bert, device: torch.device
) -> None:
    model = tiny_model.to(device)
    optimizers = make_optimizers(model, TrainingConfig(optimizer=optimizer))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)

    def step(found_inf: float) -> list[Tensor]:
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = (drawn * torch.nan if found_inf else drawn).to(device)
        optimizers.step(torch.tensor(found_inf, device=device))
        state = [p.detach() for p in model.parameters()]
        for parameter in model.parameters():
            state += optimizers.state_of(parameter).values()
        return [value.clone() for value in state]

    before = [p.detach().clone() for p in model.parameters()]
    first = step(0.0)
    assert not any(torch.equal(*pair) for pair in zip(before, first, strict=False))
    second = step(1.0)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    third = step(0.0)
    assert all(bool(value.isfinite().all()) for value in third)
    assert not any(torch.equal(*pair) for pair in zip(second, third, strict=True))
