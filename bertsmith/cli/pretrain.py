"""`bertsmith pretrain`: flags over a preset, a recipe and a config file, into one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bertsmith.api import closing_text
from bertsmith.cli.arguments import Flag
from bertsmith.cli.settings import Settings
from bertsmith.config import PretrainConfig, recommended_preset
from bertsmith.display import Display, show, show_json
from bertsmith.ranks import rank
from bertsmith.training.settings import Layers


@dataclass(frozen=True, kw_only=True)
class Pretrain(Settings):
    """Pretrain a BERT on a text and leave a run's folder with the model, curves and metrics."""

    config: Path | None = None
    """A TOML file of settings, such as another run's config.toml; flags go over it."""
    output: Path | None = None
    """The run's folder; without it, a fresh one under runs/."""
    overwrite: Flag = False
    """Replace the run that is in the output folder."""
    resume: Flag = False
    """Go on with the run in the output folder; where there is none, begin it with --corpus."""
    json: Flag = False
    """Print the closing figures as one JSON object in the last line of standard output."""
    quiet: Flag = False
    """Show no progress."""
    profile: Flag = False
    """Show at the end where the time of a step went."""


def run(command: Pretrain, layers: Layers, asked: Mapping[str, Any]) -> None:
    """Pretrain, and print the closing lines."""
    from bertsmith.training.pretrain import run_pretraining

    config = layers.resolve(asked)
    takes_default = layers.preset is None and layers.file is None and not layers.given
    shape = ("architecture", *(field.name for field in fields(config.model)))
    has_shape = layers.architecture or any(asked.get(name) is not None for name in shape)
    if takes_default and not has_shape and (minutes := asked.get("minutes")):
        _recommend(minutes, config, Display(quiet=command.quiet, is_silent=rank() > 0))
    finished = run_pretraining(
        config,
        output=command.output,
        overwrite=command.overwrite,
        resume=command.resume,
        quiet=command.quiet,
        profile=command.profile,
    )
    if rank():
        return  # the first one says it for all
    show(closing_text(finished))
    if command.json:
        show_json(finished.metrics)


def _recommend(minutes: float, config: PretrainConfig, display: Display) -> None:
    """Say which preset has the lowest loss after that time, if another one is the default."""
    from bertsmith.hardware.device import choose_device

    named = recommended_preset(minutes)
    if named not in (None, config.preset) and choose_device(config.training.device).type == "cpu":
        display.say(
            f"No --preset was named: it is {config.preset}. Of BERT's presets with WordPiece "
            f"{named} has the lowest MLM loss after {minutes:g} minutes of a core: "
            f"--preset {named} (docs/how-to.md)."
        )
