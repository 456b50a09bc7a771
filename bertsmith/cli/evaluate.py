"""The command that judges a model: on held-out text, by minimal pairs, or by its vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertsmith.cli.arguments import Device, Flag, Precision, RunPath
from bertsmith.config import PairColumns
from bertsmith.display import Display, result_console, show, show_json
from bertsmith.errors import InputError, printable


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure losses on held-out text, grammar by minimal pairs, or how good vectors are."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    corpus: tuple[str, ...] = ()
    """Corpus names or paths; without it, the corpus of the run."""
    split: str = "validation"
    """Split of the corpus: train, validation or test."""
    sentences: int = 200
    """Whole sentences whose pseudo-perplexity is taken, every token masked in turn; 0: none."""
    objective: str | None = None
    """What is scored (mlm+nsp, mlm); without it, as in the run's training."""
    pairing: Literal["adjacent", "filled"] | None = None
    """How pairs are made; without it, as in the run's training."""
    max_length: int | None = None
    """Longest sequence in tokens; without it, as in the run's training."""
    minimal_pairs: Path | None = None
    """In the place of a corpus: a table of minimal pairs as BLiMP has them (sentence_good,
    sentence_bad, UID, linguistics_term), or a folder of such: how often the good sentence is the
    likelier one."""
    pll_metric: Literal["within_word_l2r", "original"] = "within_word_l2r"
    """Of minimal pairs: whether a token is scored with the tokens of its word that follow it masked
    as well, or alone."""
    per_token: Flag = False
    """Of minimal pairs: compare means over tokens, not sums."""
    good_column: str = PairColumns.good
    """Of minimal pairs: the column of the grammatical sentence."""
    bad_column: str = PairColumns.bad
    """Of minimal pairs: the column of the other one."""
    paradigm_column: str = PairColumns.paradigm
    """Of minimal pairs: the column of what they are grouped by."""
    phenomenon_column: str = PairColumns.phenomenon
    """Of minimal pairs: the column of what paradigms are grouped by."""
    scores: Path | None = None
    """Of minimal pairs: a file for the scores of each, as JSON lines."""
    similarity: Path | None = None
    """In the place of a corpus: a table of sentence pairs with scores, which the cosines of their
    vectors are correlated with."""
    retrieval: Path | None = None
    """In the place of a corpus: a folder of queries, documents and judgements (as TREC or BEIR have
    them), or a table of queries and their documents, all of which are ranked for each query."""
    text_column: str | None = None
    """Of vectors: the column of the first text."""
    text_pair_column: str | None = None
    """Of vectors: the column of the second text."""
    label_column: str | None = None
    """Of vectors: the column of the score."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "float32"
    """Of matrix products; bfloat16 is quicker where the processor has it, auto takes it there."""
    json: Flag = False
    """Print one JSON object."""


_TEXT, _PAIRS, _VECTORS = "held-out text", "minimal pairs", "vectors of texts"

_ASKED_BY = {"minimal_pairs": _PAIRS, "similarity": _VECTORS, "retrieval": _VECTORS}

_ONLY_OF = {
    _TEXT: ("corpus", "split", "objective", "pairing", "max_length", "sentences"),
    _PAIRS: (
        "pll_metric",
        "per_token",
        "good_column",
        "bad_column",
        "paradigm_column",
        "phenomenon_column",
        "scores",
    ),
    _VECTORS: ("text_column", "text_pair_column", "label_column"),
}
"""Flags that change something for one thing that a model is judged by alone."""


def evaluate(command: Evaluate) -> None:
    """Print the figures of a model on a split, on minimal pairs, or of its vectors."""
    asked = [kind for flag, kind in _ASKED_BY.items() if getattr(command, flag) is not None]
    if len(asked) > 1:
        raise InputError(
            "A model is judged by one thing at a time: give --minimal-pairs, --similarity or "
            "--retrieval."
        )
    (kind,) = asked or [_TEXT]
    usual = Evaluate(run=command.run)
    for other, names in _ONLY_OF.items():
        for name in names if other != kind else ():
            if getattr(command, name) != getattr(usual, name):
                raise InputError(f"`{name}` changes nothing for {kind}; leave it out.")
    judges = {_TEXT: _evaluate_text, _PAIRS: _evaluate_pairs, _VECTORS: _evaluate_vectors}
    judges[kind](command)


def _evaluate_text(command: Evaluate) -> None:
    from bertsmith.evaluation.of_folder import evaluate_folder
    from bertsmith.evaluation.table import print_evaluation

    if command.sentences < 0:
        raise InputError(f"`sentences` must not be negative; got {command.sentences}.")
    found = evaluate_folder(
        command.run,
        corpus=command.corpus or None,
        split=command.split,
        num_sentences=command.sentences,
        objective=command.objective,
        pairing=command.pairing,
        max_length=command.max_length,
        device=command.device,
        precision=command.precision,
        display=Display(quiet=command.json),
    )
    if command.json:
        show_json(found.to_json(command.split))
        return
    print_evaluation(found, result_console())


def _evaluate_pairs(command: Evaluate) -> None:
    """Print accuracies on minimal pairs, beside what takes less."""
    from bertsmith.evaluation.minimal_pairs import evaluate_minimal_pairs
    from bertsmith.evaluation.table import print_pairs

    assert command.minimal_pairs is not None
    if (scores := command.scores) is not None:
        if not scores.parent.is_dir():
            raise InputError(f"The folder of --scores must exist; {scores.parent} does not.")
        if scores.is_dir():
            raise InputError(f"--scores must be a file; {scores} is a folder.")
    found = evaluate_minimal_pairs(
        command.run,
        command.minimal_pairs,
        columns=PairColumns(
            good=command.good_column,
            bad=command.bad_column,
            paradigm=command.paradigm_column,
            phenomenon=command.phenomenon_column,
        ),
        pll_metric=command.pll_metric,
        per_token=command.per_token,
        device=command.device,
        precision=command.precision,
        display=Display(quiet=command.json),
    )
    if command.json:
        show_json(found.to_json())
    else:
        print_pairs(found, result_console())
    if scores is not None:
        found.write_scores(scores)


def _evaluate_vectors(command: Evaluate) -> None:
    """Print how good the vectors of texts are, beside what takes less."""
    from bertsmith.config import LabelledConfig
    from bertsmith.vectors.evaluate import evaluate_retrieval, evaluate_similarity, figures_table

    what = command.similarity or command.retrieval
    assert what is not None
    found = (evaluate_similarity if command.similarity else evaluate_retrieval)(
        command.run,
        what,
        labelled=LabelledConfig(
            text_column=command.text_column,
            text_pair_column=command.text_pair_column,
            label_column=command.label_column,
        ),
        device=command.device,
        precision=command.precision,
        display=Display(quiet=command.json),
    )
    if command.json:
        show_json(found.to_json())
        return
    console = result_console()
    console.print(printable(found.about), style="bold")
    console.print(figures_table(found))
    for reason, count in found.left_out.items():
        show(f"left out: {count:,} {reason}")
