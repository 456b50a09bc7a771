"""What the site has beside the pages of this folder: made from the README, the code, the settings.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml names this file under `hooks`).
"""

from __future__ import annotations

import itertools
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
"""Of Markdown: whether it is a picture, the text, the path, and the place in the page."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    made = {
        "index.md": _index(),
        "reference/commands.md": _commands(),
        "reference/python.md": _python(),
        "reference/settings.md": _settings(),
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to files that are not of the site be their text alone."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        inside = posixpath.normpath(posixpath.join(folder, found[3]))
        return found[0] if files.get_file_from_path(inside) is not None else found[2]

    return _LINK.sub(link, markdown)


def _index() -> str:
    """The README, as a page of the folder docs."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.relpath(found[3], "docs") + (found[4] or "")
        return f"{found[1]}[{found[2]}]({target})"

    return _LINK.sub(link, (ROOT / "README.md").read_text(encoding="utf-8"))


def _commands() -> str:
    """What each command's --help says."""
    from bertsmith.cli.main import _COMMANDS

    parts = ["# Commands", "", "What `--help` says of each, at its defaults."]
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    for name in _COMMANDS:
        command = [sys.executable, "-m", "bertsmith", name, "--help"]
        done = subprocess.run(  # noqa: S603 (of this package)
            command, capture_output=True, text=True, check=True, env=environment
        )
        parts += ["", f"## bertsmith {name}", "", "```text", done.stdout.strip(), "```"]
    return "\n".join(parts)


def _python() -> str:
    import bertsmith

    parts = ["# Python", "", "What `import bertsmith` gives.", ""]
    functions = [name for name in bertsmith.__all__ if name[0].islower()]
    classes = [name for name in bertsmith.__all__ if name[0].isupper()]
    kept = [name for name in classes if not name.endswith(("Settings", "Config"))]
    return "\n".join([*parts, *(f"::: bertsmith.{name}\n" for name in (*functions, *kept))])


def _settings() -> str:
    """Every setting, its default and what it means."""
    import ast
    import inspect

    from bertsmith import config

    parts = [
        "# Settings",
        "",
        "A flag is `--` and the name with dashes; in Python and TOML the name.",
    ]
    for cls in (
        config.PreparationConfig,
        config.DataConfig,
        config.BertConfig,
        config.ModernBertConfig,
        config.TrainingConfig,
        config.LabelledConfig,
        config.FinetuneConfig,
        config.SimilarityConfig,
        config.ProbeConfig,
    ):
        about = (inspect.getdoc(cls) or "").splitlines()[0]
        parts += [
            "",
            f"## {cls.__name__}",
            "",
            about,
            "",
            "| setting | default | |",
            "|---|---|---|",
        ]
        texts: dict[str, str] = {}
        for owner in reversed(cls.__mro__[:-1]):
            body = ast.parse(inspect.getsource(owner)).body[0].body  # type: ignore[attr-defined]
            for field, text in itertools.pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
        usual = cls()
        for name, text in texts.items():
            default = getattr(usual, name, None)
            parts.append(f"| `{name}` | {_cell(default)} | {text.replace('|', '¦')} |")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    return "–" if value is None or value == () else f"`{value}`"
