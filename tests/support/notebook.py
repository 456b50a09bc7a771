"""The tutorial as a notebook: `make notebook` writes and executes docs/chapter.ipynb.

Text becomes Markdown cells. Of Python that is shown with its prompts every statement with an output
ends a cell; Python without prompts is a cell where it is marked `python notebook`, and text where
not. So the tutorial and the notebook have the same code. A folder of WikiText-2 can be named as the
one argument; by default it is downloaded.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertsmith.corpus.cache import cache_folder

FOLDER = Path(__file__).parents[2] / "docs"
TUTORIAL, NOTEBOOK = FOLDER / "tutorial.md", FOLDER / "chapter.ipynb"
_BLOCK = re.compile(r"^```(python(?: notebook)?)\n(.*?)^```\n", re.M | re.S)
_FIRST = """\
import warnings

warnings.simplefilter("ignore")
get_ipython().display_formatter.formatters["text/plain"].pprint = False  # as at a prompt"""


def cells_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind ("markdown" or "code"), source, and the output that is shown, of each cell."""
    place = 0
    for block in _BLOCK.finditer(text):
        if block[1] == "python" and not block[2].startswith(">>>"):
            continue
        if before := text[place : block.start()].strip():
            yield "markdown", before, ""
        place = block.end()
        if block[1] == "python notebook":
            yield "code", block[2].strip(), ""
        else:
            yield from _with_prompts(block[2])
    yield "markdown", text[place:].strip(), ""


def _with_prompts(block: str) -> Iterator[tuple[str, str, str]]:
    code: list[str] = []
    output: list[str] = []
    for line in block.splitlines():
        if line.startswith((">>>", "...")):
            if line.startswith(">>>") and output:
                yield "code", "\n".join(code), "\n".join(output)
                code, output = [], []
            code.append(line[4:])
        else:
            output.append(line)
    yield "code", "\n".join(code), "\n".join(output)


def notebook() -> Any:
    """The notebook, not executed."""
    import nbformat.v4 as v4

    made = [v4.new_code_cell(_FIRST, id="warnings", metadata={"jupyter": {"source_hidden": True}})]
    for number, (kind, source, _) in enumerate(cells_of(TUTORIAL.read_text(encoding="utf-8"))):
        name = f"cell-{number}"
        if kind == "markdown":
            made.append(v4.new_markdown_cell(source, id=name))
        else:
            made.append(v4.new_code_cell(source, id=name))
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return v4.new_notebook(cells=made, metadata=about)


def executed(corpus: str | None) -> Any:
    """The notebook with its outputs.

    Args:
        corpus: a folder that stands for the name wikitext-2; None: it is downloaded.
    """
    import nbclient
    import nbformat

    made = notebook()
    if corpus is not None:  # for this execution alone
        for cell in made.cells:
            cell.source = cell.source.replace('"wikitext-2"', repr(corpus))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    with tempfile.TemporaryDirectory() as folder:  # runs are made there
        where = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(made, timeout=900, kernel_name="python3", resources=where)
        client.execute()
    for cell, plain in zip(made.cells, notebook().cells, strict=True):
        cell.source = plain.source
        cell.metadata = plain.metadata
    # Where this machine keeps prepared texts is nobody's concern.
    return nbformat.reads(
        nbformat.writes(made).replace(str(cache_folder()), "~/.cache/bertsmith"), as_version=4
    )


if __name__ == "__main__":
    import nbformat

    found = executed(sys.argv[1] if len(sys.argv) > 1 else None)
    nbformat.write(found, NOTEBOOK)
    print(f"{NOTEBOOK}: {len(found.cells)} cells")
