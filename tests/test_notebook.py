"""In a notebook the curves are drawn in place: one output, updated; the closing lines follow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.support.notebook import NOTEBOOK, TUTORIAL, cells_of, executed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_plot_updates_in_place(text_file: Path, tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import bertsmith\n"
        "from bertsmith.training import observers\n"
        "assert observers._SECONDS_BETWEEN_PICTURES and observers._PICTURE_SHARE\n"
        "observers._SECONDS_BETWEEN_PICTURES = observers._PICTURE_SHARE = 0.5\n"
        f"run = bertsmith.pretrain({str(text_file)!r}, output={str(tmp_path / 'r')!r}, "
        "hidden_size=16, intermediate_size=32, max_length=24, batch_size=16, min_frequency=2, "
        "minutes=0.1, device='cpu')\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    kinds: list[str] = []
    client = nbclient.NotebookClient(notebook, timeout=120)
    plain = client.process_message

    def watch(msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if "image/png" in msg["content"].get("data", {}):
            kinds.append(msg["msg_type"])
        return plain(msg, cell, cell_index)

    client.process_message = watch  # type: ignore[method-assign]
    client.execute()
    pictures = [
        output for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
    bars = [
        html
        for output in notebook.cells[0].outputs
        if "<progress" in (html := output.get("data", {}).get("text/html", ""))
    ]
    assert len(bars) == 1
    assert 'value="1.0000"' in bars[0]
    said = "".join(
        output.text for output in notebook.cells[0].outputs if output.get("name") == "stdout"
    )
    assert said.startswith("MLM loss ")
    assert f"metrics: {tmp_path / 'r'}/metrics.jsonl" in said
    assert kinds.count("display_data") == 1
    assert kinds.count("update_display_data") >= 2


def test_the_notebook_is_the_tutorial() -> None:
    """Its cells are made of the page, and its outputs are those that the page shows."""
    made = cells_of(TUTORIAL.read_text(encoding="utf-8"))
    kept = nbformat.read(NOTEBOOK, as_version=4).cells[1:]
    for cell, (kind, source, shown) in zip(kept, made, strict=True):
        assert (cell.cell_type, cell.source) == (kind, source), "run: make notebook"
        if shown:
            assert text_of(cell) == shown, source
    assert NOTEBOOK.stat().st_size < 200_000
    pictures = [
        o for cell in kept for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})
    ]
    assert pictures


def text_of(cell: Any) -> str:
    """What a cell printed and gave."""
    parts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    ]
    return "".join(parts).strip()


@pytest.mark.slow
def test_the_notebook_runs(wikitext: Path) -> None:
    """Executed anew it gives what is kept, but for times."""
    kept = nbformat.read(NOTEBOOK, as_version=4).cells
    for cell, before in zip(executed(str(wikitext)).cells, kept, strict=True):
        if cell.cell_type == "code" and not re.search(r"train_bert\(model|pretrain\(", cell.source):
            assert text_of(cell) == text_of(before), cell.source
