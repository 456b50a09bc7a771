"""`bertsmith pretrain`: flags over a preset, a recipe and a config file, into one call."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bertsmith.cli.arguments import Flag
from bertsmith.cli.settings import Settings, defaults_from, refuse_idle_flags, with_budget
from bertsmith.config import (
    BUDGETS,
    Given,
    PretrainConfig,
    begins_from,
    given_by_store,
    refuse_contradiction,
    resolve,
    settings_by_name,
    settings_of_run,
)
from bertsmith.display import show, show_json
from bertsmith.errors import RunError, printable
from bertsmith.ranks import rank


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


def parse_base(arguments: Sequence[str]) -> PretrainConfig:
    """What the flags are laid over: the preset, recipe and file that `arguments` name.

    Found before the other flags are read, so that `--help` shows the defaults as they will be.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "recipe", "config", "output", "init-from"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--corpus", nargs="+", default=[])
    try:
        named, _ = parser.parse_known_args([_with_hyphens(argument) for argument in arguments])
    except argparse.ArgumentError:  # a flag without its value: the full parser says so better
        return resolve()
    file, resumes = named.config, False
    if file is None and named.resume and named.output is not None:
        file = settings_of_run(Path(named.output))
        resumes = file is not None  # all is settled in it, whatever became of what it began from
        if file is None and not {"--corpus", "-h", "--help"} & {
            argument.partition("=")[0] for argument in arguments
        }:
            raise RunError(
                f"There is no run in {named.output} to go on with; to begin one there, say with "
                "what: give --corpus."
            )
    init_from = named.init_from
    if init_from is None and file is not None:
        init_from = begins_from(Path(file))
    return resolve(
        preset=named.preset,
        recipe=named.recipe,
        file=file,
        given=[*given_by_store(named.corpus), *([] if resumes else _given_by_model(init_from))],
    )


def _with_hyphens(argument: str) -> str:
    """A flag as it is listed: `--init_from=a_b` is `--init-from=a_b`."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _given_by_model(init_from: str | None) -> list[Given]:
    if init_from is None:
        return []
    # What reads a model takes seconds to load, and few runs begin from one.
    from bertsmith.training.initial import given_by_model

    return given_by_model(init_from)


def defaults(base: PretrainConfig, *, for_help: bool = False) -> Pretrain:
    """Defaults of the flags."""
    return Pretrain(**defaults_from(base, for_help=for_help))


def settings(command: Pretrain, base: PretrainConfig) -> PretrainConfig:
    """The flags' settings, with the base's budget if they have none.

    Raises:
        ConfigError: they contradict those with which the text was prepared, or change nothing.
    """
    refuse_idle_flags(settings_by_name(base), settings_by_name(command.to_config()))
    given = given_by_store(command.preparation.corpus)
    if not (command.resume and command.output and settings_of_run(command.output)):
        given += _given_by_model(command.training.init_from)
    asked = {**asdict(command.preparation), **asdict(command.model)}
    refuse_contradiction(given, asked)
    if all(getattr(command.training, name) is None for name in BUDGETS):
        training = with_budget(command.training, vars(base.training))
        command = replace(command, training=training)
    return command.to_config()


def run(command: Pretrain, base: PretrainConfig) -> None:
    """Pretrain, and print the closing lines."""
    from bertsmith.training.pretrain import run_pretraining

    finished = run_pretraining(
        settings(command, base),
        output=command.output,
        overwrite=command.overwrite,
        resume=command.resume,
        quiet=command.quiet,
        profile=command.profile,
    )
    if rank():
        return  # the first one says it for all
    show("\n".join(finished.closing_lines()))
    # Not in the figures of a run that an older version finished.
    longest = finished.metrics.get("max_length")
    reads = "" if longest is None else f" (reads {longest} tokens of a text; --max-length)"
    output = printable(str(finished.output))
    show(f"model:   {output}/model{reads}")
    if (finished.output / "curves.png").exists():
        show(f"curves:  {output}/curves.png")
    show(f"metrics: {output}/metrics.jsonl")
    if command.json:
        show_json(finished.metrics)
