"""How much is learnt from the same text: the default recipe beside the usual ones.

    python -m benchmarks.quality --corpus wikitext-2 --seeds 0 1 2
    python -m benchmarks.quality --sst2 DIR --model runs/sixty-minutes       (after that)

The protocol: the textbook model and its vocabulary, 204,800 pairs of WikiText-2 of at most 64
tokens; the validation split with fixed masks of 15 %. The sides are the default recipe, in float32
and in bfloat16, a usual one (AdamW, 1,600 steps of 128), the textbook's own (Adam at a constant
0.01, 400 steps of 512), and a plain `transformers` loop, these in float32. Beside it, how long the
default and the usual recipe take to a validation loss of 5.5 nats, the default with a sixth of
those pairs, the usual one with half as many again, 307,200, since with 204,800 it does not come
there; and how many seconds whole trainings take: float32 with the first weights and epsilon of
before, whose default ended at 4.275 nats after 204,800 pairs, and today's in bfloat16, with fewer
pairs, which ends under that. With --sst2, fine-tuning and probing from a model and from random
weights.

Trainings that are finished are not done again. Writes benchmarks/results/quality.md from all that
is there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablations import FIGURES, mean_cell
from benchmarks.report import processor, spread, versions
from benchmarks.trials import Trial, run_trials

RESULTS = Path(__file__).parent / "results"
PAIRS = 204_800
TARGET = 5.5  # nats
USUAL: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "warmup_ratio": 0.1,
    "batch_size": 128,
    "mlm_probability": 0.15,
    "attention_init": "normal",
    "embedding_init": "normal",
    "adam_epsilon": 1e-6,
    "pairs": PAIRS,
}
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default recipe", {"pairs": PAIRS}),
    "bfloat16": ("default recipe in bfloat16", {"pairs": PAIRS, "precision": "bfloat16"}),
    "usual": ("usual: AdamW 2e-3, 1,600 × 128, 15 % masks", USUAL),
    "chapter": (
        "textbook's own: `--recipe chapter`, 400 × 512",
        {"recipe": "chapter", "pairs": PAIRS},
    ),
}
RACERS: dict[str, tuple[str, dict[str, Any]]] = {
    "default-race": ("default recipe", {"pairs": PAIRS // 6, "validate_every": 50}),
    "usual-race": ("usual", {**USUAL, "pairs": 3 * PAIRS // 2, "validate_every": 50}),
}
"""Each with a schedule as short as brings it there, the usual one with the shortest that might."""
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "former-whole": (
        "float32, drawn word embeddings, epsilon 1e-6, Muon for the MLM head, too",
        {"embedding_init": "normal", "adam_epsilon": 1e-6, "pairs": PAIRS},
    ),
    "default-whole": (
        "default recipe in bfloat16",
        {"precision": "bfloat16", "pairs": 120_000},
    ),
}
"""Whole trainings. The default's pairs are few, and still end under 4.275 nats."""
SST2_ROWS = 10_000


def main() -> None:
    """Train what is not trained yet, judge, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a WikiText folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="where they lie")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), default=list(SIDES))
    parser.add_argument(
        "--race",
        nargs="*",
        choices=["early", "whole"],
        help="one at a time, both races or one of them: to 5.5 nats, of whole trainings",
    )
    parser.add_argument("--transformers", action="store_true", help="an hour and more")
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", type=Path, help="a run to fine-tune on it")
    options = parser.parse_args()
    common = {
        "corpus": options.corpus,
        "preset": "textbook",
        "device": "cpu",
        "precision": "float32",
    }

    def trials_of(sides: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, list[Trial]]:
        return {
            side: [
                Trial(options.runs / side / f"seed-{seed}", {**common, **settings, "seed": seed})
                for seed in options.seeds
            ]
            for side, (_, settings) in sides.items()
        }

    trials, racers, whole = trials_of(SIDES), trials_of(RACERS), trials_of(WHOLE)
    chosen = [trials[side] for side in options.sides]
    run_trials(
        [trial for turn in zip(*chosen, strict=True) for trial in turn], at_once=options.at_once
    )
    races = {"early": racers, "whole": whole}
    if options.race is not None:  # alternating, each with the whole machine
        for name in options.race or races:
            turns = zip(*races[name].values(), strict=True)
            run_trials([trial for turn in turns for trial in turn])
    if options.transformers:
        _transformers(options.corpus, options.seeds[0], options.runs / "transformers")
    if options.sst2 is not None and options.model is not None:
        _sst2(
            options.sst2, options.model, options.runs / f"sst2-{options.model.name}", options.seeds
        )
    text = report(trials, racers, whole, options.runs)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quality.md").write_text(text, encoding="utf-8")
    print(text)


def _transformers(corpus: str, seed: int, folder: Path) -> None:
    result = folder / "figures.json"
    if result.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.transformers_loop", corpus, str(PAIRS), str(seed)]
    done = subprocess.run([*command, str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    result.write_text(done.stdout.splitlines()[-1], encoding="utf-8")


def _sst2(data: Path, model: Path, output: Path, seeds: Sequence[int]) -> None:
    """Fine-tune and probe on 10,000 training phrases, drawn with seed 0."""
    import bertsmith

    tables = sst2_tables(data, output)
    found: dict[str, Any] = {
        "finetune": bertsmith.finetune(
            model, **tables, output=output / "model", seeds=tuple(seeds), overwrite=True, quiet=True
        ).results,
        "probe": bertsmith.probe(model, **tables, quiet=True),
        "pretraining": Trial(model, {}).metrics(),
    }
    (output / "figures.json").write_text(json.dumps(found, indent=2), encoding="utf-8")


def sst2_tables(data: Path, work: Path) -> dict[str, Any]:
    """10,000 of the training phrases, drawn with seed 0, written to `work`; all of dev.tsv."""
    work.mkdir(parents=True, exist_ok=True)
    header, *lines = (data / "train.tsv").read_text(encoding="utf-8").splitlines()
    drawn = random.Random(0).sample(lines, SST2_ROWS)
    train = work / "train.tsv"
    train.write_text("\n".join([header, *drawn]) + "\n", encoding="utf-8")
    return {"train": train, "validation": data / "dev.tsv"}


def report(
    trials: Mapping[str, Sequence[Trial]],
    racers: Mapping[str, Sequence[Trial]],
    whole: Mapping[str, Sequence[Trial]],
    runs: Path,
) -> str:
    """All that is there, as Markdown."""
    lines = [
        "# How much is learnt",
        "",
        f"`python -m benchmarks.quality` — textbook model on WikiText-2, {PAIRS:,} training pairs, "
        "validation split, fixed masks of 15 %. Mean ± standard deviation over the seeds.",
        "",
        f"{processor()}; {versions()}.",
        "",
        f"| side | {' | '.join(title for _, title, _, _ in FIGURES)} | seeds | seconds |",
        f"|---|{'---|' * len(FIGURES)}---|---|",
    ]
    for side, found in trials.items():
        lines += _row(SIDES[side][0], [one.metrics() for one in found if one.is_finished])
    result = runs / "transformers" / "figures.json"
    if result.is_file():
        name = "plain `transformers` loop: AdamW 2e-3, 1,600 × 128, 15 % masks"
        lines += _row(name, [json.loads(result.read_text(encoding="utf-8"))])
    lines += [
        "",
        "Trainings that ran side by side share the cores: the times are no comparison of speed.",
        "",
        *_race(racers),
        *_whole(whole),
    ]
    for path in sorted(runs.glob("sst2-*/figures.json")):
        lines += _of_sst2(path)
    return "\n".join(lines)


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    cells = [mean_cell([one[key] for one in found], form, scale) for key, _, form, scale in FIGURES]
    seconds = spread([one["seconds"] for one in found], "{:.0f}")
    return [f"| {name} | {' | '.join(cells)} | {len(found)} | {seconds} |"]


def _race(racers: Mapping[str, Sequence[Trial]]) -> list[str]:
    """Seconds of training until a validation loss of `TARGET` was first seen."""
    turns = _finished(racers)
    if not turns:
        return []
    of_side = dict(zip(racers, zip(*turns, strict=True), strict=True))
    times = {side: [_seconds_to(TARGET, one) for one in of_side[side]] for side in racers}
    lines = [
        "Seconds of training, validations counted, until one of them (1,024 pairs, every 50 steps) "
        f"was at {TARGET} nats or less; both sides have the whole machine, in turns:",
        "",
        "| side | pairs of its schedule | seconds |",
        "|---|---|---|",
    ]
    late = False
    for side, found in times.items():
        name, settings = RACERS[side]
        missed = [one for one in of_side[side] if not _reaches(TARGET, one)]
        late = late or bool(missed)
        note = f"; {len(missed)} of {len(found)} never came there" if missed else ""
        lines.append(f"| {name} | {settings['pairs']:,} | {spread(found, '{:.0f}')}{note} |")
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    least = "more than " if late else ""
    return [
        *lines,
        "",
        f"Seed by seed the usual recipe takes {least}{spread(ratios, '{:.1f}')} × as long.",
        "",
    ]


def _finished(trials: Mapping[str, Sequence[Trial]]) -> list[tuple[Trial, ...]]:
    """All sides with one seed, for each seed that all of them have finished."""
    return [
        turn for turn in zip(*trials.values(), strict=True) if all(one.is_finished for one in turn)
    ]


def _whole(trials: Mapping[str, Sequence[Trial]]) -> list[str]:
    """What whole trainings end with, and their seconds."""
    turns = _finished(trials)
    if not turns:
        return []
    lines = [
        "Whole trainings, each with the whole machine, in turns; seconds of training:",
        "",
        "| side | pairs | MLM loss | NSP accuracy | seeds | seconds |",
        "|---|---|---|---|---|---|",
    ]
    sides = [[one.metrics() for one in found] for found in zip(*turns, strict=True)]
    for (name, settings), found in zip(WHOLE.values(), sides, strict=True):
        loss = mean_cell([one["validation_mlm_loss"] for one in found], "{:.3f}", 1.0)
        accuracy = mean_cell([one["validation_nsp_accuracy"] for one in found], "{:.1f} %", 100.0)
        seconds = spread([one["seconds"] for one in found], "{:.0f}")
        lines.append(
            f"| {name} | {settings['pairs']:,} | {loss} | {accuracy} | {len(found)} | {seconds} |"
        )
    ratios = [former["seconds"] / now["seconds"] for former, now in zip(*sides, strict=True)]
    return [*lines, "", f"Seed by seed the first takes {spread(ratios, '{:.2f}')} × as long.", ""]


def _reaches(target: float, trial: Trial) -> bool:
    return any(loss <= target for _, loss in trial.validations())


def _seconds_to(target: float, trial: Trial) -> float:
    """When it came there; if it never did, when it ended."""
    reached = [seconds for seconds, loss in trial.validations() if loss <= target]
    return reached[0] if reached else float(trial.metrics()["seconds"])


def _of_sst2(path: Path) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))
    finetuned, probed = found["finetune"], found["probe"]
    about = found["pretraining"]
    rows = []
    for name, results in (("fine-tuning, dev", finetuned), ("probe, cross-validated", probed)):
        values = [results[kind]["accuracy"]["values"] for kind in ("pretrained", "random")]
        gain = sum(values[0]) / len(values[0]) - sum(values[1]) / len(values[1])
        cells = [mean_cell(one, "{:.1f} %", 100.0) for one in values]
        rows.append(f"| {name} | {' | '.join(cells)} | {100 * gain:+.1f} points |")
    judged = [probed[kind]["validation"]["accuracy"] for kind in ("pretrained", "random")]
    cells = [f"{100 * value:.1f} %" for value in judged]
    rows.append(
        f"| probe, dev | {' | '.join(cells)} | {100 * (judged[0] - judged[1]):+.1f} points |"
    )
    return [
        f"SST-2, {SST2_ROWS:,} training phrases drawn with seed 0, 872 development sentences; the "
        f"model was pretrained for {about.get('seconds', 0) / 60:.0f} minutes "
        f"({about.get('parameters', 0):,} parameters; validation MLM "
        f"{about.get('validation_mlm_loss', float('nan')):.2f}). Accuracy, mean ± deviation over "
        f"{len(finetuned['seeds'])} seeds or {probed['folds']} folds:",
        "",
        "| | pretrained | random weights | gain |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
