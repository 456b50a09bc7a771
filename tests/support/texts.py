"""Texts of few words, and files of them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from bertsmith.corpus import Document
from bertsmith.tokenizer import Spelling

WORDS = (
    "the crane lifts a beam over old river while driver waits near small house and bird flies "
    "north with grey wings before winter comes to quiet hills where children play every day"
).split()

SPACED = Spelling(pretokenized=True)
"""Of texts whose words are parted from punctuation by spaces."""


def make_documents(num_documents: int = 40, seed: int = 0) -> list[Document]:
    """Documents of 3 paragraphs of 1 to 4 sentences of 2 to 14 words."""
    draw = random.Random(seed)

    def sentence() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 14)))

    return [
        [[sentence() for _ in range(draw.randint(1, 4))] for _ in range(3)]
        for _ in range(num_documents)
    ]


def write_text(path: Path, documents: list[Document]) -> Path:
    """As a text file: a paragraph a line, an empty line between documents."""
    texts = (
        "\n".join(" ".join(f"{s.capitalize()}." for s in paragraph) for paragraph in document)
        for document in documents
    )
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def sentences_of(documents: list[Document]) -> list[str]:
    return list(itertools.chain.from_iterable(itertools.chain.from_iterable(documents)))


def pack(content: bytes, kind: str) -> bytes:
    """Compressed as the ending says; as it is for an empty one."""
    if kind == ".zst":
        return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    return packers[kind](content) if kind else content


ROWS = ["One is here. Two is there.\nThree.", 'Four, "quoted"\tand parted!', "Five."]
TSV_ROWS = [(0, 'One is "here". Two is there.'), (1, '"Four, quoted!'), (2, '"Five" and five.')]


def table(kind: str) -> bytes:
    """`ROWS` (for .tsv: `TSV_ROWS`) in the column "text", beside a column "id"."""
    if kind == ".jsonl":
        return "\n".join(json.dumps({"id": 1, "text": row}) for row in ROWS).encode()
    if kind == ".parquet":
        stream = pyarrow.BufferOutputStream()
        columns = {"text": ROWS, "id": [1, 2, 3]}
        pyarrow.parquet.write_table(pyarrow.table(columns), stream, row_group_size=2)
        return bytes(stream.getvalue().to_pybytes())
    text = io.StringIO()
    if kind == ".tsv":
        text.writelines(f"{number}\t{row}\r\n" for number, row in [("id", "text"), *TSV_ROWS])
    else:
        csv.writer(text).writerow(["id", "text"])
        csv.writer(text).writerows(enumerate(ROWS))
    return text.getvalue().encode("utf-8-sig")
