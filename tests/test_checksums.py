"""Checksums beside a model, as other people write them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith.durable import CHECKSUMS_FILE
from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import load_model
from bertsmith.training.run import Run

FORMS: dict[str, Callable[[str, str], str]] = {
    "text": lambda digest, name: f"{digest}  {name}\n",
    "binary": lambda digest, name: f"{digest} *{name}\n",
    "below this folder": lambda digest, name: f"{digest}  ./{name}\n",
    "capitals": lambda digest, name: f"{digest.upper()}  {name}\n",
    "lines of Windows": lambda digest, name: f"{digest} *{name}\r\n",
    "comments": lambda digest, name: f"# a file\n\n{digest}  {name}\n",
}


@pytest.fixture
def model(finished_run: Run, tmp_path: Path) -> Path:
    """A model with files of other tools beside it, without checksums."""
    folder = Path(shutil.copytree(finished_run.output / "model", tmp_path / "model"))
    (folder / CHECKSUMS_FILE).unlink()
    (folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "read me first.md", "größe.txt"):
        (folder / name).write_text("Mine.")
    return folder


def write_sums(folder: Path, form: Callable[[str, str], str]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        form(hashlib.sha256(path.read_bytes()).hexdigest(), str(path.relative_to(folder)))
        for path in files
    ]
    (folder / CHECKSUMS_FILE).write_bytes("".join(lines).encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_list_in_any_form_is_held_against_the_model_alone(form: str, model: Path) -> None:
    write_sums(model, FORMS[form])
    (model / "read me first.md").write_text("Changed.")
    (model / "onnx" / "model.onnx").unlink()
    load_model(model)
    config = model / "config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    with pytest.raises(ModelError, match=r"damaged: config\.json does not match its checksum"):
        load_model(model)


@pytest.mark.parametrize("text", ["", "\0" * 100, "no list\n"])
def test_what_is_no_list_is_said(text: str, model: Path) -> None:
    (model / CHECKSUMS_FILE).write_text(text)
    with pytest.raises(ModelError, match="is not a list of checksums"):
        load_model(model)
