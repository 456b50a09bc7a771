"""Lines of text into documents, by the rules for documents, paragraphs and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from bertsmith.corpus.document import Document
from bertsmith.corpus.sentences import Splitter

LONGEST_DOCUMENT = 2**24
"""Characters; a document is held in memory, and a longer one is cut into several."""

CUT_DOCUMENTS = "cuts in documents over 16 million characters (neighbours lost)"
"""How these cuts are counted."""

DocumentRule = Literal["auto", "empty-line", "line", "file"]


@dataclass(frozen=True)
class Rules:
    """What documents, paragraphs and sentences are. It can be sent to another process."""

    documents: DocumentRule = "auto"
    """Text up to an empty line, a line, or all of a file; auto: text files up to an empty line, and
    rows of tables as they are."""
    paragraphs: Literal["line", "empty-line"] = "line"
    """A line, or the lines up to an empty one, joined by spaces."""
    split: Splitter = field(default_factory=Splitter)
    """Paragraphs into sentences."""


def assemble(
    lines: Iterable[str], rules: Rules, documents: DocumentRule, left_out: Counter[str]
) -> Iterator[Document]:
    """The documents of `lines`, which end where the lines end.

    Args:
        lines: with or without their ends.
        rules: for paragraphs and sentences.
        documents: for documents; not auto.
        left_out: counts cuts in documents that are too long.
    """
    # A sentence a line: paragraphs can only end at empty lines.
    gathers = rules.paragraphs == "empty-line" or rules.split.rule == "line"
    joint = "\n" if rules.split.rule == "line" else " "
    document: Document = []
    waiting: list[str] = []  # lines of a paragraph that may go on
    size = 0
    for line in lines:
        text = line.strip()
        if text and size > LONGEST_DOCUMENT:
            left_out[CUT_DOCUMENTS] += 1
            if waiting:
                _add(document, joint.join(waiting), rules.split)
            yield document
            document, waiting, size = [], [], 0
        if text and not (documents == "line" or gathers):
            _add(document, text, rules.split)
        elif text:
            waiting.append(text)
        if waiting and (not text or documents == "line"):
            _add(document, joint.join(waiting), rules.split)
            waiting = []
        size += len(text)
        if documents == "line" or (documents == "empty-line" and not text):
            if document:
                yield document
            document, size = [], 0
    if waiting:
        _add(document, joint.join(waiting), rules.split)
    if document:
        yield document


def _add(document: Document, paragraph: str, split: Splitter) -> None:
    if sentences := split(paragraph):
        document.append(sentences)
