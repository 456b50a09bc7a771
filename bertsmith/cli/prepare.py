"""`bertsmith prepare`: a text into a token store, once for many runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bertsmith.cli.arguments import Flag
from bertsmith.config import PreparationConfig
from bertsmith.display import Display, show, show_json
from bertsmith.errors import ConfigError, printable
from bertsmith.training.settings import Layers


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a text into a token store that any number of runs train on."""

    output: Path
    """The store's folder; `bertsmith pretrain --corpus` takes it."""
    preset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "textbook"
    """Whose kind of vocabulary: textbook has words, the others WordPieces."""
    config: Path | None = None
    """A TOML file of settings; flags go over it."""
    processes: int | None = None
    """Processes of this machine; without it, one a processor. The store is the same."""
    engine: Literal["local", "ray"] = "local"
    """Where the work is done: by processes of this machine, or on a Ray cluster."""
    overwrite: Flag = False
    """Replace the store that is in the output folder."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print the report as one JSON object."""
    preparation: tyro.conf.OmitArgPrefixes[PreparationConfig] = field(
        default_factory=PreparationConfig
    )


def run(command: Prepare, layers: Layers, asked: Mapping[str, Any]) -> None:
    """Prepare, and print what is in the store and what was left out."""
    from bertsmith.preparation import describe_text, describe_vocabulary, prepare_store

    if command.processes is not None and command.processes < 1:
        raise ConfigError(f"`processes` must be over 0; got {command.processes}.")
    store = prepare_store(
        layers.resolve(asked).preparation,
        command.output,
        overwrite=command.overwrite,
        engine=command.engine,
        processes=command.processes,
        display=Display(quiet=command.quiet),
    )
    report = store.manifest.report
    if command.json:
        show_json({**report, "output": str(command.output)})
        return
    show("\n".join([*describe_vocabulary(report), *describe_text(report)]))
    size = sum(shard.bytes for split in store.manifest.splits.values() for shard in split.shards)
    show(f"store: {printable(str(command.output))} ({size / 1e6:,.1f} MB)")
