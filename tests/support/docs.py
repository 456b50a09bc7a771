"""The pages of the documentation, and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each command that a page shows in a block, indented or fenced."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        found = re.match(r"\s*(?:\$ |#)?\s*(?:\S+/)?bertsmith (?=[a-z])(.*)", line)
        if found and (line.startswith((" ", "$", "bertsmith", ".venv"))):
            yield shlex.split(found[1], comments=True)
