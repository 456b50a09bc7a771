"""Muon beside torch's own, and what its update is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bertsmith.architectures import CLASSIFIER, build
from bertsmith.architectures.bert.network import Bert
from bertsmith.config import BertConfig, ModernBertConfig, TrainingConfig
from bertsmith.errors import ConfigError
from bertsmith.training.muon import Muon, orthogonalized
from bertsmith.training.optimizer import make_optimizers


@pytest.mark.parametrize("shape", [(24, 24), (96, 24), (24, 96)])
def test_updates_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(mine.detach().clone())
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    one, other = Muon([mine], **options), torch.optim.Muon([theirs], **options)
    for _ in range(3):
        gradient = torch.randn(shape)
        mine.grad, theirs.grad = gradient, gradient.clone()
        one.step()
        other.step()
    # Theirs rounds to bfloat16 on the way: eight bits, in fifteen products one after another.
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02)
    torch.testing.assert_close(
        one.state[mine]["momentum_buffer"], other.state[theirs]["momentum_buffer"]
    )


def test_singular_values_are_near_one() -> None:
    torch.manual_seed(1)
    matrices = torch.randn(5, 48, 16) * torch.logspace(-3, 3, 5)[:, None, None]
    made = orthogonalized(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (made * (left @ right)).sum((1, 2)) / made.norm(dim=(1, 2)) / 16**0.5
    assert cosine.min() > 0.97


@pytest.mark.parametrize("rank", [3, 16])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (16, 200)])
def test_long_matrices_come_out_as_those_iterated_whole(shape: tuple[int, int], rank: int) -> None:
    """Iterating on the Gram matrix alone makes the same, for matrices of few directions too."""
    torch.manual_seed(3)
    matrices = torch.randn(2, shape[0], rank) @ torch.randn(2, rank, shape[1])
    expected = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.775 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalized(matrices.double()), expected, rtol=0, atol=1e-9)


def test_matrices_that_stand_in_one_parameter_are_updated_apart() -> None:
    torch.manual_seed(2)
    together = torch.nn.Parameter(torch.randn(24, 8))
    parts = [torch.nn.Parameter(part.clone()) for part in together.detach().chunk(3)]
    one, other = Muon([{"params": [together], "num_blocks": 3}], lr=0.1), Muon(parts, lr=0.1)
    together.grad = torch.randn(24, 8) * torch.tensor([1e-3, 1, 1e3]).repeat_interleave(8)[:, None]
    for part, gradient in zip(parts, together.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    one.step()
    other.step()
    torch.testing.assert_close(together.detach(), torch.cat([p.detach() for p in parts]))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.randn(4, 4))
    muon = Muon([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.randn(4, 4)
    muon.found_inf = torch.tensor(0.0)
    muon.step()
    weights, mean = parameter.detach().clone(), muon.state[parameter]["momentum_buffer"].clone()
    parameter.grad = torch.full((4, 4), float("nan"))
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert torch.equal(parameter.detach(), weights)
    assert torch.equal(muon.state[parameter]["momentum_buffer"], mean)


def test_it_has_the_matrices_between_hidden_states_and_adamw_the_rest(tiny_model: Bert) -> None:
    muon, adam = make_optimizers(tiny_model, TrainingConfig(optimizer="muon")).parts
    names = {parameter: name for name, parameter in tiny_model.named_parameters()}
    found = [
        [names[p] for group in part.param_groups for p in group["params"]] for part in (muon, adam)
    ]
    of_layers = [
        f"layers.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("attention.qkv", "attention.output", "intermediate", "output")
    ]
    assert sorted(found[0]) == [*sorted(of_layers), "mlm_head.transform.weight"]
    assert sorted(found[0] + found[1]) == sorted(names.values())
    assert [group["num_blocks"] for group in muon.param_groups] == [3, 1]
    assert all("qkv" in names[p] for p in muon.param_groups[0]["params"])


@pytest.mark.parametrize("architecture", [BertConfig, ModernBertConfig])
def test_without_an_mlm_head_it_has_the_matrices_of_the_layers(architecture: Any) -> None:
    config = architecture(num_hidden_layers=1, hidden_size=16, num_attention_heads=2)
    model = build(config, 20, frozenset({CLASSIFIER}), num_labels=2)
    assert all(name.startswith("layers.0.") for name in model.hidden_matrices())
    assert set(model.hidden_matrices()) <= dict(model.named_parameters()).keys()


def test_every_rate_is_a_share_of_its_own_peak(tiny_model: Bert) -> None:
    config = TrainingConfig(optimizer="muon", learning_rate=0.002, muon_learning_rate=0.01)
    optimizers = make_optimizers(tiny_model, config)
    for share in (0.5, 0.25):
        optimizers.set_rate(share)
        rates = [[group["lr"] for group in part.param_groups] for part in optimizers.parts]
        assert rates == [[share * 0.01] * 2, [share * 0.002] * 2]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_embeddings_and_scalars_have_rates_of_their_own(tiny_model: Bert, optimizer: Any) -> None:
    config = TrainingConfig(
        optimizer=optimizer,
        learning_rate=0.002,
        embedding_learning_rate=0.03,
        scalar_learning_rate=0.0004,
        weight_decay=0.1,
    )
    adam = make_optimizers(tiny_model, config).parts[-1]
    names = {parameter: name for name, parameter in tiny_model.named_parameters()}
    groups = {group["lr"]: group for group in adam.param_groups}
    assert {rate: group["weight_decay"] for rate, group in groups.items()} == {
        0.002: 0.1,
        0.03: 0.1,
        0.0004: 0.0,
    }
    found = {names[p] for p in groups[0.03]["params"]}
    assert found == {f"embeddings.{kind}.weight" for kind in ("word", "position", "token_type")}
    assert all(p.ndim == 1 for p in groups[0.0004]["params"])
    assert all(p.ndim == 2 for p in groups[0.002]["params"])


def test_a_rate_of_what_is_not_there_is_refused() -> None:
    config = TrainingConfig(embedding_learning_rate=0.03)
    with pytest.raises(ConfigError, match="`embedding_learning_rate` changes nothing"):
        make_optimizers(torch.nn.Linear(3, 3), config)
