"""A file of ONNX run by onnxruntime, on packed batches as the rest of the package has them.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; K = outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.batch import Batch
from bertsmith.exporting.tasks import Exportable


class OnnxModel:
    """A graph that `to_onnx` made.

    Args:
        content: of the file.
        exported: what it was made of.
    """

    def __init__(self, content: bytes, exported: Exportable) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._names = [entry.name for entry in self._session.get_inputs()]
        self._exported = exported

    @property
    def interface(self) -> dict[str, Any]:
        """Names of `inputs`, int64 [B, L] each; `output`, its name and shape, numbers or names."""
        (entry,) = self._session.get_outputs()
        return {"inputs": self._names, "output": {"name": entry.name, "shape": list(entry.shape)}}

    def outputs(self, batch: Batch) -> Tensor:
        """float32 [T, K] or [B, K], as `Exportable.outputs`."""
        is_token = np.arange(max(batch.lengths))[None] < np.array(batch.lengths)[:, None]
        feeds = {
            "input_ids": _padded(batch.input_ids, is_token, self._exported.tokenizer.pad_id),
            "attention_mask": is_token.astype(np.int64),
            "token_type_ids": _padded(batch.token_type_ids, is_token, 0),
        }
        (found,) = self._session.run(None, {name: feeds[name] for name in self._names})
        return torch.from_numpy(found[is_token] if self._exported.is_of_tokens else found)


def _padded(values: Tensor, is_token: npt.NDArray[np.bool_], filler: int) -> npt.NDArray[np.int64]:
    """int64 [T] → [B, L]."""
    grid = np.full(is_token.shape, filler, dtype=np.int64)
    grid[is_token] = values.numpy()
    return grid
