"""What corpus.json says, for a reader: what is in a text, and what was left out of it, and why."""

from __future__ import annotations

import json
from typing import Any

from bertsmith.config import DataConfig
from bertsmith.data.pairs import kind_of
from bertsmith.tokenizer.bounds import LONGEST_RUN


def report_json(report: dict[str, Any]) -> str:
    """A report as the text of corpus.json."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def describe_vocabulary(report: dict[str, Any]) -> list[str]:
    """A report's vocabulary, in lines."""
    about = report["vocabulary"]
    return [
        f"Vocabulary ({about['kind']}): {about['entries']:,} entries, "
        f"{about['tokens_a_word']:.2f} tokens a word, {about['unknown_share']:.2%} unknown.",
        *(f"  {sentence[:200]}" for sentence in about["sample"]),
    ]


def describe_text(report: dict[str, Any], data: DataConfig | None = None) -> list[str]:
    """A report in lines: what is in each split, and what was left out.

    Args:
        report: of corpus.json.
        data: how examples are made; None: of no run yet.
    """
    lines = []
    for split, counts in report["splits"].items():
        unknown = counts["unknown_tokens"] / max(counts["tokens"], 1)
        text = (
            f"{split.capitalize()}: {counts['documents']:,} documents, "
            f"{counts['sentences']:,} sentences, "
            f"{counts['tokens']:,} tokens ({unknown:.1%} unknown)"
        )
        unit = "segments" if data and kind_of(data) == "segments" else "pairs"
        if unit in counts and data is not None:
            text += f", {counts[unit]:,} {unit}"
            if cut := counts.get("adjacent_pairs_over_max_length"):
                share = cut / max(counts[unit], 1)
                text += f" ({share:.0%} are cut to {data.max_length} tokens)"
            if split_up := counts.get("documents_over_max_length"):
                text += f" ({split_up:,} documents are split into several)"
        alone = {
            "adjacent": ("paragraphs_of_one_sentence", "paragraphs of one sentence (no pair)"),
            "filled": ("documents_of_one_sentence", "documents of one sentence (no pair)"),
        }
        left_out = {"empty sentences": counts.get("empty_sentences", 0)}
        if data is not None and kind_of(data) in alone:
            key, name = alone[kind_of(data)]
            left_out[name] = counts.get(key, 0)
        lines += [f"{text}.", *_left_out(left_out), *_oddities(counts)]
    return lines + _left_out(report["left_out"])


def _left_out(counts: dict[str, int]) -> list[str]:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return [f"  left out: {reasons}."] if reasons else []


def _oddities(counts: dict[str, int]) -> list[str]:
    """What is read as it stands, but should be looked at."""
    lines = []
    if mixed := counts.get("mixed_words"):
        lines.append(
            f"  {mixed:,} words have Greek or Cyrillic letters beside Latin ones, maybe in their "
            "place."
        )
    if runs := counts.get("long_runs"):
        lines.append(
            f"  {runs:,} runs of over {LONGEST_RUN:,} characters without a space; their pieces are "
            "learned in parts."
        )
    return lines
