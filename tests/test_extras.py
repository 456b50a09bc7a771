"""What works without the libraries that extras install, and what is said of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bertsmith import extras
from bertsmith.errors import MissingExtraError
from tests.support.runs import TINY_RUN

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

OPTIONAL = [*(module for modules in extras.EXTRAS.values() for module in modules)]

WITHOUT = f"""
import json, sys, warnings
# As if they were not installed: they are neither found nor imported.
sys.modules.update(dict.fromkeys({[*OPTIONAL, "aiohttp", "pandas", "s3fs", "transformers"]}))
from pathlib import Path
import bertsmith
text, table, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
tiny = json.loads(sys.argv[4])
run = bertsmith.pretrain(text, output=folder / "run", steps=4, quiet=True, **tiny)
model = bertsmith.load(run.output)
found = {{
    "curves": [path.name for path in run.output.glob("curves.*")],
    "encoded": len(model.encode("the crane lifts").tokens) > 0,
    "filled": bool(model.fill("the [MASK] lifts")),
    "evaluated": bertsmith.evaluate(run.output).figures["mlm_loss"] is not None,
    "said": [],
}}
for command in (
    lambda: bertsmith.finetune(run.output, train=table, validation=table, output=folder / "tuned"),
    lambda: bertsmith.probe(run.output, train=table),
    lambda: bertsmith.prepare(text, output=folder / "near", deduplicate="near"),
    lambda: bertsmith.prepare(text, output=folder / "ray", engine="ray"),
    lambda: bertsmith.prepare("hf:owner/name", output=folder / "hub"),
):
    try:
        command()
    except bertsmith.BertsmithError as error:
        found["said"].append(str(error))
print(json.dumps(found))
"""


def test_pretraining_and_its_model_need_no_extra(text_file: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("text\tlabel\n" + "the crane lifts\t1\nthe bird flies\t0\n" * 9)
    arguments = [str(text_file), str(table), str(tmp_path), json.dumps(TINY_RUN)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [line.partition("the extra `")[2].partition("`")[0] for line in found.pop("said")]
    assert names == ["finetune", "finetune", "dedup", "ray", "datasets"]
    assert found == {"curves": [], "encoded": True, "filled": True, "evaluated": True}
    assert done.stderr.count("No curves are drawn") == 1


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    assert set(extras.EXTRAS) <= set(known)
    listed = known["all"][0].removeprefix("bertsmith[").removesuffix("]").split(",")
    assert sorted(listed) == sorted(set(known) - {"all", "dev", "docs"})


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("finetune", "Fine-tuning")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"Fine-tuning needs the extra `finetune`, .*: pip install 'bertsmith\[finetune\]'\."
    with pytest.raises(MissingExtraError, match=message):
        extras.require("finetune", "Fine-tuning")
