"""What to expect of so many minutes: every small preset at every budget.

    python -m benchmarks.budgets --corpus wikitext-2 --sst2 DIR

Each training lands on its minutes and has the whole machine, or with `--at-once` its share of it.
Losses of presets with one vocabulary (tiny, mini, small) can be compared with one another, not with
those of the textbook's words; what all have in common is a linear probe of sentiment on their
frozen vectors (SST-2, 10,000 training phrases drawn with seed 0, the development sentences), beside
that of a random encoder. Trainings that are finished are not done again, and stand in the table.
Writes benchmarks/results/budgets.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import sst2_tables
from benchmarks.report import processor, versions
from benchmarks.trials import Trial, run_trials, setting_of, share_of, trials_by_minutes

RESULTS = Path(__file__).parent / "results"
PRESETS = ("textbook", "tiny", "mini", "small")


def main() -> None:
    """Train what is not trained yet, probe it, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 10, 60])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--vocab-size", type=int, default=8000, help="of the WordPiece presets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"), help="where they lie")
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all, as name=value")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    options = parser.parse_args()
    more = dict(setting_of(text) for text in options.set)
    trials = trials_by_minutes(
        options.runs,
        minutes=options.minutes,
        presets=options.presets,
        seeds=[options.seed],
        settings_of=lambda preset: {
            "corpus": options.corpus,
            **({} if preset == "textbook" else {"vocab_size": options.vocab_size}),
            **more,
        },
    )
    run_trials([trial for found in trials.values() for trial in found], at_once=options.at_once)
    probes = {key: probe_of(found[0], options.sst2) for key, found in trials.items()}
    text = report(trials, probes, options.vocab_size, more, options.at_once)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "budgets.md").write_text(text, encoding="utf-8")
    print(text)


def probe_of(trial: Trial, sst2: Path | None) -> dict[str, Any]:
    """Accuracies of a probe, pretrained and random; made once."""
    import bertsmith

    note = trial.folder / "probe.json"
    if not note.is_file():
        if sst2 is None:
            return {}
        found = bertsmith.probe(trial.folder, **sst2_tables(sst2, trial.folder.parent), quiet=True)
        note.write_text(json.dumps(found), encoding="utf-8")
    known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return known


def report(
    trials: Mapping[tuple[float, str], Sequence[Trial]],
    probes: Mapping[tuple[float, str], Mapping[str, Any]],
    vocab_size: int,
    more: Mapping[str, Any],
    at_once: int,
) -> str:
    """The table as Markdown."""
    shown = "".join(f"; `{name}` {value}" for name, value in more.items())
    lines = [
        "# What to expect",
        "",
        "`python -m benchmarks.budgets` — `bertsmith pretrain --corpus wikitext-2 --preset … "
        f"--minutes …` (WordPiece: `--vocab-size {vocab_size}`), one seed each, "
        f"{share_of(at_once)}{shown}. Validation figures "
        "at fixed 15 % masks; losses of words and of pieces cannot be compared. "
        "Probe: accuracy on the SST-2 development sentences of a linear model on frozen vectors, "
        "and how much that is above the same network's from random weights.",
        "",
        f"{processor()}; {versions()}.",
        "",
        "| minutes | preset | parameters | tokens seen | MLM loss (floor) | MLM accuracy "
        "| NSP accuracy | probe | above random | precision | seconds of training |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (minutes, preset), (trial, *_) in trials.items():
        found, probe = trial.metrics(), probes[minutes, preset]
        cells = ["—", "—"]
        if probe:
            best, plain = (
                probe[kind]["validation"]["accuracy"] for kind in ("pretrained", "random")
            )
            cells = [f"{best:.1%}", f"{100 * (best - plain):+.1f} points"]
        lines.append(
            f"| {minutes:g} | `{preset}` | {found['parameters']:,} | {found['tokens'] / 1e6:.1f} M "
            f"| {found['validation_mlm_loss']:.2f} ({found['validation_unigram_mlm_loss']:.2f}) "
            f"| {found['validation_mlm_accuracy']:.1%} | {found['validation_nsp_accuracy']:.1%} "
            f"| {' | '.join(cells)} | {trial.precision()} | {found['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
