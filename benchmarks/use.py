"""What a pretrained encoder is worth in use: `python -m benchmarks.use --medquad DIR`.

Pretrains on the answers of consumer-health questions (MedQuAD), learns vectors from its pairs of
question and answer, and ranks the answers of the validation part for its questions, beside BM25
and the same network from random weights that learnt from the same pairs. With `--bc5cdr DIR` also
tags of chemicals and diseases from the same pretrained model, with `--stsb FILE` what contrast on
neighbouring sentences, without labels, gives beside mean vectors. What is finished is not done
again. Writes benchmarks/results/use.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bertsmith
from benchmarks.report import processor, versions
from bertsmith.reporting.metrics_file import read_metrics

RESULTS = Path(__file__).parent / "results"
FIGURES = ("ndcg_at_10", "mrr_at_10", "recall_at_100")


def main() -> None:
    """Train what is not trained yet, judge it, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--medquad", type=Path, required=True, help="folder with its two parts")
    parser.add_argument("--bc5cdr", type=Path, help="folder with its tagged abstracts")
    parser.add_argument("--stsb", type=Path, help="STS-B's development pairs")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--minutes", type=float, default=30.0, help="of pretraining")
    parser.add_argument("--epochs", type=int, default=10, help="over the pairs")
    parser.add_argument("--max-length", type=int, default=None, help="tokens of an answer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/use"), help="where they lie")
    options = parser.parse_args()
    train, validation = (options.medquad / f"{part}.jsonl.gz" for part in ("train", "validation"))
    run = pretrained(options, train)
    tuned = options.runs / f"{run.name}-vectors-{options.max_length or 'own'}"
    if not (tuned / "results.json").exists():
        bertsmith.finetune(
            run,
            train=train,
            validation=validation,
            output=tuned,
            resume=True,
            task="similarity",
            seeds=options.seeds,
            epochs=options.epochs,
            max_length=options.max_length,
        )
    lines = [
        "# What a pretrained encoder is worth in use",
        "",
        f"`python -m benchmarks.use --medquad DIR --preset {options.preset} --minutes "
        f"{options.minutes:g} --epochs {options.epochs}"
        f"{f' --max-length {options.max_length}' if options.max_length else ''}"
        f"{' --bc5cdr DIR' if options.bc5cdr else ''}"
        f"{' --stsb FILE' if options.stsb else ''}`. {processor()}; {versions()}.",
        "",
        *medquad(run, tuned, validation),
    ]
    if options.bc5cdr:
        lines += ["", *bc5cdr(options, run, options.bc5cdr)]
    if options.stsb:
        lines += ["", *stsb(options, run, options.stsb)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "use.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


def pretrained(options: argparse.Namespace, train: Path) -> Path:
    """The run on the answers."""
    folder: Path = options.runs / f"{options.preset}-{options.minutes:g}-minutes"
    if not (folder / "model").exists():
        bertsmith.pretrain(
            train,
            text_column="answer",
            preset=options.preset,
            minutes=options.minutes,
            output=folder,
            resume=True,
            keep_checkpoints=1,
        )
    return folder


def medquad(run: Path, tuned: Path, validation: Path) -> list[str]:
    """The table of retrieval."""
    results = json.loads((tuned / "results.json").read_text(encoding="utf-8"))
    judged = bertsmith.evaluate_vectors(tuned, retrieval=validation)
    closing = read_metrics(run)[-1]
    lines = [
        "## Finding the answer to a question",
        "",
        f"{judged.about} (MedQuAD's validation part, all of its answers as documents). Pretrained "
        f"on the answers of the training part: {closing['tokens'] / 1e6:.1f} million tokens in "
        f"{closing['seconds'] / 60:.1f} minutes, validation MLM loss "
        f"{closing['validation_mlm_loss']:.3f} nats. Then trained on "
        f"{results['rows']['train']:,} pairs; mean ± deviation over seeds "
        f"{', '.join(map(str, results['seeds']))}.",
        "",
        "| | nDCG@10 | MRR@10 | recall@100 |",
        "|---|---|---|---|",
    ]
    for kind, who in (
        ("pretrained", "pretrained, then pairs"),
        ("random", "random weights, pairs"),
    ):
        lines.append(_row(who, *(_spread(results[kind][name]) for name in FIGURES)))
    rows: list[tuple[str, dict[str, Any]]] = [
        ("BM25", judged.figures["BM25"]),
        ("pretrained, mean vectors", results["untrained"]),
    ]
    for who, figures in rows:
        lines.append(_row(who, *(f"{100 * figures[name]:.1f}" for name in FIGURES)))
    return lines


def bc5cdr(options: argparse.Namespace, run: Path, folder: Path) -> list[str]:
    """The table of tags."""
    tuned = options.runs / f"{run.name}-tags"
    if not (tuned / "results.json").exists():
        bertsmith.finetune(
            run,
            train=folder / "train.tsv",
            validation=folder / "devel.tsv",
            output=tuned,
            resume=True,
            task="tokens",
            seeds=options.seeds,
            evaluations_per_epoch=1,
            max_length=128,
        )
    results = json.loads((tuned / "results.json").read_text(encoding="utf-8"))
    names = ("f1", "f1_Chemical", "f1_Disease", "precision", "recall")
    return [
        "## Tagging chemicals and diseases",
        "",
        f"BC5CDR: {results['rows']['train']:,} sentences to train on, judged on "
        f"{results['rows']['validation']:,} of the development part; F1 of spans, exact in bounds "
        f"and kind; seeds {', '.join(map(str, results['seeds']))}.",
        "",
        "| | F1 | of chemicals | of diseases | precision | recall |",
        "|---|---|---|---|---|---|",
        *(
            _row(who, *(_spread(results[kind][name]) for name in names))
            for kind, who in (("pretrained", "pretrained"), ("random", "random weights"))
        ),
    ]


def stsb(options: argparse.Namespace, run: Path, file: Path) -> list[str]:
    """Sentences without labels."""
    tuned = options.runs / f"{run.name}-neighbours"
    if not (tuned / "results.json").exists():
        bertsmith.finetune(
            run, output=tuned, resume=True, task="similarity", epochs=1, baseline=False
        )
    found = bertsmith.evaluate_vectors(tuned, similarity=file).figures
    lines = [
        "## Sentences, without labels",
        "",
        f"Spearman's correlation on {file.name} after contrast on neighbouring sentences of the "
        "pretraining text (seed 0).",
        "",
        "| | Spearman | Pearson |",
        "|---|---|---|",
    ]
    for who, figures in found.items():
        cells = (figures[name] for name in ("spearman", "pearson"))
        lines.append(_row(who, *("–" if cell is None else f"{100 * cell:.1f}" for cell in cells)))
    return lines


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(figure: dict[str, Any]) -> str:
    spread = "" if figure["std"] is None else f" ± {100 * figure['std']:.1f}"
    return f"{100 * figure['mean']:.1f}{spread}"


if __name__ == "__main__":
    main()
