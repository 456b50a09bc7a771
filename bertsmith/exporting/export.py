"""A model as a file for other runtimes: made, held against the model, judged, written as a folder.

README.md                                what it is, and how it is run
onnx/model.onnx, or model_int8.onnx      the network, its head and pooling
config.json, tokenizer.json, …           as of the model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertsmith.display import Display
from bertsmith.durable import is_ours, whole_folder
from bertsmith.errors import ConfigError, ModelError, RunError
from bertsmith.exporting.example import example
from bertsmith.exporting.figures import figures_of, validation_of
from bertsmith.exporting.graph import DEFAULT_OPSET, to_onnx
from bertsmith.exporting.quantize import quantized
from bertsmith.exporting.session import OnnxModel
from bertsmith.exporting.tasks import Exportable
from bertsmith.extras import require
from bertsmith.reporting.card import CARD_FILE, exported_card
from bertsmith.rows import Row, packed
from bertsmith.saved.hub import is_hub_name
from bertsmith.saved.hugging_face import CONFIG_FILE
from bertsmith.saved.locate import read_newest
from bertsmith.training.checks import written_to

TOLERANCE = 1e-4
"""Of the largest output: how far float32 outputs of the file may be from the model's."""

_FOLDER = "onnx"  # where the hub, transformers.js and optimum look
_LONGEST_CHECKED = 512
_NUM_CHECKED = 6


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model."""

    output: Path
    """The folder."""
    file: Path
    """The graph in it."""
    report: dict[str, Any] = field(repr=False)
    """What was made (task, opset, bytes, inputs, outputs), how near it is to the model
    (`largest_difference`, as a share of the largest output), and `figures` on validation text by
    precision, where that was judged."""


def export_folder(
    path: Path,
    *,
    output: Path,
    quantize: str | None = None,
    opset: int = DEFAULT_OPSET,
    validation: Path | None = None,
    license_name: str | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> Exported:
    """Write the model in `path` as a graph of ONNX, for what it was trained for.

    Args:
        path: a run, a checkpoint, a fine-tuned or other Hugging Face folder, or hf:owner/name.
        output: the folder to make; nothing is in it before all is checked.
        quantize: "int8": 8-bit weights; None: float32.
        opset: of ONNX's operators.
        validation: a table that tells what 8 bits cost; default: that of the fine-tuning. A
            pretrained model is judged by what its run held out.
        license_name: for the model card; default: that of the model's own.
        overwrite: replace an earlier export in `output`.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: a setting, the model or the output does not suit, or the file gives other
            outputs than the model.
    """
    require("onnx", "Export")
    _refuse_settings(quantize, validation)
    display = display or Display(quiet=True)
    _check_output(output, overwrite=overwrite)
    exported = read_newest(path, Exportable.load)
    # What a stranger's folder names is no table of this machine.
    table = validation if is_hub_name(path) else validation_of(exported, validation)
    with display.stage("Making the graph"):
        content = _graphs(exported, opset, quantize)
        models = {name: OnnxModel(file, exported) for name, file in content.items()}
        differences = {name: _difference(exported, model) for name, model in models.items()}
    _refuse_difference(differences)
    outputs = {name: model.outputs for name, model in models.items()}
    judged = figures_of(exported, path, table, outputs, display) if quantize else None
    precision = quantize or "float32"
    report = {
        "task": exported.task,
        "precision": precision,
        "opset": opset,
        "max_length": exported.tokenizer.max_length,
        **models[precision].interface,
        "bytes": {name: len(file) for name, file in content.items()},
        "tolerance": TOLERANCE,
        "largest_difference": differences,
        "judged_by": judged and judged[0],
        "figures": judged and judged[1],
    }
    name = "model.onnx" if quantize is None else f"model_{quantize}.onnx"
    with written_to(output, "Nothing was written."):
        _write(exported, output, name, content[precision], report, license_name)
    return Exported(output=output, file=output / _FOLDER / name, report=report)


def _refuse_settings(quantize: str | None, validation: Path | None) -> None:
    """Raise `ConfigError` for what there is not, or what changes nothing."""
    if quantize not in (None, "int8"):
        raise ConfigError(f"`quantize` must be int8 or left out; got {quantize!r}.")
    if quantize is None and validation is not None:
        raise ConfigError("`validation` tells what 8 bits cost; give `quantize` beside it.")


def _graphs(exported: Exportable, opset: int, quantize: str | None) -> dict[str, bytes]:
    """The file in float32, and that which is asked for."""
    graph = to_onnx(exported, opset)
    content: dict[str, bytes] = {"float32": graph.SerializeToString()}
    if quantize is not None:
        small = quantized(graph, exported.model.vocab_size)
        content[quantize] = small.SerializeToString()
    return content


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but an earlier export, and over that unless asked to."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (is_ours(output) and (output / _FOLDER).is_dir()):
        raise RunError(
            f"The output {output} must be new, an empty folder or an earlier export; it is "
            "something else. Name another with --output."
        )
    if not overwrite:
        raise RunError(
            f"The output folder {output} already holds an export; name another with --output, or "
            "replace it with --overwrite."
        )


def _refuse_difference(shares: Mapping[str, float]) -> None:
    """Raise `ModelError` if the graph in float32 is not the model, or another gives no numbers."""
    share = shares["float32"]
    if not share <= TOLERANCE:
        raise ModelError(
            f"The graph must give the model's outputs to within {TOLERANCE:g} of the largest; it "
            f"is {share:.2g} off. Nothing was written; please report it."
        )
    if not np.isfinite(list(shares.values())).all():
        raise ModelError(
            "The outputs of the graph in 8 bits must be finite numbers; they are not. Nothing was "
            "written; export it in float32."
        )


def _difference(exported: Exportable, model: OnnxModel) -> float:
    """The largest difference of outputs on rows of many lengths, as a share of the largest output.

    The model reads them end to end, without padding; the file reads one alone, then all at once.
    """
    longest = min(exported.tokenizer.max_length, _LONGEST_CHECKED)
    random = np.random.default_rng(0)
    lengths = np.unique(np.linspace(1, longest, _NUM_CHECKED).astype(int))[::-1].tolist()
    rows = [
        Row(random.integers(exported.model.vocab_size, size=n).tolist(), [0] * n) for n in lengths
    ]
    if exported.model.config.num_segments > 1:
        rows = [Row(ids, [int(2 * i >= len(ids)) for i in range(len(ids))]) for ids, _ in rows]
    largest = 0.0
    for some in (rows[:1], rows):
        batch = packed(some, tags=[[0] * len(row.ids) for row in some])
        expected, found = exported.outputs(batch), model.outputs(batch)
        if not bool(torch.isfinite(found).all()) or found.shape != expected.shape:
            return float("inf")
        scale = float(expected.abs().max()) or 1.0
        largest = max(largest, float((found - expected).abs().max()) / scale)
    return largest


def _write(
    exported: Exportable,
    output: Path,
    name: str,
    content: bytes,
    report: Mapping[str, Any],
    license_name: str | None,
) -> None:
    """The folder."""
    source = exported.folder
    tokenizer = exported.tokenizer
    with whole_folder(output.resolve()) as part:
        (part / _FOLDER).mkdir()
        (part / _FOLDER / name).write_bytes(content)
        (part / CONFIG_FILE).write_bytes(exported.config)
        tokenizer.save(part)
        pad, mask = ((n, tokenizer.token(n)) for n in (tokenizer.pad_id, tokenizer.mask_id))
        card = exported_card(
            report,
            source / CARD_FILE,
            example=example(exported.task, f"{_FOLDER}/{name}", tokenizer.max_length, pad, mask),
            license_name=license_name,
        )
        (part / CARD_FILE).write_text(card, encoding="utf-8")
        (part / "export.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
