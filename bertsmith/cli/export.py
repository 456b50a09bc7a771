"""`bertsmith export`: a model as a file for other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from bertsmith import api
from bertsmith.cli.arguments import Flag, RunPath
from bertsmith.display import result_console, show, show_json
from bertsmith.errors import printable


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model as a graph of ONNX, which onnxruntime runs without PyTorch."""

    run: RunPath
    """A run's folder, one of its checkpoints, a fine-tuned or other Hugging Face folder, or
    hf:owner/name. What it was trained for is exported: words for masks, classes, tags, vectors."""
    output: Path
    """The folder to make: the graph, the tokenizer, a README.md with a program that runs it."""
    format: Literal["onnx"] = "onnx"
    """The kind of file."""
    quantize: Literal["int8"] | None = None
    """8-bit weights: about a quarter of the size; what they cost is measured and printed."""
    opset: int = 18
    """Version of ONNX's operators, 18 to 23; older runtimes take 18."""
    validation: Path | None = None
    """Labelled texts that tell what 8 bits cost; without it, those of the fine-tuning."""
    license: str | None = None
    """The licence that the README.md names; without it, that of the model."""
    overwrite: Flag = False
    """Replace an earlier export in the output folder."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print one JSON object."""


def export(command: Export) -> None:
    """Export, and print what was made."""
    found = api.export(
        command.run,
        output=command.output,
        format=command.format,
        quantize=command.quantize,
        opset=command.opset,
        validation=command.validation,
        license=command.license,
        overwrite=command.overwrite,
        quiet=command.quiet or command.json,
    )
    if command.json:
        show_json({**found.report, "file": str(found.file)})
        return
    report = found.report
    show(
        f"{printable(str(found.file))}: {_sizes(report)}, {report['task']}, opset {report['opset']}"
    )
    output = report["output"]
    shape = ", ".join(map(str, output["shape"]))
    show(
        f"inputs {', '.join(report['inputs'])}: int64 [batch, length]; output {output['name']}: "
        f"float32 [{shape}]"
    )
    exact, tolerance = report["largest_difference"]["float32"], report["tolerance"]
    show(f"float32 outputs are within {exact:.1e} of the model's (at most {tolerance:g} passes)")
    if report["precision"] != "float32":
        _show_cost(report)


def _sizes(report: dict[str, Any]) -> str:
    sizes, precision = report["bytes"], report["precision"]
    text = f"{sizes[precision] / 1e6:,.1f} MB"
    if precision != "float32":
        text += f" ({sizes[precision] / sizes['float32']:.0%} of float32's)"
    return text


def _show_cost(report: dict[str, Any]) -> None:
    """What 8 bits cost."""
    precision = report["precision"]
    show(f"{precision} outputs are within {report['largest_difference'][precision]:.1e}")
    if report["figures"] is None:
        show(
            "what that costs was not measured: there is no validation text; give --validation FILE"
        )
        return
    table = Table(printable(report["judged_by"]), *report["figures"])
    for column in table.columns[1:]:
        column.justify = "right"
    for name in next(iter(report["figures"].values())):
        values = [figures[name] for figures in report["figures"].values()]
        table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in values))
    result_console().print(table)
