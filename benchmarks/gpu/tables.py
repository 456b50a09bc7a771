"""The tables of what the stages found."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.sides import CASES, SIDES
from benchmarks.report import column, times

DATA_SHEET = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 FLOP/s that NVIDIA states for the SXM parts."""


def tables(found: list[dict[str, Any]]) -> str:
    """Markdown; a case's later lines replace nothing: all its turns are counted."""
    lines = [
        "# Training on a GPU",
        "",
        "`python -m benchmarks.gpu` — bfloat16, 15 % masks, AdamW, clipping; the sides take turns "
        "in one process, median (lowest to highest). Tokens are real ones: neither padding nor "
        "filler counts. FLOPs are those of the model's matrix products over real tokens; the peak "
        "is the rate of an 8,192³ product, measured before each round. Batches lie ready in "
        "page-locked memory on all sides; ours run deterministically.",
        "",
    ]
    for case in CASES:
        own = [line for line in found if line.get("case") == case]
        turns = [line for line in own if line["kind"] == "turn"]
        if turns:
            lines += _case(case, own, turns)
    lines += _right(found) + _ceilings(found)
    return "\n".join(lines).rstrip() + "\n"


def _case(case: str, own: list[dict[str, Any]], turns: list[dict[str, Any]]) -> list[str]:
    about = next(line for line in own if line["kind"] == "case")
    first = {line["side"]: line for line in own if line["kind"] == "first"}
    rounds: dict[str, list[dict[str, Any]]] = {
        side: [turn for turn in turns if turn["side"] == side] for side in SIDES
    }
    whole = min(len(sides) for sides in rounds.values() if sides)
    rounds = {side: sides[:whole] for side, sides in rounds.items() if sides}
    best = "graphs" if "graphs" in rounds else next(iter(rounds))
    sheet = next((v for k, v in DATA_SHEET.items() if k in about["device"]), None)
    rows = []
    for side, each in rounds.items():
        for turn in each:
            turn["share"] = turn["flops_per_second"] / turn["peak_flops_per_second"]
            turn["of_sheet"] = turn["flops_per_second"] / sheet if sheet else float("nan")
        rows.append(
            f"| {SIDES[side]} | {column(each, 'sequences_per_second', '{:,.0f}')} "
            f"| {column(each, 'tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, best, side, 'tokens_per_second')} "
            f"| {column(each, 'share', '{:.1f}', 100)} % "
            f"| {column(each, 'of_sheet', '{:.1f}', 100)} % "
            f"| {first[side]['peak_bytes'] / 1e9:.1f} GB "
            f"| {first[side]['first_step_seconds']:.0f} s |"
        )
    return [
        f"## {case}",
        "",
        f"{about['device']}; {about['versions']}. {about['parameters']:,} parameters, "
        f"{about['batch_size']:,} sequences a step, mean length {about['mean_length']:.0f} of at "
        f"most {CASES[case]['max_length']}; filler {about['filler']:.1%} of real tokens; "
        f"`estimate` says {about['estimated_bytes'] / 1e9:.1f} GB.",
        "",
        f"| side | sequences/s | real tokens/s | {SIDES[best]} is | share of measured peak "
        "| of the data sheet's | memory | first step |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _right(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        f"| {line['case']}, three layers | {line['way']} | {line['error']:.2e} |"
        for line in found
        if line["kind"] == "right"
    ]
    head = ["## Gradients in bfloat16 against float32", "", "| case | step | relative error |"]
    return [*head, "|---|---|---|", *rows, ""] if rows else []


def _ceilings(found: list[dict[str, Any]]) -> list[str]:
    rows = [
        f"| {line['name']} | {' × '.join(f'{n:,}' for n in line['shape'])} "
        f"| {line['flops_per_second'] / 1e12:.0f} |"
        for line in found
        if line["kind"] == "ceiling"
    ]
    head = ["## Matrix products of `base` at 512", "", "| product | shape | TFLOP/s |"]
    return [*head, "|---|---|---|", *rows, ""] if rows else []
