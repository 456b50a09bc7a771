"""Commands on vectors of texts and tags of words: search, tag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bertsmith import api
from bertsmith.cli.arguments import (
    LONGEST_SHOWN,
    Device,
    Flag,
    OptionalText,
    Precision,
    RunPath,
    lines_of,
)
from bertsmith.display import Display, show, show_json
from bertsmith.errors import InputError, printable


@dataclass(frozen=True, kw_only=True)
class Search:
    """Show the rows of a file that are nearest to a question, by vectors."""

    run: RunPath
    """A folder that was fine-tuned for similarity; any model is taken, with a warning."""
    documents: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DOCS")]
    """What is searched: a table (.jsonl, .csv, .tsv, .parquet), or a text, line by line."""
    question: OptionalText = None
    """What is asked."""
    input: Path | None = None
    """A UTF-8 file with a question a line, in the place of one."""
    top_k: int = 10
    """Rows to show for each question."""
    text_column: str | None = None
    """Column of a table that holds the text; without it, by the names that are usual."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "float32"
    """Of matrix products; bfloat16 is quicker where the processor has it, auto takes it there."""
    json: Flag = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Tag:
    """Find the spans of a text, or of the lines of a file, that a model was fine-tuned to tag."""

    run: RunPath
    """A folder that was fine-tuned with --task tokens."""
    text: OptionalText = None
    """The text."""
    input: Path | None = None
    """A UTF-8 file with a text a line, in the place of one."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "float32"
    """Of matrix products; bfloat16 is quicker where the processor has it, auto takes it there."""
    json: Flag = False
    """Print one JSON object."""


def search(command: Search) -> None:
    """Print the nearest rows, the nearest first."""
    from bertsmith.config import LabelledConfig
    from bertsmith.vectors.encoder import TextEncoder
    from bertsmith.vectors.search import Documents
    from bertsmith.vectors.search import search as nearest_rows

    if (command.question is None) == (command.input is None):
        raise InputError("Give a question, or a file of questions with --input; one of the two.")
    questions = [command.question] if command.question is not None else []
    if command.input is not None:
        questions = [line.strip() for line in lines_of(command.input) if line.strip()]
    labelled = LabelledConfig(text_column=command.text_column)
    documents = Documents.read(command.documents, labelled)
    encoder = TextEncoder.load(command.run, device=command.device, precision=command.precision)
    display = Display(quiet=command.json)
    found = nearest_rows(encoder, documents, questions, top_k=command.top_k, display=display)
    if command.json:
        rows = zip(questions, found, strict=True)
        show_json(
            {
                "found": [
                    {"question": q, "hits": [hit._asdict() for hit in hits]} for q, hits in rows
                ]
            }
        )
        return
    for number, (question, hits) in enumerate(zip(questions, found, strict=True)):
        if len(questions) > 1:
            show(f"{chr(10) if number else ''}{printable(question)}")
        for hit in hits:
            text = " ".join(hit.text.split())
            text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
            show(f"{hit.cosine:.4f}  line {hit.line:<7,}  {printable(text)}")


def tag(command: Tag) -> None:
    """Print the spans that are found, line by line."""
    if (command.text is None) == (command.input is None):
        raise InputError("Give a text, or a file of texts with --input; one of the two.")
    texts = [command.text] if command.text is not None else []
    if command.input is not None:
        texts = lines_of(command.input)
    found = api.tag(command.run, texts, device=command.device, precision=command.precision)
    if command.json:
        rows = zip(texts, found, strict=True)
        show_json({"texts": [{"text": t, "spans": [one._asdict() for one in s]} for t, s in rows]})
        return
    for number, spans in enumerate(found, 1):
        where = f"{number}:" if len(texts) > 1 else ""
        for span in spans:
            place = f"{where}{span.start}-{span.end}"
            show(f"{span.score:6.1%}  {place:>12}  {printable(span.kind)}  {printable(span.text)}")
