"""The documents name commands and flags that there are, and the site is built of them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertsmith.cli.main import _COMMANDS, main
from tests.support.docs import PAGES, ROOT, commands_in


def test_commands_and_flags_that_pages_show_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, set[str]] = {}
    for name in _COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        flags[name] = {*re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out)}
    wrong, count = [], 0
    for path in PAGES:
        for name, *words in commands_in(path.read_text(encoding="utf-8")):
            count += 1
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            if name not in flags or given - flags[name]:
                wrong.append(f"{path.relative_to(ROOT)}: bertsmith {name} {sorted(given)}")
    assert not wrong
    assert count > 60


def messages_in(tree: ast.AST) -> Iterator[str]:
    """The texts in a module, … in the place of what is put into them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_of_the_troubleshooting_page_are_there() -> None:
    said = [
        message
        for path in sorted((ROOT / "bertsmith").rglob("*.py"))
        for message in messages_in(ast.parse(path.read_text(encoding="utf-8")))
    ]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    page, _, _ = page.partition("## Results that surprise")
    shown = re.findall(r"^\| (?!message \|)(.*?) \| .* \|$", page, re.M)
    assert len(shown) > 40
    missing = []
    for row in shown:
        pattern = re.compile(".*".join(map(re.escape, row.split("…"))), re.S)
        if not any(pattern.search(message) for message in said):
            missing.append(row)
    assert not missing


def test_no_page_has_a_gap_to_fill() -> None:
    for path in PAGES:
        gaps = re.findall(r"^@[A-Z]+@$|\bTODO\b|\bTBD\b", path.read_text("utf-8"), re.M)
        assert not gaps, f"{path.name}: {gaps}"


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for path in PAGES:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for target, anchor in re.findall(r"\]\((?!https?:)([^)\s#]*)(#[^)\s]*)?\)", text):
            where = path.parent / target if target else path
            if not where.exists():
                wrong.append(f"{path.name}: {target}")
            elif anchor and where.suffix == ".md":
                names = re.findall(r"^#+ (.*)$", where.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}
                if anchor[1:] not in slugs:
                    wrong.append(f"{path.name}: {target}{anchor}")
    assert not wrong


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "muon_learning_rate" in settings
    assert "bertsmith playground" in (tmp_path / "reference" / "commands.html").read_text("utf-8")
    assert not re.search(r'src="https?://', (tmp_path / "index.html").read_text("utf-8"))
