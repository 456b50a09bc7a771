"""An evaluation for a reader: what the model reaches, and beside it what takes no model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bertsmith.evaluation.held_out import Evaluation
from bertsmith.evaluation.minimal_pairs import MinimalPairEvaluation, PairFigures
from bertsmith.evaluation.tally import Bin, perplexity_of
from bertsmith.objectives import term_of, terms_in


def print_evaluation(found: Evaluation, console: Console) -> None:
    """Print the figures, and those by length and by frequency."""
    for number, (title, table) in enumerate(tables(found).items()):
        if number:
            console.print()
        console.print(title, style="bold")
        console.print(table)
    for note in notes(found):
        console.print(note)


def tables(found: Evaluation) -> dict[str, Table]:
    """The tables of an evaluation by their titles, first the figures over all."""
    head = f"{found.num_pairs:,} {found.unit}, {found.num_masked_tokens:,} masked tokens"
    made = {head: _table(("", "model", "floor", "what the floor is"), _overall(found))}
    if found.by_length:
        made["MLM by the length of the sequence, in tokens"] = _of_bins(found.by_length)
    if found.by_frequency:
        made[f"MLM by how often the word stands in the {found.counts_of}"] = _of_bins(
            found.by_frequency
        )
    if (pseudo := found.pseudo) is not None and pseudo.num_tokens:
        sentences = f"{pseudo.num_sentences:,} sentences, {pseudo.num_tokens:,} tokens, each masked"
        made[f"{sentences}: by length"] = _of_bins(pseudo.by_length)
        if pseudo.by_frequency:
            made[f"{sentences}: by frequency"] = _of_bins(pseudo.by_frequency)
    return made


def notes(found: Evaluation) -> list[str]:
    """What was left out of the figures."""
    if (pseudo := found.pseudo) is None:
        return []
    said = []
    if pseudo.num_unknown_tokens:
        said.append(f"{pseudo.num_unknown_tokens:,} unknown tokens of these sentences not scored")
    if pseudo.num_long_sentences:
        said.append(f"{pseudo.num_long_sentences:,} sentences left out, too long for the model")
    return said


def print_pairs(found: MinimalPairEvaluation, console: Console) -> None:
    """Print accuracies on minimal pairs by phenomenon and paradigm, and what was left out."""
    how = "a token" if found.per_token else "summed"
    title = f"{found.overall.num_pairs:,} minimal pairs by {found.pll_metric} scores, {how}"
    console.print(title, style="bold")
    header = ("", "accuracy", "ties", "unigram", "random")
    rows = {"mean over paradigms": found.overall, **found.by_phenomenon}
    console.print(_table(header, [_of_pairs(*row) for row in rows.items()]))
    console.print()
    console.print("by paradigm", style="bold")
    console.print(_table(header, [_of_pairs(*row) for row in found.by_paradigm.items()]))
    console.print(
        "a tie is wrong; unigram: word frequencies alone; random: the network from random weights"
    )
    console.print(f"{found.overall.share_unknown:.2%} of the tokens are unknown")
    if found.num_long_pairs:
        console.print(f"{found.num_long_pairs:,} pairs left out, too long for the model")


def _of_pairs(name: str, figures: PairFigures) -> Sequence[str]:
    shares = (figures.unigram_accuracy, figures.random_accuracy)
    return name, _share(figures.accuracy), f"{figures.num_ties:,}", *map(_share, shares)


def _overall(found: Evaluation) -> list[Sequence[str]]:
    figures, words = found.figures, "word frequencies alone"
    if found.counts_of == "evaluated text":
        words += ", of this very text"
    rows: list[Sequence[str]] = []
    for name in terms_in(figures):
        loss, floor, what = figures[f"{name}_loss"], figures.get(f"unigram_{name}_loss"), words
        majority, chance = figures.get(f"{name}_majority_accuracy"), term_of(name).chance_loss
        if chance is not None:
            floor, what = chance, "chance"
        label = name.upper()
        rows.append((f"{label} loss (nats)", _number(loss), _number(floor), what))
        if f"{name}_perplexity" in figures:
            rows.append((f"{label} perplexity", _perplexity(loss), _perplexity(floor), what))
        if f"{name}_accuracy" in figures:
            least, what = figures.get(f"unigram_{name}_accuracy"), "the most frequent word"
            if majority is not None:
                least, what = majority, "the more frequent answer"
            accuracy = _share(figures[f"{name}_accuracy"])
            rows.append((f"{label} accuracy", accuracy, _share(least), what))
    if (pseudo := found.pseudo) is not None and pseudo.num_tokens:
        value, least_loss = _perplexity(pseudo.loss), _perplexity(pseudo.unigram_loss)
        rows.append(("pseudo-perplexity", value, least_loss, words))
    return rows


def _of_bins(bins: Sequence[Bin]) -> Table:
    rows = [
        (
            part.name,
            f"{part.num_tokens:,}",
            _number(part.loss),
            _number(part.unigram_loss),
            _share(part.accuracy),
        )
        for part in bins
    ]
    return _table(("", "masked", "loss", "floor", "accuracy"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for name in header:
        is_text = not name or name.startswith("what")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _perplexity(loss: float | None) -> str:
    return "–" if loss is None else f"{perplexity_of(loss):,.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
