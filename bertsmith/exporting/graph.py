"""The network of a task on a padded batch, and its graph in ONNX.

Legend: B = sequences; L = length of the padded batch; H = hidden size; K = outputs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.errors import ConfigError, ModelError
from bertsmith.exporting.tasks import Exportable
from bertsmith.nn.layout import PackedInput
from bertsmith.nn.padded import PaddedLayout

OPSETS = range(18, 24)
"""That the graph can be written in; 18 is the first one that PyTorch's exporter writes."""
DEFAULT_OPSET = 18
_MOST_BYTES = 2**31 - 1  # of a file of Protocol Buffers


class TaskNetwork(nn.Module):
    """An encoder with its task's head, from padded ids to outputs: what the graph is of.

    The encoder is the one that was trained, on a `PaddedLayout`; pooling and length 1 are in it.
    """

    def __init__(self, exported: Exportable) -> None:
        super().__init__()
        self.model = exported.model
        self._task, self._pooling = exported.task, exported.pooling
        self.eval()

    @property
    def has_segments(self) -> bool:
        """Whether it reads token_type_ids."""
        return self.model.config.num_segments > 1

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """int64 [B, L] each → [B, L, K], or of sequences [B, K]."""
        size, length = input_ids.shape
        is_token = attention_mask != 0
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        positions = torch.arange(length, device=input_ids.device).expand(size, length)
        ids, types, places = (x.flatten() for x in (input_ids, token_type_ids, positions))
        hidden = self.model(PackedInput(ids, types, places, PaddedLayout(is_token)))
        if self._task == "fill-mask":
            return self.model.mlm_logits(hidden).view(size, length, -1)
        if self._task == "token-classification":
            tagged = self.model.token_logits(self.model.before_token_classifier(hidden))
            return tagged.view(size, length, -1)
        grid = hidden.view(size, length, -1)
        if self._task == "text-classification":
            vectors = _mean(grid, is_token) if self.model.pools_all else grid[:, 0]
            return self.model.class_logits(self.model.pool(vectors))
        vectors = _mean(grid, is_token) if self._pooling.mode == "mean" else grid[:, 0]
        return F.normalize(vectors) if self._pooling.normalize else vectors


def _mean(grid: Tensor, is_token: Tensor) -> Tensor:
    """Over the tokens: [B, L, H] → [B, H]."""
    weights = is_token.to(grid.dtype)[:, :, None]
    return (grid * weights).sum(dim=1) / weights.sum(dim=1)


def to_onnx(exported: Exportable, opset: int) -> Any:
    """The graph, an `onnx.ModelProto`, of any batch size and length.

    Args:
        exported: a model.
        opset: version of ONNX's operators, of `OPSETS`.

    Raises:
        ConfigError: PyTorch writes no such opset, or not this network in it.
        ModelError: it would be larger than a file of ONNX can be.
    """
    if opset not in OPSETS:
        raise ConfigError(
            f"`opset` must be from {OPSETS[0]} to {OPSETS[-1]}, which PyTorch's exporter writes; "
            f"got {opset}."
        )
    if 4 * sum(parameter.numel() for parameter in exported.model.parameters()) > _MOST_BYTES:
        raise ModelError("The model must be below 2 GiB in float32 to be one file of ONNX.")
    network = TaskNetwork(exported)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if network.has_segments else [])]
    # Sizes that nothing in the network has, or the exporter would take two for one.
    example = tuple(torch.ones(3, 7, dtype=torch.int64) for _ in names)
    with _silent():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            input_names=names,
            output_names=[exported.output_name],
            dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in names),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    found: Any = program.model_proto
    written = {entry.domain: entry.version for entry in found.opset_import}.get("")
    if written != opset:
        raise ConfigError(
            f"PyTorch's exporter cannot write this network in opset {opset}; it wrote {written}. "
            f"Give --opset {written}."
        )
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """What the exporter says of itself is not shown: torchvision is not there, copyreg warns."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
