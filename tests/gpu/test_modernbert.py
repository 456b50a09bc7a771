"""ModernBERT on the device against the same on a CPU: windows, rotary positions, all of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bertsmith.architectures import MLM_HEAD
from bertsmith.architectures.modernbert.network import ModernBert
from bertsmith.batch import Batch
from bertsmith.config import ModernBertConfig
from bertsmith.data.store import TokenStore
from bertsmith.hardware.device import autocast
from bertsmith.nn.layout import Layout
from bertsmith.nn.local_attention import Windows, attend_locally
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.tokenizer import Tokenizer
from tests.support.gpu import Finding
from tests.support.gradients import assert_same_gradients
from tests.support.stores import make_batches

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
KEY = 2**63 + 7  # of dropout


@pytest.fixture
def batch(long_store: TokenStore, long_tokenizer: Tokenizer) -> Batch:
    settings = {"objective": "mlm", "max_length": 256, "batch_size": 16}
    return make_batches(long_store, long_tokenizer, **settings).batch(3)


def make_model(vocab_size: int, *, layers: int, dropout: float, heads: int) -> ModernBert:
    """Weights far from their small initial values, so that an error in any part shows."""
    config = ModernBertConfig(
        num_hidden_layers=layers,
        hidden_size=128,
        intermediate_size=192,
        num_attention_heads=heads,
        local_attention=32,
        mlp_dropout=dropout,
        attention_dropout=dropout,
    )
    model = ModernBert(config, vocab_size, frozenset({MLM_HEAD}))
    model.initialize(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def loss_and_gradients(
    model: ModernBert, batch: Batch, where: torch.device, dtype: torch.dtype, precision: str
) -> tuple[float, dict[str, Tensor]]:
    model = model.to(where, dtype)
    model.zero_grad()
    with autocast(where, precision):
        (loss,) = MaskedLM().losses(model, batch.to(where), KEY)
    mean = loss / batch.num_masked
    mean.backward()
    found = {
        name: parameter.grad.cpu().double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return float(mean.detach()), found


@pytest.mark.parametrize("layers", [4, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_float32_is_that_of_a_cpu(
    dropout: float,
    layers: int,
    batch: Batch,
    long_tokenizer: Tokenizer,
    device: torch.device,
    finding: Finding,
) -> None:
    """The last of four layers is global, that of five local."""
    model = make_model(long_tokenizer.vocab_size, layers=layers, dropout=dropout, heads=2)
    loss, gradients = loss_and_gradients(model, batch, CPU, torch.float64, "float32")
    found_loss, found = loss_and_gradients(model, batch, device, torch.float32, "float32")
    finding(f"loss {abs(found_loss - loss):.2e}")
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients, 1e-4)


@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize("layers", [4, 5])
def test_bfloat16_is_float32_but_for_rounding(
    layers: int,
    heads: int,
    batch: Batch,
    long_tokenizer: Tokenizer,
    device: torch.device,
    finding: Finding,
) -> None:
    """A layer's six products round what they read and what they give, and the rotation once more.

    Forward and back that is about 2 × (14 × 5 + 6) roundings of 2**-8 / √3 each, 2.8 % in all of a
    gradient's norm; the bound is 2.5 times that, as in test_network.py.
    """
    model = make_model(long_tokenizer.vocab_size, layers=layers, dropout=0.0, heads=heads)
    loss, gradients = loss_and_gradients(model, batch, device, torch.float32, "float32")
    found_loss, found = loss_and_gradients(model, batch, device, torch.float32, "bfloat16")
    finding(f"loss {abs(found_loss - loss):.2e}")
    assert found_loss == pytest.approx(loss, abs=5e-3)
    assert_same_gradients(found, gradients, 0.07)


@pytest.mark.parametrize("window", [8, 64])
@pytest.mark.parametrize("heads", [2, 8])
def test_windows_are_those_of_the_blocks(
    heads: int, window: int, device: torch.device, finding: Finding
) -> None:
    """The kernel for windows, where there is one, against blocks in float64 on the CPU."""
    lengths = [700, 300, 64, 9, 1]
    rows = torch.randn(3, sum(lengths), 128, generator=torch.Generator().manual_seed(0))
    rows = rows.bfloat16().double().requires_grad_()
    grad = torch.randn(sum(lengths), 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = []
    for where, dtype in ((CPU, torch.float64), (device, torch.bfloat16)):
        query, key, value = rows.to(where, dtype)
        windows = Windows(Layout.of(lengths, where), len(query), window)
        out = attend_locally(query, key, value, windows, heads)
        (of_rows,) = torch.autograd.grad(out, rows, grad.to(where, dtype))
        found.append((out.detach().cpu().double(), of_rows))
    (plain, plain_grad), (narrow, narrow_grad) = found
    errors = [
        float((a - b).norm() / b.norm()) for a, b in ((narrow, plain), (narrow_grad, plain_grad))
    ]
    finding(f"output {errors[0]:.2e}, gradients {errors[1]:.2e}")
    # Probabilities, outputs and scores' gradients are rounded to eight bits: 2**-9 / √3 a time.
    assert errors[0] < 5e-3
    assert errors[1] < 1e-2
