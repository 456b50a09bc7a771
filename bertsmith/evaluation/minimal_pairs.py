"""Minimal pairs: how often the grammatical one of two sentences is the likelier one.

Accuracy by paradigm, and the mean over paradigms, as BLiMP has it (Warstadt et al. 2020). A pair
whose scores are equal is wrong; BabyLM's evaluation counts it as right.

Legend: P = pairs.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertsmith.architectures import Encoder
from bertsmith.config import PairColumns
from bertsmith.corpus.minimal_pairs import MinimalPair, read_minimal_pairs
from bertsmith.data.store import TokenStore, log_shares
from bertsmith.display import Display
from bertsmith.durable import write_text
from bertsmith.errors import InputError, ModelError
from bertsmith.evaluation.of_folder import training_text
from bertsmith.evaluation.pll import Float64, PLLMetric, SentenceScorer, SentenceScores
from bertsmith.hardware.device import autocast, choose_device
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.random_bits import Int64
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import read_newest
from bertsmith.tokenizer import Tokenizer

_NUM_SPECIAL = 2  # [CLS] sentence [SEP]

PAIRS_FOR_RANDOM = 100
"""Of each paradigm, by which random weights are judged: enough to show that they are at chance."""


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """Of the pairs of a paradigm, or the mean over several paradigms."""

    num_pairs: int
    accuracy: float
    """Share of the pairs whose good sentence scores higher."""
    num_ties: int
    """Pairs of two equal scores, which count as wrong."""
    unigram_accuracy: float | None
    """What word frequencies of the training text alone reach; None: they are not known."""
    random_accuracy: float
    """What the same network reaches from random weights."""
    share_unknown: float
    """Share of [UNK] among the tokens of both sentences. It is scored as any other token."""


class PairScores(NamedTuple):
    """The pseudo-log-likelihoods of a pair, in nats, summed over the tokens."""

    pair: MinimalPair
    good: float
    bad: float
    num_good_tokens: int
    num_bad_tokens: int


@dataclass(frozen=True, kw_only=True)
class MinimalPairEvaluation:
    """Accuracies on minimal pairs."""

    overall: PairFigures
    """Means over paradigms."""
    by_phenomenon: dict[str, PairFigures]
    """Means over the paradigms of each; empty if the pairs do not say."""
    by_paradigm: dict[str, PairFigures]
    phenomenon_of: dict[str, str]
    """By paradigm."""
    pll_metric: PLLMetric
    per_token: bool
    num_long_pairs: int
    """Left out: a sentence is longer than the model was trained on."""
    scores: list[PairScores]

    def to_json(self) -> dict[str, Any]:
        """All but the scores of pairs."""
        return {name: value for name, value in asdict(self).items() if name != "scores"}

    def write_scores(self, path: Path) -> None:
        """Write the scores of each pair: JSON lines. Raises: `InputError` if it cannot be."""
        rows = (
            {
                "file": pair.file,
                "line": pair.line,
                "paradigm": pair.paradigm,
                "good_score": good,
                "bad_score": bad,
                "good_tokens": num_good,
                "bad_tokens": num_bad,
            }
            for pair, good, bad, num_good, num_bad in self.scores
        )
        try:
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error


def evaluate_minimal_pairs(
    path: Path,
    where: Path,
    *,
    columns: PairColumns | None = None,
    pll_metric: PLLMetric = "within_word_l2r",
    per_token: bool = False,
    device: str = "auto",
    precision: str = "float32",
    display: Display | None = None,
) -> MinimalPairEvaluation:
    """Accuracies of the model in `path` on minimal pairs, beside what takes less.

    Args:
        path: a run, a checkpoint, a Hugging Face folder, or hf:owner/name.
        where: the pairs; see `read_minimal_pairs`.
        columns: their names; default: those of BLiMP.
        pll_metric: within_word_l2r masks the tokens of a word that follow the scored one, too
            (Kauf and Ivanova 2023); original masks the scored one alone (Salazar et al. 2020).
        per_token: compare means over tokens in the place of sums.
        device: auto, cpu, cuda, mps.
        precision: of matrix products: float32, bfloat16, or auto.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: no such model or pairs; no MLM head; all sentences are too long.
    """
    display = display or Display(quiet=True)
    pairs = read_minimal_pairs(where, columns or PairColumns())
    target = choose_device(device)
    folder, model, tokenizer = read_newest(path, _open)
    scorer = SentenceScorer(model.to(target), tokenizer, device=target, pll_metric=pll_metric)
    kept, rows = _that_fit(pairs, tokenizer)
    with autocast(target, precision):
        with display.stage("Scoring sentences") as progress:
            found = scorer.score(rows, progress)
        if not np.isfinite(found.totals).all():
            raise ModelError(f"{folder}: the model's scores are not finite numbers.")
        model.initialize(0)
        sampled = _first_of_each(kept, PAIRS_FOR_RANDOM)
        with display.stage("Scoring sentences from random weights") as progress:
            of_random = scorer.score([rows[2 * n + i] for n in sampled for i in (0, 1)], progress)
    text = training_text(path, folder, tokenizer)
    counts = None if text is None else _counts(text, tokenizer)
    judged = _Judged(
        pairs=kept,
        model=found.by(per_token=per_token).reshape(-1, 2),
        unigram=_by_frequencies(rows, counts, per_token=per_token),
        random=np.full((len(kept), 2), np.nan),
        num_unknown=np.array([row.count(tokenizer.unk_id) for row in rows]).reshape(-1, 2),
        num_tokens=found.num_tokens.reshape(-1, 2),
    )
    judged.random[sampled] = of_random.by(per_token=per_token).reshape(-1, 2)
    return MinimalPairEvaluation(
        **judged.all_figures(),
        pll_metric=pll_metric,
        per_token=per_token,
        num_long_pairs=len(pairs) - len(kept),
        scores=_of_pairs(kept, found),
    )


def _open(folder: Path) -> tuple[Path, Encoder, Tokenizer]:
    model, tokenizer, missing = load_model(folder)
    if missing & MaskedLM.heads:
        raise ModelError(f"{folder} must have its MLM head to score sentences; it has none.")
    return folder, model, tokenizer


def _of_pairs(pairs: Sequence[MinimalPair], scores: SentenceScores) -> list[PairScores]:
    totals = scores.totals.reshape(-1, 2).tolist()
    lengths = scores.num_tokens.reshape(-1, 2).tolist()
    return [
        PairScores(pair, good, bad, num_good, num_bad)
        for pair, (good, bad), (num_good, num_bad) in zip(pairs, totals, lengths, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Scores of P pairs: of the good and of the bad sentence."""

    pairs: list[MinimalPair]
    model: Float64
    """[P, 2]."""
    unigram: Float64 | None
    """[P, 2]; by word frequencies."""
    random: Float64
    """[P, 2]; from random weights, NaN where these were not asked."""
    num_unknown: Int64
    """[P, 2]; [UNK] in the sentences."""
    num_tokens: Int64
    """[P, 2]."""

    def all_figures(self) -> dict[str, Any]:
        """By paradigm, and means over paradigms."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, pair in enumerate(self.pairs):
            numbers[pair.paradigm].append(number)
        by_paradigm = {name: self._figures(np.array(its)) for name, its in numbers.items()}
        phenomenon_of = {name: self.pairs[its[0]].phenomenon for name, its in numbers.items()}
        phenomena: dict[str, list[PairFigures]] = defaultdict(list)
        for name, phenomenon in phenomenon_of.items():
            phenomena[phenomenon].append(by_paradigm[name])
        return {
            "overall": _mean([*by_paradigm.values()]),
            "by_phenomenon": {name: _mean(its) for name, its in phenomena.items() if name},
            "by_paradigm": by_paradigm,
            "phenomenon_of": phenomenon_of,
        }

    def _figures(self, numbers: Int64) -> PairFigures:
        scores, at_random = self.model[numbers], self.random[numbers]
        return PairFigures(
            num_pairs=len(numbers),
            accuracy=_accuracy(scores),
            num_ties=int((scores[:, 0] == scores[:, 1]).sum()),
            unigram_accuracy=None if self.unigram is None else _accuracy(self.unigram[numbers]),
            random_accuracy=_accuracy(at_random[~np.isnan(at_random[:, 0])]),
            share_unknown=float(self.num_unknown[numbers].sum() / self.num_tokens[numbers].sum()),
        )


def _accuracy(scores: Float64) -> float:
    """Of pairs [P, 2]; a tie is wrong."""
    return float((scores[:, 0] > scores[:, 1]).mean())


def _mean(figures: Sequence[PairFigures]) -> PairFigures:
    """Means over paradigms; pairs and ties are added up."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in figures]))

    knows_words = all(one.unigram_accuracy is not None for one in figures)
    return PairFigures(
        num_pairs=sum(one.num_pairs for one in figures),
        accuracy=mean("accuracy"),
        num_ties=sum(one.num_ties for one in figures),
        unigram_accuracy=mean("unigram_accuracy") if knows_words else None,
        random_accuracy=mean("random_accuracy"),
        share_unknown=mean("share_unknown"),
    )


def _that_fit(
    pairs: Sequence[MinimalPair], tokenizer: Tokenizer
) -> tuple[list[MinimalPair], list[list[int]]]:
    """The pairs that the model can read, and the ids of their sentences, good and bad in turn."""
    encoded = tokenizer.encode_many([(text, None) for pair in pairs for text in pair[:2]])
    ids = [row for row, _ in encoded]
    for number, row in enumerate(ids):
        if len(row) <= _NUM_SPECIAL:
            pair = pairs[number // 2]
            raise InputError(
                f"{pair.file}, line {pair.line}: a sentence must have tokens; the tokenizer makes "
                f"none of {pair[number % 2]!r}."
            )
    fits = [max(map(len, ids[i : i + 2])) <= tokenizer.max_length for i in range(0, len(ids), 2)]
    if not any(fits):
        raise InputError(
            f"The sentences must have at most the {tokenizer.max_length} tokens that the model "
            "reads; one of each pair has more."
        )
    kept = [number for number, fit in enumerate(fits) if fit]
    return [pairs[n] for n in kept], [ids[2 * n + i] for n in kept for i in (0, 1)]


def _first_of_each(pairs: Sequence[MinimalPair], most: int) -> list[int]:
    """The numbers of at most so many pairs of each paradigm."""
    seen: Counter[str] = Counter()
    found = []
    for number, pair in enumerate(pairs):
        seen[pair.paradigm] += 1
        if seen[pair.paradigm] <= most:
            found.append(number)
    return found


def _counts(text: TokenStore, tokenizer: Tokenizer) -> Int64:
    """How often each token stands in a text, [UNK] among them, which is scored as well."""
    counts = text.frequencies(tokenizer.vocab_size).copy()
    counts[np.setdiff1d(tokenizer.special_ids, tokenizer.unk_id)] = 0
    return counts


def _by_frequencies(
    rows: Sequence[Sequence[int]], counts: Int64 | None, *, per_token: bool
) -> Float64 | None:
    """Scores [P, 2] by how often each token stands in a text; None: that is not known."""
    if counts is None:
        return None
    shares = log_shares(counts).astype(np.float64)
    totals = np.array([shares[np.array(row[1:-1], dtype=np.int64)].sum() for row in rows])
    lengths = np.array([len(row) - _NUM_SPECIAL for row in rows], dtype=np.int64)
    return SentenceScores(totals, lengths).by(per_token=per_token).reshape(-1, 2)
