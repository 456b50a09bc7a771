"""`bertsmith branch`: a second run from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bertsmith import api
from bertsmith.config import resolve, settings_of_run
from bertsmith.display import show

_Path = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Make a second run from a checkpoint; `pretrain --resume` goes on with it to another end."""

    run: _Path
    """A run's folder, or one of its checkpoints."""
    output: Path
    """The folder of the new run."""


def branch(command: Branch) -> None:
    """Copy, and say how to go on."""
    step = api.branch(command.run, command.output)
    config = resolve(file=settings_of_run(command.output))
    budget = "" if config.lays_out_batches else " --steps …"
    show(
        f"{command.output} has step {step:,} of {command.run}. "
        f"Go on with: bertsmith pretrain --resume --output {command.output}{budget}"
    )
