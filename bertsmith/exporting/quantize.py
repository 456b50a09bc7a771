"""A graph with 8-bit weights: matrix products by onnxruntime's quantiser, embeddings row by row.

Legend: V = vocabulary; H = hidden size.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_LARGEST = 127


def quantized(model: Any, vocab_size: int) -> Any:
    """The same graph with 8-bit weights: an `onnx.ModelProto`.

    Weights have a scale for each output, and 7 bits, since processors without VNNI add pairs of
    products in 16 bits; activations get a scale while the graph runs ("dynamic quantisation").
    Attention's products of activations stay in float32.

    The quantiser has one scale for a matrix of embeddings; here each row has one. Where the product
    with the vocabulary has the same matrix, the file holds it once.

    Args:
        model: `onnx.ModelProto` in float32; it is not changed.
        vocab_size: V.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # which the quantiser uses to recommend a step before it
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(
                model_input=_copy(model),
                model_output=path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
            found = onnx.load(path)
    finally:
        root.setLevel(before)
    _quantize_embeddings(found.graph, vocab_size)
    onnx.checker.check_model(found)
    return found


def _copy(model: Any) -> Any:
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    return found


def _quantize_embeddings(graph: Any, vocab_size: int) -> None:
    """Let the rows that tokens ask for be of 8 bits, with a scale each."""
    from onnx import helper, numpy_helper

    tables = {entry.name: entry for entry in graph.initializer}
    for place, node in enumerate(graph.node):
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[0] != vocab_size:
            continue
        name, ids, rows = table.name, node.input[1], node.output[0]
        before = []
        if f"{name}_Transposed_quantized" in tables:  # [H, V]; onnxruntime turns it when it loads
            before = [
                helper.make_node("Transpose", [f"{name}_Transposed_quantized"], [f"{name}_8"])
            ]
            scales = f"{name}_Transposed_scale"
        else:
            values = numpy_helper.to_array(table)
            scale = np.maximum(np.abs(values).max(axis=1), 1e-12) / _LARGEST
            small = np.rint(values / scale[:, None]).astype(np.int8)
            scales = f"{name}_scale"
            graph.initializer.extend(
                [
                    numpy_helper.from_array(small, f"{name}_8"),
                    numpy_helper.from_array(scale.astype(np.float32), scales),
                ]
            )
        made = [
            *before,
            helper.make_node("Gather", [f"{name}_8", ids], [f"{rows}_8"]),
            helper.make_node("Cast", [f"{rows}_8"], [f"{rows}_float"], to=1),
            helper.make_node("Gather", [scales, ids], [f"{rows}_scale"]),
            helper.make_node("Unsqueeze", [f"{rows}_scale", f"{rows}_axis"], [f"{rows}_scales"]),
            helper.make_node("Mul", [f"{rows}_float", f"{rows}_scales"], [rows]),
        ]
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), f"{rows}_axis"))
        graph.node.remove(node)
        for number, one in enumerate(made):
            graph.node.insert(place + number, one)
        graph.initializer.remove(table)
        return
