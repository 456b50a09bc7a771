"""`bertsmith playground`: a page on this machine to play with a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertsmith import api
from bertsmith.cli.arguments import Device, Flag, RunPath


@dataclass(frozen=True, kw_only=True)
class Playground:
    """Serve a page on this machine to play with a model, and to watch a run learn."""

    run: RunPath
    """A run's folder, which may still be training, a Hugging Face folder, or hf:owner/name."""
    file: Path | None = None
    """A UTF-8 text in which places of words are looked for; without it, what the run held out."""
    port: int = 0
    """Port of the loopback interface to listen on; 0: a free one."""
    device: Device = "auto"
    """Where to compute."""
    no_browser: Flag = False
    """Do not open the page in the browser."""


def playground(command: Playground) -> None:
    """Serve until Ctrl-C."""
    api.playground(
        command.run,
        file=command.file,
        port=command.port,
        device=command.device,
        opens=not command.no_browser,
    )
