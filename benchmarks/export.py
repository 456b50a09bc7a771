"""What an exported model takes, beside PyTorch: `python -m benchmarks.export FOLDER [FOLDER …]`.

Each folder is a run or a fine-tuned model, which is exported in float32 and in 8 bits. Four sides
answer the same texts (rows of the model's vocabulary, of the lengths that are given): Bertsmith's
model, `transformers`' of the same weights, and onnxruntime with both files. One text at a time, and
batches of 32; tokenizing is not timed. Each side has a process of its own; they take turns. Writes
benchmarks/results/export.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bertsmith
from benchmarks.report import column, figures_of, processor, times, versions
from bertsmith.exporting.session import OnnxModel
from bertsmith.exporting.tasks import Exportable
from bertsmith.rows import Row, packed
from bertsmith.saved.locate import read_newest

RESULTS = Path(__file__).parent / "results"
SIDES = {
    "own": "Bertsmith (PyTorch, float32)",
    "theirs": "`transformers` (PyTorch, float32)",
    "onnx": "ONNX, float32",
    "int8": "ONNX, int8",
}
BATCH, SINGLE_CALLS, BATCH_CALLS, WARM_UP = 32, 150, 8, 5
SPINS = "800"
"""GOMP_SPINCOUNT, as the command line sets it for ours."""


def main() -> None:
    """Export, let the sides take turns, and write the tables."""
    if len(sys.argv) == 5 and sys.argv[1] in SIDES:
        side, folder, file, lengths = sys.argv[1:]
        print(json.dumps(measure(side, Path(folder), Path(file), json.loads(lengths))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="runs or fine-tuned folders")
    parser.add_argument("--rounds", type=int, default=5, help="turns of all sides")
    parser.add_argument("--lengths", type=int, nargs=2, default=(16, 48), help="tokens of a text")
    options = parser.parse_args()
    lines = [
        "# Exported models beside PyTorch",
        "",
        f"`python -m benchmarks.export FOLDER …` — texts of {options.lengths[0]} to "
        f"{options.lengths[1]} tokens, one at a time and {BATCH} at once; median of all turns "
        "(lowest to highest); the sides take turns, each in a process of its own with all cores.",
        "",
        f"{processor()}; {versions()}, onnxruntime {_version('onnxruntime')}.",
    ]
    for folder in options.folders:
        lines += ["", *of_folder(folder, options.rounds, options.lengths)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


def of_folder(folder: Path, rounds: int, lengths: tuple[int, int]) -> list[str]:
    """The table of a model."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as work:
        exports = {
            "onnx": bertsmith.export(folder, output=Path(work) / "float32", quiet=True),
            "int8": bertsmith.export(
                folder, output=Path(work) / "int8", quantize="int8", quiet=True
            ),
        }
        for turn in range(rounds):
            for side, results in found.items():
                file = exports[side if side in exports else "onnx"].file
                variables = {"GOMP_SPINCOUNT": SPINS} if side == "own" else {}
                arguments = (side, str(folder), str(file), json.dumps(list(lengths)))
                results.append(figures_of("benchmarks.export", *arguments, **variables))
                print(f"{folder.name}  round {turn + 1}  {side:7} {results[-1]}", flush=True)
    report = exports["int8"].report
    model = read_newest(folder, Exportable.load).model
    config, count = model.config, sum(p.numel() for p in model.parameters())
    lines = [
        f"## {report['task']}: {config.architecture} of {config.num_hidden_layers} layers of "
        f"{config.hidden_size}, {count / 1e6:.1f} million parameters",
        "",
        "| side | file | one text | int8 is | 32 texts | int8 is |",
        "|---|---|---|---|---|---|",
    ]
    sizes = {"onnx": report["bytes"]["float32"], "int8": report["bytes"]["int8"]}
    for side, results in found.items():
        size = f"{sizes[side] / 1e6:,.1f} MB" if side in sizes else "–"
        lines.append(
            f"| {SIDES[side]} | {size} | {column(results, 'single_ms', '{:.2f}')} ms "
            f"| {times(found, 'int8', side, 'singles_per_second')} "
            f"| {column(results, 'batch_ms', '{:.1f}')} ms "
            f"| {times(found, 'int8', side, 'batches_per_second')} |"
        )
    share = sizes["int8"] / sizes["onnx"]
    lines += ["", f"The file of int8 has {share:.1%} of the bytes of float32's."]
    if report["figures"]:
        names = [name for name, value in report["figures"]["float32"].items() if value is not None]
        lines += [
            "",
            f"On {report['judged_by']}:",
            "",
            f"| | {' | '.join(names)} |",
            f"|---|{'---|' * len(names)}",
            *(
                f"| {who} | {' | '.join(f'{figures[name]:.4f}' for name in names)} |"
                for who, figures in report["figures"].items()
            ),
        ]
    return lines


def measure(side: str, folder: Path, file: Path, lengths: list[int]) -> dict[str, float]:
    """Medians of the times of one text and of a batch."""
    exported = read_newest(folder, Exportable.load)
    random = np.random.default_rng(0)
    drawn = random.integers(lengths[0], lengths[1] + 1, BATCH).tolist()
    size = exported.model.vocab_size
    rows = [Row(random.integers(5, size, n).tolist(), [0] * n) for n in sorted(drawn)[::-1]]
    answer = _answering(side, exported, file)
    singles = [_seconds(answer, [rows[n % BATCH]]) for n in range(WARM_UP + SINGLE_CALLS)]
    batches = [_seconds(answer, rows) for _ in range(1 + BATCH_CALLS)]
    single, batch = statistics.median(singles[WARM_UP:]), statistics.median(batches[1:])
    return {
        "single_ms": 1e3 * single,
        "batch_ms": 1e3 * batch,
        "singles_per_second": 1 / single,
        "batches_per_second": 1 / batch,
    }


def _seconds(answer: Callable[[list[Row]], None], rows: list[Row]) -> float:
    began = time.perf_counter()
    answer(rows)
    return time.perf_counter() - began


def _answering(side: str, exported: Exportable, file: Path) -> Callable[[list[Row]], None]:
    """What makes the outputs of rows."""
    if side == "theirs":
        return _of_transformers(exported)
    outputs = exported.outputs
    if side != "own":
        outputs = OnnxModel(file.read_bytes(), exported).outputs

    @torch.inference_mode()
    def answer(rows: list[Row]) -> None:
        outputs(packed(rows, tags=[[0] * len(row.ids) for row in rows]))

    return answer


def _of_transformers(exported: Exportable) -> Callable[[list[Row]], None]:
    import transformers

    kinds: dict[str, Any] = {
        "fill-mask": transformers.AutoModelForMaskedLM,
        "sentence-similarity": transformers.AutoModel,  # pooling is little beside it
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
    }
    model = kinds[exported.task].from_pretrained(exported.folder).eval()
    pad = exported.tokenizer.pad_id

    @torch.inference_mode()
    def answer(rows: list[Row]) -> None:
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
        mask = torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in rows])
        model(input_ids=ids, attention_mask=mask)

    return answer


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    main()
