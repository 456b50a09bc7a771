"""The commands and snippets that the pages show are run, on stand-ins of small size."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config.presets import PRESETS
from tests.support.docs import PAGES, ROOT, commands_in
from tests.support.hub import hub, redirect
from tests.support.runs import blank
from tests.support.texts import make_documents, pack, write_text

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 400,
}
SHOWN = """He sat on the bank of the river. The bank lent money to the company.
A crane is flying. A crane driver came. He just left. The birds return in the spring.
Water flows from the spring. The film was released in 1999. It was the first game of the season.
It received positive reviews from critics. The species is found in southern Africa.
The most common symptoms are fever and pain. What causes asthma? Aspirin caused a severe headache.
An object that is called is found.
"""
NOT_RUN = {"playground"}  # serves until it is ended: tests/test_playground.py


def _tables(folder: Path) -> None:
    """Every file and folder of labels that a page names."""
    texts = [line.strip() for line in SHOWN.replace(".", ".\n").splitlines() if line.strip()] * 4
    rows = "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(texts))
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("sentence\tlabel\n" + rows)
    tagged = "\n".join("Aspirin\tB-Chemical\ncaused\tO\npain\tB-Disease\n" for _ in range(20))
    (folder / "bc5cdr").mkdir()
    for name in ("train.tsv", "devel.tsv"):
        (folder / "bc5cdr" / name).write_text(tagged)
    (folder / "blimp/data").mkdir(parents=True)
    pair = {"sentence_good": "A crane is flying.", "sentence_bad": "A crane are flying."}
    (folder / "blimp/data/agreement.jsonl").write_text(json.dumps(pair) + "\n")
    answered = "".join(
        json.dumps({"id": str(n), "question": f"What of number {n}?", "answer": text}) + "\n"
        for n, text in enumerate(texts * 4)
    )
    (folder / "medquad").mkdir()
    for name in ("train", "validation"):
        (folder / f"medquad/{name}.jsonl.gz").write_bytes(pack(answered.encode(), ".gz"))
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_text(answered)


def _texts(folder: Path) -> None:
    """Every text that a page names."""
    text = write_text(folder / "notes.txt", make_documents()).read_text() + "\n" + SHOWN * 8
    for name in ("notes.txt", "letters.txt", "journals.txt", "texts.txt", "wiki.train.tokens"):
        (folder / name).write_text(text)
    for name in ("letters", "my-texts", "wikitext-2", "python-docs"):
        (folder / name).mkdir()
        (folder / name / "text.txt").write_text(text)
    for name, ending in (("train_10M", "train"), ("dev", "dev")):
        (folder / "babylm" / name).mkdir(parents=True)
        (folder / "babylm" / name / f"bnc_spoken.{ending}").write_text(text)
    (folder / "dumps").mkdir()
    rows = "".join(json.dumps({"text": part}) + "\n" for part in text.split("\n\n"))
    (folder / "dumps" / "a.jsonl.zst").write_bytes(pack(rows.encode(), ".zst"))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages take as given."""
    folder = tmp_path_factory.mktemp("stand-ins")
    _texts(folder)
    _tables(folder)
    text = folder / "letters"
    common: dict[str, Any] = {**SMALL, "max_length": 64, "batch_size": 8, "quiet": True}
    bertsmith.prepare(text, tokenizer="wordpiece", vocab_size=400, output=folder / "store")
    words: dict[str, Any] = {"tokenizer": "wordpiece", "pairing": "filled", "validate_every": 1}
    bertsmith.pretrain(text, **common, **words, steps=2, output=folder / "run")
    bertsmith.pretrain(text, **common, preset="modern-tiny", steps=2, output=folder / "modern")
    shutil.copytree(folder / "run" / "model", folder / "path" / "to" / "bert")
    return folder


@pytest.fixture
def place(
    stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Where commands are run; the function puts there what a page takes for made already."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("bertsmith.reporting.curves.draw_curves", blank)
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, {**PRESETS[name], **SMALL})

    def put(name: str) -> None:
        kind, path = name.split("/")[0], Path(*name.split("/")[:2])
        if kind == "stores" and not path.exists():
            shutil.copytree("store", path)
        elif kind == "runs" and not path.exists():
            shutil.copytree("run", path)

    with hub() as served:
        served.models["answerdotai/ModernBERT-base"] = stand_ins / "modern" / "model"
        redirect(monkeypatch, served, tmp_path / "hub")
        yield put


def smaller(words: list[str]) -> list[str]:
    """The same command for a text and a network of no size."""
    found = [re.sub(r"(?<=step-)\d+", lambda n: f"{int(n[0]) // 10_000:08d}", w) for w in words]
    for place, word in enumerate(found[:-1]):
        value = found[place + 1]
        if word in ("--steps", "--keep-every"):
            found[place + 1] = str(max(int(value) // 10_000, 2))
        elif word == "--epochs":
            found[place + 1] = "1"
        elif word == "--batch-size":
            found[place + 1] = str(min(int(value), 8))
        elif word == "--minutes":
            found[place : place + 2] = ["--steps", "2"]
    if found[0] == "pretrain" and not {"--steps", "--resume", "--epochs"} & set(found):
        found += ["--steps", "2"]
    if found[0] == "pretrain" and not {"--resume", "--batch-size"} & set(found):
        found += ["--batch-size", "8"]
    return found


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if [*commands_in(page.read_text(encoding="utf-8"))]],
    ids=lambda page: page.stem,
)
def test_commands_of_a_page_run_in_their_order(
    page: Path, place: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for shown in commands_in(page.read_text(encoding="utf-8")):
        words = smaller(shown)
        if words[0] in NOT_RUN:
            continue
        output = Path(words[words.index("--output") + 1]) if "--output" in words else None
        goes_on = "--resume" in words and "--corpus" not in words
        if output and output.exists() and not goes_on:
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        for word in words:
            if word.startswith(("runs/", "stores/")) and (goes_on or Path(word) != output):
                place(word)
        with pytest.raises(SystemExit) as left:
            main(words)
        printed = capsys.readouterr()
        assert left.value.code == 0, f"bertsmith {' '.join(words)}: {printed.err[-2000:]}"
        assert output is None or output.exists()


SNIPPETS = [
    (path, number, block)
    for path in PAGES
    if path.stem not in ("extending", "tutorial")  # test_extending.py, test_notebook.py
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    )
]


@pytest.mark.parametrize("page", sorted({path for path, _, _ in SNIPPETS}), ids=lambda p: p.stem)
def test_snippets_of_a_page_run(page: Path, place: Callable[[str], None]) -> None:
    if page.stem == "using":
        pytest.importorskip("sentence_transformers")
        for words in ("sentiment", "tags", "health-vectors"):
            _make(words, place)
    place("stores/mine")
    found: dict[str, object] = {}
    for path, _, block in SNIPPETS:
        if path == page:
            code = re.sub(r"^>>> ", "", block, flags=re.M)
            code = re.sub(r"\bsteps=\d+|\bminutes=\d+", "steps=2", code)
            exec(compile(code, path.name, "exec"), found)


def _make(name: str, place: Callable[[str], None]) -> None:
    """A fine-tuned model, by the command of using.md."""
    text = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    words = next(w for w in commands_in(text) if w[0] == "finetune" and w[-1] == f"runs/{name}")
    place(words[1])
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--quiet", "--epochs", "1"])
