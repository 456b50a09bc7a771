"""How much grammar is learnt from ten million words: presets by minutes, judged by minimal pairs.

    python -m benchmarks.grammar --novels DIR --blimp DIR --minutes 10 60

Each training lands on its minutes and has the whole machine, or with `--at-once` its share of it;
all have one kind of vocabulary, WordPiece, so that their losses can be compared. A run that was
stopped goes on where it was, so that a night's may take several sittings; what is finished is not
done again, and stands in the table. Every model is judged by `bertsmith evaluate --minimal-pairs`
on all paradigms in the folder: a tie is wrong, and beside the mean stand what word frequencies
reach and what the network reaches from random weights. Writes benchmarks/results/grammar.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ablations import mean_cell
from benchmarks.report import processor, versions
from benchmarks.trials import Trial, run_trials, setting_of, share_of, trials_by_minutes
from bertsmith.durable import write_text

RESULTS = Path(__file__).parent / "results"
PRESETS = ("tiny", "mini", "small", "modern-tiny", "modern-mini")

Judged = dict[tuple[float, str], list[tuple[Trial, dict[str, Any]]]]


def main() -> None:
    """Train what is not trained yet, judge it, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--novels", type=Path, required=True, help="the text, with its splits")
    parser.add_argument("--blimp", type=Path, required=True, help="a folder of minimal pairs")
    parser.add_argument("--minutes", nargs="+", type=float, default=[10])
    parser.add_argument("--presets", nargs="+", default=["mini"], choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all, as name=value")
    parser.add_argument("--runs", type=Path, default=Path("runs/grammar"), help="where they lie")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    options = parser.parse_args()
    more = dict(setting_of(text) for text in options.set)
    trials = trials_by_minutes(
        options.runs,
        minutes=options.minutes,
        presets=options.presets,
        seeds=options.seeds,
        settings_of=lambda preset: {
            "corpus": str(options.novels),
            "objective": "mlm",
            "tokenizer": "wordpiece",
            "lowercase": True,
            "vocab_size": options.vocab_size,
            **more,
        },
    )
    run_trials([trial for found in trials.values() for trial in found], at_once=options.at_once)
    judged = {
        key: [(trial, judge(trial, options.blimp)) for trial in found]
        for key, found in trials.items()
    }
    text = report(judged, more, options.at_once)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "grammar.md").write_text(text, encoding="utf-8")
    print(text)


def judge(trial: Trial, pairs: Path) -> dict[str, Any]:
    """Accuracies of a trained model on minimal pairs, and the seconds they took; made once."""
    import bertsmith

    files = sorted(pairs.iterdir()) if pairs.is_dir() else [pairs]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    note = trial.folder / f"minimal-pairs-{digest[:16]}.json"
    if not note.is_file():
        began = time.perf_counter()
        found = bertsmith.evaluate_minimal_pairs(trial.folder, pairs, precision="auto").to_json()
        found["seconds"] = time.perf_counter() - began
        write_text(note, json.dumps(found))
    known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return known


def report(judged: Judged, more: Mapping[str, Any], at_once: int) -> str:
    """The tables as Markdown."""
    one = next(iter(judged.values()))[0][1]
    shown = "".join(f"; `{name}` {value}" for name, value in more.items())
    lines = [
        "# Grammar from ten million words",
        "",
        "`python -m benchmarks.grammar` — `bertsmith pretrain --corpus NOVELS --preset … "
        f"--objective mlm --minutes …`, {share_of(at_once)}{shown}. Then `bertsmith evaluate "
        f"--minimal-pairs`: {one['overall']['num_pairs']:,} pairs of {len(one['by_paradigm'])} "
        f"paradigms, {one['pll_metric']} scores; the mean over paradigms, ties wrong. "
        "Mean ± standard deviation over seeds.",
        "",
        f"{processor()}; {versions()}.",
        "",
        "| minutes | preset | parameters | seeds | tokens read | epochs | precision | MLM loss "
        "| minimal pairs | ties | word frequencies | random weights | seconds of judging |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(*key, found) for key, found in judged.items()),
        "",
        "By paradigm, and in brackets what word frequencies reach:",
        "",
    ]
    names = [f"{minutes:g} min `{preset}`" for minutes, preset in judged]
    lines += [f"| paradigm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for paradigm in one["by_paradigm"]:
        cells = []
        for found in judged.values():
            figures = [pairs["by_paradigm"][paradigm] for _, pairs in found]
            cells.append(f"{mean(f['accuracy'] for f in figures):.1%} ({floor_of(figures[0])})")
        lines.append(f"| {paradigm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _row(minutes: float, preset: str, found: Sequence[tuple[Trial, dict[str, Any]]]) -> str:
    metrics = [trial.metrics() for trial, _ in found]
    overall = [pairs["overall"] for _, pairs in found]
    cells = (
        f"{minutes:g}",
        f"`{preset}`",
        f"{metrics[0]['parameters']:,}",
        f"{len(found)}",
        f"{mean(m['tokens'] for m in metrics) / 1e6:.1f} M",
        f"{mean(epochs_of(trial) for trial, _ in found):.1f}",
        found[0][0].precision(),
        mean_cell([m["validation_mlm_loss"] for m in metrics], "{:.3f}", 1),
        mean_cell([one["accuracy"] for one in overall], "{:.1f} %", 100),
        f"{sum(one['num_ties'] for one in overall)}",
        floor_of(overall[0]),
        f"{mean(one['random_accuracy'] for one in overall):.1%}",
        f"{mean(pairs['seconds'] for _, pairs in found):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def floor_of(figures: Mapping[str, Any]) -> str:
    """What word frequencies reach, if they are known."""
    share = figures["unigram_accuracy"]
    return "—" if share is None else f"{share:.1%}"


def epochs_of(trial: Trial) -> float:
    """Passes over the training examples."""
    report = json.loads((trial.folder / "corpus.json").read_text(encoding="utf-8"))
    return float(trial.metrics()["pairs"] / report["splits"]["train"]["segments"])


if __name__ == "__main__":
    main()
