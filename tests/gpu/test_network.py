"""The whole network on the device against the same on a CPU, on real batches.

Bounds are on the norm of the difference over the norm of the gradient, for each parameter.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig
from bertsmith.data.store import TokenStore
from bertsmith.hardware.device import autocast
from bertsmith.saved.hugging_face import to_hugging_face
from bertsmith.tokenizer import Tokenizer
from tests.support.gpu import Finding
from tests.support.gradients import assert_same_gradients
from tests.support.objective import BERT, losses_of, scores_of
from tests.support.stores import make_batches

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
KEY = 2**63 + 7  # of dropout


def make_model(vocab_size: int, *, dropout: float, attention_dropout: float, heads: int) -> Bert:
    """Weights far from their small initial values, so that an error in any part shows."""
    config = BertConfig(
        num_hidden_layers=3,
        hidden_size=128,
        intermediate_size=256,
        num_attention_heads=heads,
        max_position_embeddings=256,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
    )
    model = Bert(config, vocab_size)
    model.initialize(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.fixture(params=[("filled", 256), ("adjacent", 64)], ids=["256", "64"])
def batch(
    request: pytest.FixtureRequest, long_store: TokenStore, long_tokenizer: Tokenizer
) -> Batch:
    pairing, length = request.param
    batches = make_batches(
        long_store, long_tokenizer, pairing=pairing, max_length=length, batch_size=16
    )
    return batches.batch(3)


def losses_and_gradients(
    model: Bert, batch: Batch, where: torch.device, dtype: torch.dtype, precision: str = "float32"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Both mean losses, float64 [2], and gradients by their names in `transformers`, on the CPU."""
    model = model.to(where, dtype)
    model.zero_grad()
    with autocast(where, precision):
        losses = losses_of(model, batch.to(where), KEY)
    means = losses.mlm / batch.num_masked, losses.nsp / batch.num_sequences
    sum(means).backward()  # type: ignore[union-attr]
    gradients = {
        name: parameter.grad.cpu().double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return torch.stack(means).detach().cpu().double(), to_hugging_face(gradients, BERT)


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """Of a parameter's gradient, and which; keys' biases have none but rounding."""
    return max(
        (float((found[name] - theirs).norm() / theirs.norm()), name)
        for name, theirs in expected.items()
        if not name.endswith("key.bias")
    )


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.1)])
def test_float32_is_that_of_a_cpu(
    dropout: float,
    attention_dropout: float,
    batch: Batch,
    long_tokenizer: Tokenizer,
    device: torch.device,
    finding: Finding,
) -> None:
    assert torch.get_float32_matmul_precision() == "highest", "TF32 must be off"
    model = make_model(
        long_tokenizer.vocab_size, dropout=dropout, attention_dropout=attention_dropout, heads=2
    )
    losses, gradients = losses_and_gradients(model, batch, CPU, torch.float64)
    found_losses, found = losses_and_gradients(model, batch, device, torch.float32)
    worst, name = largest_error(found, gradients)
    finding(f"losses {(found_losses - losses).abs().max():.2e}, gradient {worst:.2e} ({name})")
    torch.testing.assert_close(found_losses, losses, rtol=1e-6, atol=1e-6)
    assert_same_gradients(found, gradients, 1e-5)


@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_bfloat16_is_float32_but_for_rounding(
    attention_dropout: float,
    heads: int,
    batch: Batch,
    long_tokenizer: Tokenizer,
    device: torch.device,
    finding: Finding,
) -> None:
    """Some 8 products of a layer and 4 of the heads round what they read and what they give.

    Forward and back that is about 2 × 2 × 28 roundings of 2**-8 / √3 each on the longest way, which
    are independent: √112 × 2**-8 / √3 = 2.4 % in a gradient's norm. The bound is 2.5 times that,
    since it is for the worst of some 60 parameters, the smallest of which have two numbers.
    """
    model = make_model(
        long_tokenizer.vocab_size, dropout=0.1, attention_dropout=attention_dropout, heads=heads
    )
    losses, gradients = losses_and_gradients(model, batch, device, torch.float32)
    found_losses, found = losses_and_gradients(model, batch, device, torch.float32, "bfloat16")
    worst, name = largest_error(found, gradients)
    finding(f"losses {(found_losses - losses).abs().max():.2e}, gradient {worst:.2e} ({name})")
    torch.testing.assert_close(found_losses, losses, rtol=0, atol=5e-3)
    assert_same_gradients(found, gradients, 0.06)


def test_judging_is_that_of_a_cpu(
    batch: Batch, long_tokenizer: Tokenizer, device: torch.device
) -> None:
    model = make_model(long_tokenizer.vocab_size, dropout=0.1, attention_dropout=0.1, heads=2)
    expected = scores_of(model.eval(), batch)
    found = scores_of(model.to(device), batch.to(device))
    for name, own in expected.items():
        torch.testing.assert_close(found[name].losses.cpu(), own.losses, rtol=1e-4, atol=1e-4)
        guesses = found[name].correct
        assert guesses is not None
        assert own.correct is not None
        assert torch.equal(guesses.cpu(), own.correct)
