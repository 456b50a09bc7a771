"""Each choice of a recipe on and off: `python -m benchmarks.ablations FILE.toml`.

    python -m benchmarks.ablations benchmarks/ablations/textbook.toml --at-once 2

The file names a corpus, what all trainings have in common, seeds, and the variants, each a table of
settings that differ from what is common (benchmarks/ablations/textbook.toml is one). Trainings
that are finished are not done again. Writes benchmarks/results/ablations-<name of the file>.md.
"""

from __future__ import annotations

import argparse
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import processor, versions
from benchmarks.trials import Trial, folder_name, run_trials

RESULTS = Path(__file__).parent / "results"
FIGURES = (
    ("validation_mlm_loss", "MLM loss", "{:.3f}", 1.0),
    ("validation_mlm_accuracy", "MLM accuracy", "{:.1f} %", 100.0),
    ("validation_nsp_accuracy", "NSP accuracy", "{:.1f} %", 100.0),
)
"""Names in the metrics, titles, forms and scales of what is shown where it is there."""


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the variants, as TOML")
    parser.add_argument("--corpus", help="in the place of the file's")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where they lie")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    parser.add_argument(
        "--only", nargs="+", help="these variants, by the beginnings of their names"
    )
    options = parser.parse_args()
    plan = tomllib.loads(options.file.read_text(encoding="utf-8"))
    corpus = options.corpus or plan["corpus"]
    trials = trials_of(plan, corpus, options.runs / options.file.stem, options.only)
    # Seed after seed, so that an early stop leaves whole rounds.
    by_seed = [found[place] for place in range(len(plan["seeds"])) for found in trials.values()]
    run_trials(by_seed, at_once=options.at_once)
    text = report(plan, options.file, trials)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"ablations-{options.file.stem}.md").write_text(text, encoding="utf-8")
    print(text)


def trials_of(
    plan: Mapping[str, Any], corpus: str, runs: Path, only: Sequence[str] | None
) -> dict[str, list[Trial]]:
    """The trainings of each variant, one for each seed."""
    return {
        name: [
            Trial(
                runs / folder_name(name) / f"seed-{seed}",
                {"corpus": corpus, **plan["common"], **settings, "seed": seed},
            )
            for seed in plan["seeds"]
        ]
        for name, settings in plan["variants"].items()
        if only is None or any(name.startswith(start) for start in only)
    }


def report(plan: Mapping[str, Any], file: Path, trials: Mapping[str, Sequence[Trial]]) -> str:
    """The table as Markdown; the first variant is what the others are compared with."""
    base = [trial.metrics() for trial in next(iter(trials.values()))]
    shown = [figure for figure in FIGURES if figure[0] in base[0]]
    names = [title for _, title, _, _ in shown]
    common = ", ".join(f"`{name}` {value}" for name, value in plan["common"].items())
    lines = [
        f"# {plan['title']}",
        "",
        f"`python -m benchmarks.ablations {file}` — {plan['about']} In common: {common}. "
        f"Seeds {', '.join(map(str, plan['seeds']))}: mean ± standard deviation. In the last "
        "columns how much the MLM loss differs from the first row's, seed by seed, and the time "
        "of a training beside it (trainings that ran side by side share the cores).",
        "",
        f"{processor()}; {versions()}.",
        "",
        f"| variant | settings | {' | '.join(names)} | MLM loss against the first | seconds |",
        f"|---|---|{'---|' * len(names)}---|---|",
    ]
    for name, found in trials.items():
        figures = [trial.metrics() for trial in found]
        settings = ", ".join(f"`{k}` {v}" for k, v in plan["variants"][name].items()) or "—"
        cells = [
            mean_cell([one[key] for one in figures], form, scale) for key, _, form, scale in shown
        ]
        changes = [
            one["validation_mlm_loss"] - other["validation_mlm_loss"]
            for one, other in zip(figures, base, strict=True)
        ]
        change = "—" if figures == base else mean_cell(changes, "{:+.3f}", 1.0)
        seconds = statistics.median(one["seconds"] for one in figures)
        lines.append(f"| {name} | {settings} | {' | '.join(cells)} | {change} | {seconds:.0f} |")
    return "\n".join([*lines, ""])


def mean_cell(values: Sequence[float], form: str, scale: float) -> str:
    """Mean ± standard deviation."""
    mean = form.format(scale * statistics.mean(values))
    if len(values) < 2:
        return mean
    return f"{mean} ± {form.format(scale * statistics.stdev(values)).lstrip('+')}"


if __name__ == "__main__":
    main()
