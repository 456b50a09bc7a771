"""What to expect of 1, 10 and 60 minutes: every small preset at every budget.

    python -m benchmarks.budgets --corpus wikitext-2 --sst2 DIR

Each training has the whole machine and lands on its minutes. Losses of presets with one vocabulary
(tiny, mini, small) can be compared with one another, not with those of the textbook's words; what
all have in common is a linear probe of sentiment on their frozen vectors (SST-2, 10,000 training
phrases drawn with seed 0, the development sentences), beside that of a random encoder. Trainings
that are finished are not done again. Writes benchmarks/results/budgets.md from what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality import sst2_tables
from benchmarks.report import processor, versions
from benchmarks.trials import Trial, run_trials

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
    options = parser.parse_args()
    trials = {
        (minutes, preset): Trial(
            options.runs / f"{minutes:g}-minutes-{preset}",
            {
                "corpus": options.corpus,
                "preset": preset,
                "minutes": minutes,
                "seed": options.seed,
                "device": "cpu",
                "precision": "float32",
                **({} if preset == "textbook" else {"vocab_size": options.vocab_size}),
            },
        )
        for minutes in options.minutes
        for preset in options.presets
    }
    run_trials(list(trials.values()))
    probes = {key: probe_of(trial, options.sst2) for key, trial in trials.items()}
    text = report(trials, probes, options.vocab_size)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "budgets.md").write_text(text, encoding="utf-8")
    print(text)


def probe_of(trial: Trial, sst2: Path | None) -> dict[str, Any]:
    """Accuracies of a probe, pretrained and random; made once."""
    import bertsmith

    note = trial.folder.with_suffix(".probe.json")
    if not note.is_file():
        if sst2 is None:
            return {}
        found = bertsmith.probe(trial.folder, **sst2_tables(sst2, trial.folder.parent), quiet=True)
        note.write_text(json.dumps(found), encoding="utf-8")
    known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return known


def report(
    trials: Mapping[tuple[float, str], Trial],
    probes: Mapping[tuple[float, str], Mapping[str, Any]],
    vocab_size: int,
) -> str:
    """The table as Markdown."""
    lines = [
        "# What to expect",
        "",
        "`python -m benchmarks.budgets` — `bertsmith pretrain --corpus wikitext-2 --preset … "
        f"--minutes …` (WordPiece: `--vocab-size {vocab_size}`), one seed each, the whole machine. "
        "Validation figures at fixed 15 % masks; losses of words and of pieces cannot be compared. "
        "Probe: accuracy on the SST-2 development sentences of a linear model on frozen vectors, "
        "and how much that is above the same network's from random weights.",
        "",
        f"{processor()}; {versions()}.",
        "",
        "| minutes | preset | parameters | tokens seen | MLM loss (floor) | MLM accuracy "
        "| NSP accuracy | probe | above random | seconds of training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (minutes, preset), trial in trials.items():
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
            f"| {' | '.join(cells)} | {found['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
