"""The documentation inside the running Python: prose that every machine has, without a network.

Two sources: the topics of the language reference that `help()` shows (`pydoc_data.topics`), and the
docstrings of the standard library, read from its source files without importing them. What is not
prose (grammar rules, code, tables, section underlines, signatures) is left out and counted.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bertsmith.corpus.document import Corpus, Document, Part
from bertsmith.corpus.sentences import split_sentences
from bertsmith.errors import CorpusError

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

_MARKUP = (
    (re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`"), r"\1"),  # :func:`~name <target>`
    (re.compile(r"``?([^`]*)``?"), r"\1"),  # ``code`` and `name`
    (re.compile(r"\*\*?([^*\s](?:[^*]*[^*\s])?)\*\*?"), r"\1"),  # *emphasis*, **strong**
    (re.compile(r"\[\d+\]_?"), ""),  # footnote references
    (re.compile(r"\s+"), " "),
)
_BULLET = re.compile(r"(?:[-*•+]|\(?(?:\d{1,2}|[a-z])[.)])\s+")
_CODE = re.compile(r"^\s*(?:>>>|\.\.\. |\.\. |@|\$ |#|:[a-z]+ |\|)|::=", re.MULTILINE)
_RULE = re.compile(r"^\s*([^\w\s])\1{2,}\s*$", re.MULTILINE)
_WORD = re.compile(r"[(\"'“]*[A-Za-z][A-Za-z'’-]*[.,;:!?)\"'”]*")
_SENTENCE = re.compile(r"[\"'“(]*[A-Za-z].*[.!?][\"'”)]*")


def open_python_docs() -> Corpus:
    """The corpus `python-docs`: one split, `train`."""
    return Corpus(
        name="python-docs",
        pretokenized=False,
        splits=("train",),
        find_parts=lambda: [Part(_read)],
        content=(_digest,),
    )


def _read(left_out: Counter[str]) -> Iterator[Document]:
    documents, skipped = _read_all()
    left_out.update(skipped)
    yield from documents


def _digest() -> str:
    digest = hashlib.sha256()
    for path in _files():
        if path.is_file():
            digest.update(path.read_bytes())
    return f"python-docs {digest.hexdigest()}"


@cache
def _read_all() -> tuple[list[Document], Counter[str]]:
    """All documents and the counts of what was left out; parsing the library takes seconds."""
    left_out: Counter[str] = Counter()
    found = (list(prose(text, left_out)) for text in _texts())
    documents = [document for document in found if document]
    if not documents:
        raise CorpusError("This Python holds no documentation; name a text file with --corpus.")
    return documents, left_out


def _texts() -> Iterator[str]:
    """A text for each topic of the language reference and for each module of the library."""
    topics, *modules = _files()
    if topics.is_file():
        for node in ast.walk(ast.parse(topics.read_bytes())):
            if isinstance(node, ast.Dict):
                yield from (
                    value.value
                    for value in node.values
                    if isinstance(value, ast.Constant) and isinstance(value.value, str)
                )
    for path in modules:
        yield "\n\n".join(_docstrings(path))


def _files() -> list[Path]:
    """The file of topics, and the source files of the library."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    topics = stdlib / "pydoc_data" / "topics.py"
    return [
        topics,
        *(
            path
            for path in sorted(stdlib.rglob("*.py"))
            if path != topics and not _SKIPPED_FOLDERS.intersection(path.relative_to(stdlib).parts)
        ),
    ]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # files that are templates or for other versions
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def prose(text: str, left_out: Counter[str]) -> Iterator[list[str]]:
    """The paragraphs of running text in a reStructuredText-like `text`, each a list of sentences.

    Args:
        text: blocks parted by empty lines.
        left_out: counts blocks of code and sentences that are not prose, by reason.
    """
    code_indent: int | None = None  # of the block that announced code by a double colon
    for block in re.split(r"\n\s*\n", textwrap.dedent(text.expandtabs())):
        block = block.strip("\n")
        if not block.strip():
            continue
        indent = len(block) - len(block.lstrip())
        if code_indent is not None and indent > code_indent:
            left_out["blocks of code"] += 1
            continue
        code_indent = indent if block.rstrip().endswith("::") else None
        if _CODE.search(block):
            left_out["blocks of code"] += 1
        elif _RULE.search(block):
            left_out["headings"] += 1
        else:
            for item in _items(block):
                yield from _paragraphs(item, left_out)


def _items(block: str) -> list[str]:
    """A block as it stands, or its list items one by one."""
    items: list[list[str]] = [[]]
    for line in block.splitlines():
        stripped = line.strip()
        if bullet := _BULLET.match(stripped):
            items.append([stripped[bullet.end() :]])
        else:
            items[-1].append(stripped)
    return [" ".join(lines) for lines in items if lines]


def _paragraphs(text: str, left_out: Counter[str]) -> Iterator[list[str]]:
    """Runs of neighbouring sentences; one that is not prose ends a run, so neighbours stay true."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    run: list[str] = []
    for sentence in split_sentences(text.strip(), "en"):
        if _is_prose(sentence):
            run.append(sentence)
            continue
        left_out["sentences that are not prose"] += 1
        if run:
            yield run
        run = []
    if run:
        yield run


def _is_prose(sentence: str) -> bool:
    """Whether it begins and ends as a sentence does and two thirds of it are plain words."""
    words = sentence.split()
    plain = sum(_WORD.fullmatch(word) is not None for word in words)
    return len(words) >= 3 and bool(_SENTENCE.fullmatch(sentence)) and 3 * plain >= 2 * len(words)
