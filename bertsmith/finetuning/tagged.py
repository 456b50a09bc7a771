"""Sentences whose words have tags: files, what tags mean, and windows of pieces.

CoNLL files have a word and its tag a line (the first and the last of columns that spaces or tabs
part) and an empty line between sentences; JSON lines have lists, `tokens` and `tags`.

Legend: W = words of a sentence; L = tokens that a model reads at once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.config import LabelledConfig
from bertsmith.corpus.lines import read_lines
from bertsmith.corpus.opened import format_of, in_encoding
from bertsmith.errors import CorpusError, DataError
from bertsmith.rows import Row
from bertsmith.tokenizer import Tokenizer

OUTSIDE = "O"
NO_TAG = -1
_NUM_SPECIAL = 2  # [CLS] and [SEP]
_OVERLAP = 4  # a window reaches this part of its length into the one before it
_MOST_TAGS = 1000
_SPAN_TAG = re.compile(r"([BIESLUM])-(.+)")
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The sentences of a file."""

    path: Path
    words: list[list[str]]
    tags: list[list[str]] | None
    """As they are in the file; None: they were not read (a test set)."""

    @property
    def num_words(self) -> int:
        """Of all sentences."""
        return sum(map(len, self.words))


class Span(NamedTuple):
    """Some words of one kind."""

    first: int
    end: int
    """The first word after it."""
    kind: str


def read_tagged(path: Path, config: LabelledConfig, *, needs_tags: bool = True) -> Tagged:
    """Read a file of tagged sentences; of a test set the words alone, with tags or without.

    Raises:
        CorpusError: it cannot be read, or a line or a row of it is no such.
    """
    if not path.is_file():
        raise CorpusError(f"{path} must be a regular file; there is none.")
    file = in_encoding(path, config.encoding)
    is_json = format_of(path) in (".jsonl", ".ndjson", ".json")
    lines = read_lines(file)
    rows = _json(path, lines, config, needs_tags) if is_json else _conll(path, lines, needs_tags)
    found = [(words, tags) for words, tags in rows if words]
    if not found:
        raise CorpusError(f"{path} must have sentences with tags; it has none.")
    words, tags = (list(column) for column in zip(*found, strict=True))
    if not needs_tags:
        return Tagged(path=path, words=words, tags=None)
    return Tagged(path=path, words=words, tags=_named(path, tags, config.label_names))


def _named(path: Path, tags: list[list[str]], names: Sequence[str]) -> list[list[str]]:
    """Tags that are numbers by their names, if there are names."""
    if not names:
        return tags
    by_number = {str(number): name for number, name in enumerate(names)}
    unknown = {tag for row in tags for tag in row} - set(by_number)
    if unknown:
        raise DataError(
            f"{path}: `label_names` needs tags from 0 to {len(names) - 1}; got "
            f"{', '.join(sorted(unknown)[:5])}."
        )
    return [[by_number[tag] for tag in row] for row in tags]


def _conll(
    path: Path, lines: Iterator[str], needs_tags: bool
) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        if not any(fields) or fields[0] == "-DOCSTART-":
            yield words, tags
            words, tags = [], []
            continue
        if (needs_tags and (len(fields) < 2 or not fields[-1])) or not fields[0]:
            raise CorpusError(
                f"{path}, line {number}: a line must be a word and its tag, parted by a tab or a "
                f"space; got {line.strip()[:80]!r}."
            )
        words.append(fields[0])
        tags.append(fields[-1])
    yield words, tags


def _json(
    path: Path, lines: Iterator[str], config: LabelledConfig, needs_tags: bool
) -> Iterator[tuple[list[str], list[str]]]:
    names = config.text_column or "tokens", config.label_column or "tags"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            words = _listed(row[names[0]])
            tags = _listed(row[names[1]]) if needs_tags else words
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorpusError(
                f"{path}, line {number}: a row must be a JSON object with the lists `{names[0]}` "
                f"and `{names[1]}`; got {line.strip()[:80]!r}."
            ) from error
        if len(words) != len(tags) or not all(map(str.strip, words)):
            raise CorpusError(
                f"{path}, line {number}: there must be a tag for each word, none of which is "
                f"empty; got {len(words)} words and {len(tags)} tags."
            )
        yield words, tags


def _listed(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return list(map(str, value))


@dataclass(frozen=True)
class Scheme:
    """What tags mean: spans of kinds (BIO, IOB, IOBES, BILOU), or a class for each word."""

    names: list[str]
    """Classes of the model: O, and B- and I- of each kind; or the tags themselves."""
    is_spans: bool
    """Whether tags are of spans."""

    @staticmethod
    def of_tags(tags: set[str], path: Path) -> Scheme:
        """That of all tags of a training file.

        Raises:
            DataError: there are not two tags, or too many; some are marks of spans and some not.
        """
        found = {tag: _SPAN_TAG.fullmatch(tag) for tag in sorted(tags - {OUTSIDE})}
        is_spans = bool(found) and all(found.values())
        strays = [tag for tag, match in found.items() if match is None]
        if len(strays) < len(found) and OUTSIDE in tags and strays:
            raise DataError(
                f"{path} must have {OUTSIDE} and marks of spans (B-, I-, …) alone, or neither; it "
                f"has {', '.join(map(repr, strays[:5]))} beside them. Mend these tags."
            )
        names = sorted(tags)
        if is_spans:
            kinds = sorted({match[2] for match in found.values() if match})
            names = [OUTSIDE, *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
        if len(tags) < 2 or len(names) > _MOST_TAGS:
            raise DataError(
                f"{path} must have from two to {_MOST_TAGS} different tags; it has {len(tags)}."
            )
        return Scheme(names, is_spans)

    @staticmethod
    def of_model(names: Sequence[str]) -> Scheme:
        """That of a model's classes."""
        is_spans = all(name == OUTSIDE or name[:2] in ("B-", "I-") for name in names)
        return Scheme(list(names), is_spans)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def kinds(self) -> list[str]:
        """Of spans; none where tags are classes of words."""
        return [name[2:] for name in self.names if self.is_spans and name[:2] == "B-"]

    def as_bio(self, tags: Sequence[str]) -> tuple[list[str], int]:
        """Tags of a sentence as the model has them; and how many broke their scheme.

        An I- (or E-) that follows nothing of its kind begins a span: it becomes B-.
        """
        if not self.is_spans:
            return list(tags), 0
        found, inside, broken = [], "", 0
        for tag in tags:
            match = _SPAN_TAG.fullmatch(tag)
            if match is None:  # outside; another one is refused when it is looked up
                found.append(tag)
                inside = ""
                continue
            mark, kind = match[1], match[2]
            goes_on = mark not in _BEGINS and inside == kind
            broken += mark not in _BEGINS and inside != kind
            found.append(f"{'I' if goes_on else 'B'}-{kind}")
            inside = "" if mark in _ENDS else kind
        return found, broken

    def numbers(self, tags: Sequence[str], path: Path) -> list[int]:
        """Classes of tags, by their numbers. Raises: `DataError` for a tag that is unknown."""
        for tag in tags:
            if tag not in self._numbers:
                raise DataError(
                    f"{path} must have tags of the training file; it has {tag!r}, which is not "
                    "among them."
                )
        return [self._numbers[tag] for tag in tags]

    def continued(self, number: int) -> int:
        """The class of the further pieces of a word: inside of what it begins."""
        name = self.names[number]
        if self.is_spans and name[:2] == "B-":
            return self._numbers.get(f"I-{name[2:]}", number)
        return number


def spans_of(tags: Sequence[str]) -> set[Span]:
    """Spans of BIO tags, as seqeval's default finds them: an I- that follows another kind, or
    nothing, begins one.
    """
    found: set[Span] = set()
    first, inside = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, kind = tag.partition("-")
        if inside and (mark != "I" or kind != inside):
            found.add(Span(first, place, inside))
            inside = ""
        if mark in ("B", "I") and not inside:
            first, inside = place, kind
    return found


class Window(NamedTuple):
    """A part of a sentence that a model reads at once."""

    sentence: int
    row: Row
    tags: list[int]
    """Of each token the class to learn; `NO_TAG`: none, as another window has it."""
    words: list[int]
    """Of each token the word that it begins; -1: it begins none, or another window decides it."""


def windows_of(
    pieces: Sequence[Sequence[int]],
    tags: Sequence[int] | None,
    sentence: int,
    tokenizer: Tokenizer,
    scheme: Scheme,
) -> list[Window]:
    """A sentence in windows of at most L tokens, which overlap where there are several.

    Each word is learnt and decided in the window where it has most on either side. Words are not
    parted; one that is longer than a window is cut.

    Args:
        pieces: of each word.
        tags: classes of the words; None: nothing is to be learnt.
        sentence: its number.
        tokenizer: with L as its longest length.
        scheme: of the tags.
    """
    room = tokenizer.max_length - _NUM_SPECIAL
    cut = [list(ids[:room]) for ids in pieces]
    starts = [0, *itertools.accumulate(map(len, cut))]
    bounds: list[tuple[int, int]] = []
    first = 0
    while True:
        end = first
        while end < len(cut) and starts[end + 1] - starts[first] <= room:
            end += 1
        bounds.append((first, end))
        if end == len(cut):
            break
        least = starts[end] - room // _OVERLAP
        first = next(n for n in range(first + 1, end + 1) if starts[n] >= least or n == end)
    owner = _owners(bounds, starts)
    found = []
    for number, (first, end) in enumerate(bounds):
        ids, learnt, words = [tokenizer.cls_id], [NO_TAG], [-1]
        for word in range(first, end):
            is_own = owner[word] == number
            ids += cut[word]
            words += [word if is_own else -1, *[-1] * (len(cut[word]) - 1)]
            tag = tags[word] if tags is not None and is_own else NO_TAG
            more = tag if tag == NO_TAG else scheme.continued(tag)
            learnt += [tag, *[more] * (len(cut[word]) - 1)]
        row = Row([*ids, tokenizer.sep_id], [0] * (len(ids) + 1))
        found.append(Window(sentence, row, [*learnt, NO_TAG], [*words, -1]))
    return found


def _owners(bounds: Sequence[tuple[int, int]], starts: Sequence[int]) -> list[int]:
    """Of each word the window in which its nearer end is farthest."""
    best: dict[int, tuple[int, int]] = {}
    for number, (first, end) in enumerate(bounds):
        for word in range(first, end):
            before = starts[word] - starts[first] if first else starts[-1]
            after = starts[end] - starts[word + 1] if end < len(starts) - 1 else starts[-1]
            distance = min(before, after)
            if word not in best or distance > best[word][0]:
                best[word] = (distance, number)
    return [best[word][1] for word in range(len(starts) - 1)]


def pieces_of(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Of each word its pieces; one that has none is unknown."""
    return [ids or [tokenizer.unk_id] for ids in tokenizer.pieces_of(words)]


def span_figures(
    found: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of spans, exact in bounds and kind: over all ("") and by kind.

    As seqeval's: micro over all, and 0 where nothing is found or expected.
    """
    counts: dict[str, Counter[str]] = {"": Counter()}
    for mine, theirs in zip(found, expected, strict=True):
        for name, spans in (
            ("found", spans_of(mine)),
            ("expected", spans_of(theirs)),
            ("right", spans_of(mine) & spans_of(theirs)),
        ):
            for span in spans:
                counts.setdefault(span.kind, Counter())[name] += 1
                counts[""][name] += 1
    return {kind: _figures(count) for kind, count in sorted(counts.items())}


def _figures(count: Counter[str]) -> dict[str, float]:
    precision = count["right"] / count["found"] if count["found"] else 0.0
    recall = count["right"] / count["expected"] if count["expected"] else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "spans": count["expected"]}
