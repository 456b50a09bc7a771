"""`bertsmith report`: one HTML file about runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bertsmith import api
from bertsmith.cli.arguments import Flag
from bertsmith.display import show, show_json
from bertsmith.errors import printable


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML file about runs: figures, curves, words for masks, text, settings."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Folders of runs, whose curves are laid over one another; they may still be training."""
    output: Path | None = None
    """The file; without it, report.html in the folder of the first run."""
    sentences: int = 6
    """Held-out sentences whose masks are filled; 0: none."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print one JSON object."""


def report(command: Report) -> None:
    """Write the page, and say where it is."""
    path = api.report(
        command.runs,
        output=command.output,
        sentences=command.sentences,
        quiet=command.quiet or command.json,
    )
    if command.json:
        show_json({"file": str(path)})
        return
    show(f"{printable(str(path))}: {path.stat().st_size / 1e6:.1f} MB; it needs no network")
