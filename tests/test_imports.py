"""The rooms of the project stand one above the other, and the entrance is light."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bertsmith
from bertsmith.cli.main import _COMMANDS

PACKAGE = Path(bertsmith.__file__).parent
TESTS = Path(__file__).parent

ROWS = (
    "errors extras streams durable display processes ranks random_bits batch config corpus "
    "tokenizer hardware nn rows architectures objectives saved data preparation evaluation "
    "reporting training finetuning inference probing vectors exporting pages api <root> cli"
).split()
"""From the lowest to the highest: a module imports only from rows above it in this list.
`<root>` is what `import bertsmith` gives."""


def imported_rows(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("bertsmith.")}
        found |= {"<root>" for name in names if name == "bertsmith"}
    return found


def row_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_modules_import_only_from_lower_rows() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        row = row_of(path)
        if row in ("__init__", "__main__"):
            continue
        for used in imported_rows(path):
            if ROWS.index(used) > ROWS.index(row):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {used}")
    assert not wrong


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name} has {length} lines"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert not long


def test_every_room_is_in_the_list() -> None:
    rooms = {row_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(ROWS) - {"<root>"}


def test_test_modules_share_by_support_and_fixtures() -> None:
    """No module of tests imports a test module or a conftest."""
    modules = {"conftest", *(path.stem for path in TESTS.rglob("test_*.py"))}
    wrong = []
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for part in {part for name in names for part in name.split(".")} & modules:
                wrong.append(f"{path.relative_to(TESTS)} imports {part}")
    assert not wrong


def test_importing_and_help_load_no_heavy_library() -> None:
    code = (
        "import sys, bertsmith\n"
        "from bertsmith.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'matplotlib', 'pyarrow', 'upath', 'sklearn'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


def test_every_public_name_is_there() -> None:
    assert {name for name in bertsmith.__all__ if not hasattr(bertsmith, name)} == set()
    assert set(bertsmith.__all__) <= set(dir(bertsmith))
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        bertsmith.pretrian  # type: ignore[attr-defined]  # noqa: B018


def test_what_public_functions_take_and_return_is_public() -> None:
    named = set()
    for name in bertsmith.__all__:
        function = getattr(bertsmith, name)
        if inspect.isfunction(function):
            assert inspect.getdoc(function)
            named |= set(re.findall(r"\b[A-Z]\w+", " ".join(function.__annotations__.values())))
    assert {"Run", "Estimate", "Ranked", "PretrainSettings"} <= named
    others = {"Any", "Iterable", "Literal", "None", "Path", "Sequence", "Unpack"}
    assert named - others <= set(bertsmith.__all__)


def test_the_command_line_and_python_have_the_same_verbs() -> None:
    of_a_model = {"encode": "encode", "fill": "fill", "next": "next_sentence"}
    for verb in _COMMANDS:
        if verb in of_a_model:
            assert callable(getattr(bertsmith.PretrainedModel, of_a_model[verb]))
        else:
            assert inspect.isfunction(getattr(bertsmith, verb))
