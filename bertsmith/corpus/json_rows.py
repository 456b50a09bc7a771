"""Rows of JSON: one object a line, or objects one after the other, in an array or not."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from bertsmith.corpus.kinds import Source
from bertsmith.corpus.lines import LONGEST_LINE, BadLineError, Range, decode, raw_lines
from bertsmith.corpus.opened import opened
from bertsmith.corpus.tables import Record
from bertsmith.errors import CorpusError

_BLOCK_BYTES = 2**20
_BETWEEN = re.compile(r"[\s,\[\]]*")  # objects in an array, or outside of one


def rows_of_lines(source: Source, part: Range | None) -> Iterator[Record]:
    """A row for each line that is not empty."""
    lines = raw_lines(source.file, part, cr=source.ends_lines_with_cr)
    for number, (place, raw) in enumerate(lines, start=1):
        if raw.isspace():
            continue
        try:
            found = json.loads(decode(raw, place))
        except BadLineError as bad:
            yield Record(number, {}, bad.reason)
        except (ValueError, RecursionError):
            yield Record(number, {}, "not JSON")
        else:
            yield _record(number, found)


def rows_of_objects(source: Source) -> Iterator[Record]:
    """A row for each object of a file, which is held in memory alone.

    Raises:
        CorpusError: something is no JSON, which leaves no way to find the next object.
    """
    return itertools.starmap(_record, enumerate(_objects(source), start=1))


def _record(number: int, found: Any) -> Record:
    if isinstance(found, dict):
        return Record(number, found)
    return Record(number, {}, "not a JSON object")


def _objects(source: Source) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    # Bytes that are no UTF-8 become halves of surrogate pairs: their rows alone are left out.
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    text = ""
    wanted = _BLOCK_BYTES
    has_ended = False
    with opened(source.file) as stream:
        while not has_ended:
            raw = stream.read(wanted)
            has_ended = not raw
            text = (text + utf8.decode(raw, final=has_ended)).removeprefix("\ufeff")
            place = 0
            while (place := _BETWEEN.match(text, place).end()) < len(text):  # type: ignore[union-attr]
                try:
                    found, place = decoder.raw_decode(text, place)
                except (ValueError, RecursionError) as error:
                    if has_ended or isinstance(error, RecursionError):
                        raise CorpusError(_not_json(source, text[place:])) from error
                    break
                yield found
            text = text[place:]
            if len(text) > LONGEST_LINE:
                raise CorpusError(_not_json(source, text))
            wanted = max(_BLOCK_BYTES, len(text))  # so that what is long is not tried over and over


def _not_json(source: Source, rest: str) -> str:
    return (
        f"{source.file} must hold JSON lines or one array of objects, each of at most "
        f"{LONGEST_LINE} bytes; where {rest[:40]!r} begins it does not. Write its rows one a line, "
        "as with: jq -c '.[]'."
    )
