"""Each attention kernel against the formula, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bertsmith.nn import attention as attention_module
from bertsmith.nn.attention import attend, takes_varlen
from bertsmith.nn.dropout import DropoutKey, scale_of_kept
from bertsmith.nn.layout import Layout, TokenSubset
from tests.support.kernels import halves, varlen_on_cpu

CPU = torch.device("cpu")
HEADS, SIZE = 3, 4
LENGTHS = {"equal": [5, 5, 5], "falling": [9, 6, 6, 1], "one": [7]}
EVERY = {"all": 1, "each third": 3}


def by_the_formula(qkv: Tensor, lengths: list[int], noise: list[Tensor] | None = None) -> Tensor:
    """One sequence and one head at a time; `noise[n]` [B, L, L] multiplies probabilities."""
    hidden = HEADS * SIZE
    ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    rows = []
    for b, (start, end) in enumerate(pairwise(ends)):
        heads = []
        for n in range(HEADS):
            q, k, v = (
                qkv[start:end, part * hidden + n * SIZE : part * hidden + (n + 1) * SIZE]
                for part in range(3)
            )
            probs = torch.softmax(q @ k.T / math.sqrt(SIZE), 1)
            if noise:
                probs = probs * noise[n][b, : end - start, : end - start]
            heads.append(probs @ v)
        rows.append(torch.cat(heads, 1))
    return torch.cat(rows)


def make_qkv(lengths: list[int]) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(lengths), 3 * HEADS * SIZE, dtype=torch.float64)


def assert_same_with_gradient(found: Tensor, expected: Tensor, mine: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    direction = torch.randn(found.shape, dtype=found.dtype)
    (ours,) = torch.autograd.grad(found, mine, direction)
    (theirs,) = torch.autograd.grad(expected, plain, direction)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def choose(lengths: list[int], every: int) -> TokenSubset:
    """The first token of each sequence and every so many after it."""
    places = torch.cat([torch.arange(length) for length in lengths])
    counts = [-(-length // every) for length in lengths]
    return TokenSubset((places % every == 0).nonzero().squeeze(1), Layout.of(counts, CPU))


def ask(attention: Callable[..., Tensor], qkv: Tensor, choice: TokenSubset, keys: Layout) -> Tensor:
    """`attention` of the chosen tokens over all of them."""
    query, key_value = qkv.split((HEADS * SIZE, 2 * HEADS * SIZE), 1)
    return attention(choice.select(query), *halves(key_value), choice.layout, keys, HEADS)


@pytest.mark.parametrize("kernel", ["scores kept", "padded", "unpadded"])
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_kernel_is_the_formula(
    kernel: str, every: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, plain = (make_qkv(lengths).requires_grad_() for _ in range(2))
    keys, choice = Layout.of(lengths, CPU), choose(lengths, every)
    if kernel == "unpadded":
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_on_cpu)
        found = ask(attention_module._attend_unpadded, mine, choice, keys)
    else:
        longest = 512 if kernel == "scores kept" else 0
        monkeypatch.setattr(attention_module, "_LONGEST_WITH_SCORES_KEPT", longest)
        found = ask(attend, mine, choice, keys)
    expected = by_the_formula(plain, lengths)[choice.positions]
    assert_same_with_gradient(found, expected, mine, plain)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_on_a_cpu_bfloat16_is_rounded_at_the_ends_alone(
    lengths: list[int], every: int, autocast: bool
) -> None:
    """Values and gradients are off by half of their last bit, 2**-8, and float32's own rounding."""
    mine = make_qkv(lengths).bfloat16().requires_grad_()
    plain = mine.detach().double().requires_grad_()
    keys, choice = Layout.of(lengths, CPU), choose(lengths, every)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = ask(attend, mine, choice, keys)
    expected = by_the_formula(plain, lengths)[choice.positions]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)
    direction = torch.randn(found.shape).bfloat16()
    (ours,) = torch.autograd.grad(found, mine, direction)
    (theirs,) = torch.autograd.grad(expected, plain, direction.double())
    torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "expected"),
    [
        ((9, 0), torch.bfloat16, 64, True),
        ((8, 0), torch.float16, 8, True),
        ((10, 0), torch.bfloat16, 256, True),
        ((7, 5), torch.float16, 64, False),
        ((9, 0), torch.float32, 64, False),
        ((9, 0), torch.float64, 64, False),
        ((9, 0), torch.bfloat16, 20, False),
        ((9, 0), torch.bfloat16, 264, False),
        ((8, 9), torch.bfloat16, 208, False),
        ((8, 9), torch.bfloat16, 192, True),
        ((8, 0), torch.bfloat16, 208, True),
    ],
)
def test_what_flash_attention_takes(
    capability: tuple[int, int], dtype: torch.dtype, size: int, expected: bool
) -> None:
    assert takes_varlen(capability, dtype, size) is expected


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
def test_the_way_to_flash_attention(every: int, is_compiled: bool, flash_on_cpu: list[str]) -> None:
    lengths = LENGTHS["falling"]
    keys, choice = Layout.of(lengths, CPU), choose(lengths, every)
    query, key_value = make_qkv(lengths).split((HEADS * SIZE, 2 * HEADS * SIZE), 1)
    given = [choice.select(query), key_value]
    mine, plain = ([x.clone().requires_grad_() for x in given] for _ in range(2))

    def way(query: Tensor, key_value: Tensor) -> Tensor:
        return attend(query, *halves(key_value), choice.layout, keys, HEADS)

    assert choice.layout.max_length <= keys.max_length  # known before tracing, as in a step
    kernel = torch.compile(way, backend="aot_eager", fullgraph=True) if is_compiled else way
    found = kernel(*mine)
    expected = attention_module._attend_padded(
        plain[0], *halves(plain[1]), choice.layout, keys, HEADS
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    direction = torch.randn(found.shape, dtype=found.dtype)
    ours, theirs = (
        torch.autograd.grad(out, inputs, direction)
        for out, inputs in ((found, mine), (expected, plain))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    assert flash_on_cpu == ["forward", "backward"]


@pytest.mark.parametrize("at_once", [1, HEADS], ids=["head by head", "all heads at once"])
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_dropped_probabilities_are_dropped_in_both_directions(
    lengths: list[int], every: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_module, "heads_at_once", lambda *_: at_once)
    keys, choice = Layout.of(lengths, CPU), choose(lengths, every)
    noise = DropoutKey(5, torch.arange(sum(lengths)) + 30)
    factors = []
    for n in range(HEADS):
        keeps = noise.keeps(7 + n, noise.tokens, max(lengths), 0.4).double() * scale_of_kept(0.4)
        factors.append(keys.pad(keeps))  # [B, L, L]
    assert any(bool((factor == 0).any()) for factor in factors)
    rows, key = choice.layout, noise.of(choice.positions)
    mine, plain = (make_qkv(lengths).requires_grad_() for _ in range(2))
    query, key_value = mine.split((HEADS * SIZE, 2 * HEADS * SIZE), 1)
    found = attend(choice.select(query), *halves(key_value), rows, keys, HEADS, 0.4, key, site=7)
    expected = by_the_formula(plain, lengths, factors)[choice.positions]
    assert_same_with_gradient(found, expected, mine, plain)


def test_heads_at_once_drop_what_each_alone_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are the rows of the identity bring the dropped probabilities out as they are."""
    lengths = [SIZE, 3, 1]
    noise = DropoutKey(9, torch.arange(sum(lengths)))
    layout = Layout.of(lengths, CPU)
    query, key_value = make_qkv(lengths).split((HEADS * SIZE, 2 * HEADS * SIZE), 1)
    places = torch.cat([torch.arange(length) for length in lengths])
    key_value = key_value.clone()
    key_value[:, HEADS * SIZE :] = torch.eye(SIZE, dtype=torch.float64)[places].repeat(1, HEADS)
    found = []
    for at_once in (1, HEADS):
        monkeypatch.setattr(attention_module, "heads_at_once", lambda *_, n=at_once: n)
        found.append(attend(query, *halves(key_value), layout, layout, HEADS, 0.4, noise, site=3))
    assert torch.equal(found[0] == 0, found[1] == 0)
    first, other, _ = found[0][:SIZE].split(SIZE, 1)
    assert not torch.equal(first == 0, other == 0), "heads must drop other places"


def test_no_padded_row_leaves_attention() -> None:
    lengths = [6, 2]
    found = ask(attend, make_qkv(lengths), choose(lengths, 1), Layout.of(lengths, CPU))
    assert found.shape == (8, HEADS * SIZE)
    assert bool(found.isfinite().all())
