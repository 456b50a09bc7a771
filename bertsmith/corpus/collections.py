"""Test collections of retrieval: queries, documents, and which of these are relevant.

A folder in the form of TREC (documents and topics in its mark-up, a file of judgements) or of BEIR
(corpus.jsonl, queries.jsonl, qrels/test.tsv), or a table whose rows are a query and its document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.corpus.opened import opened
from bertsmith.errors import CorpusError
from bertsmith.random_bits import Int64

_LARGEST_FILE = 2**34  # bytes, unpacked
_DOCUMENT = re.compile(r"<DOC>(.*?)</DOC>", re.S | re.I)
_TOPIC = re.compile(r"<top>(.*?)(?:</top>|(?=<top>)|\Z)", re.S | re.I)
_DOCNO = re.compile(r"<DOCNO>(.*?)</DOCNO>", re.S | re.I)
_NUM = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.I)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?(.*?)(?=<|\Z)", re.S | re.I)
_TAG = re.compile(r"<[^<>]{1,40}>")
_JUDGEMENT = re.compile(r"(\S+)\s+\S+\s+(\S+)\s+(-?\d+)")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What is asked, what there is, and what answers it."""

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, float]]
    """Of each query the judgements over 0, by place of the document; none is empty."""
    left_out: dict[str, int]
    """Queries without a relevant document, judgements of what is not there."""

    def without_itself(self, ranked: Int64) -> list[list[int]]:
        """Rankings without the document that has the text of the query."""
        places = {text: place for place, text in enumerate(self.documents)}
        own = [places.get(query, -1) for query in self.queries]
        rows = zip(ranked.tolist(), own, strict=True)
        return [[number for number in row if number != itself] for row, itself in rows]


def collection_of_rows(name: str, rows: list[tuple[str, str]]) -> Collection:
    """Each query's own document is relevant, also where other queries have the same one.

    Raises:
        CorpusError: every query is its own document.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in rows))}
    relevant: dict[str, dict[int, float]] = {}
    for query, text in rows:
        if query != text:
            relevant.setdefault(query, {})[places[text]] = 1.0
    if not relevant:
        raise CorpusError(f"{name} must have a query whose document is another text; it has none.")
    same = sum(query == text for query, text in rows)
    return Collection(
        name=name,
        queries=list(relevant),
        documents=list(places),
        relevant=list(relevant.values()),
        left_out={"rows whose document is the query": same} if same else {},
    )


def read_collection(folder: Path) -> Collection:
    """Read a folder in the form of TREC or BEIR.

    Raises:
        CorpusError: a part of it is missing or damaged, or no query has a relevant document.
    """
    if not folder.is_dir():
        raise CorpusError(
            f"{folder} must be a folder of queries, documents and judgements, or a table of "
            "queries and their documents; it is neither."
        )
    is_beir = any(folder.glob("corpus.jsonl*"))
    documents, queries, judged = _beir(folder) if is_beir else _trec(folder)
    return _joined(str(folder), documents, queries, judged)


def _joined(
    name: str,
    documents: dict[str, str],
    queries: dict[str, str],
    judged: list[tuple[str, str, float]],
) -> Collection:
    places = {number: place for place, number in enumerate(documents)}
    relevant: dict[str, dict[int, float]] = {number: {} for number in queries}
    unknown = 0
    by_number = {number.lstrip("0"): number for number in relevant}  # TREC's 051 and 51
    for asked_for, document, gain in judged:
        query = asked_for if asked_for in relevant else by_number.get(asked_for.lstrip("0"), "")
        if query not in relevant or document not in places:
            unknown += 1
        elif gain > 0:
            relevant[query][places[document]] = gain
    asked = [number for number in queries if relevant[number]]
    if not asked:
        raise CorpusError(
            f"{name} must have a query with a relevant document; of its {len(queries):,} queries "
            f"none has, by {len(judged):,} judgements."
        )
    left_out = {
        "queries without a relevant document": len(queries) - len(asked),
        "judgements of unknown queries or documents": unknown,
    }
    return Collection(
        name=name,
        queries=[queries[number] for number in asked],
        documents=list(documents.values()),
        relevant=[relevant[number] for number in asked],
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _beir(folder: Path) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, float]]]:
    files = [_only(folder, pattern) for pattern in ("corpus.jsonl*", "queries.jsonl*")]
    documents, queries = (
        _once(file, ((number, _text_of(row)) for number, row in _json_rows(file))) for file in files
    )
    tables = [
        *folder.glob("qrels/test.tsv*"),
        *folder.glob("qrels*.tsv*"),
        *folder.glob("qrels/*.tsv*"),
    ]
    if not tables:
        raise CorpusError(f"{folder} must have judgements in qrels/test.tsv; it has none.")
    judged = []
    for number, line in enumerate(_text(tables[0]).splitlines(), 1):
        fields = line.split("\t")
        if (number == 1 and fields[-1:] == ["score"]) or not line.strip():
            continue
        try:
            query, document, gain = fields
            judged.append((query, document, float(gain)))
        except ValueError as error:
            raise CorpusError(
                f"{tables[0]}, line {number}: a judgement must be a query, a document and a "
                f"number, parted by tabs; got {line[:80]!r}."
            ) from error
    return documents, queries, judged


def _text_of(row: dict[str, Any]) -> str:
    parts = (str(row.get(name) or "").strip() for name in ("title", "text"))
    return " ".join(filter(None, parts))


def _once(file: Path, rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Texts by number. Raises: `CorpusError` if two have one number."""
    found: dict[str, str] = {}
    for number, text in rows:
        if number in found:
            raise CorpusError(f"{file}: numbers must differ; two are {number!r}.")
        found[number] = text
    return found


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield str(row["_id"]), row
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorpusError(
                f"{file}, line {number}: it must be a JSON object with an `_id`; got {line[:80]!r}."
            ) from error


def _trec(folder: Path) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, float]]]:
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    judged: list[tuple[str, str, float]] = []
    for file in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        text = _text(file)
        head = text[:4096].lstrip()
        if head[:5].upper() == "<DOC>":
            documents |= _once(file, _marked(file, text))
        elif head[:4].lower() == "<top":
            queries |= _once(file, _topics(file, text))
        elif head and _JUDGEMENT.fullmatch(head.split("\n", 1)[0].strip()):
            judged += _judgements(file, text)
    for found, what in (
        (documents, "documents (<DOC> …)"),
        (queries, "topics (<top> …)"),
        (judged, "judgements (a query, 0, a document and a number a line)"),
    ):
        if not found:
            raise CorpusError(f"{folder} must have a file of {what}; it has none.")
    return documents, queries, judged


def _marked(file: Path, text: str) -> Iterator[tuple[str, str]]:
    for found in _DOCUMENT.finditer(text):
        number = _DOCNO.search(found[1])
        if number is None:
            raise CorpusError(
                f"{file}: each document must have a <DOCNO>; {found[1][:60]!r} has not."
            )
        rest = found[1][: number.start()] + found[1][number.end() :]
        yield number[1].strip(), " ".join(_TAG.sub(" ", rest).split())


def _topics(file: Path, text: str) -> Iterator[tuple[str, str]]:
    for found in _TOPIC.finditer(text):
        number, title = _NUM.search(found[1]), _TITLE.search(found[1])
        if number is None or title is None:
            raise CorpusError(
                f"{file}: each topic must have a <num> and a <title>; {found[1][:60]!r} has not."
            )
        yield number[1], " ".join(title[1].split())


def _judgements(file: Path, text: str) -> Iterator[tuple[str, str, float]]:
    for number, line in enumerate(text.splitlines(), 1):
        found = _JUDGEMENT.fullmatch(line.strip())
        if found is not None:
            yield found[1], found[2], float(found[3])
        elif line.strip():
            raise CorpusError(
                f"{file}, line {number}: a judgement must be a query, 0, a document and a number; "
                f"got {line[:80]!r}."
            )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise CorpusError(f"{folder} must have a {pattern.rstrip('*')}; it has none.")
    return found[0]


def _text(file: Path) -> str:
    with opened(file) as stream:
        raw = stream.read(_LARGEST_FILE + 1)
    if len(raw) > _LARGEST_FILE:
        raise CorpusError(f"{file} must have at most {_LARGEST_FILE:,} bytes; it has more.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} must be UTF-8; {error}.") from error
