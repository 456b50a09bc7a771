"""What must hold before a run begins: settings that are whole and alike, a folder to write in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bertsmith.config import BUDGETS, PretrainConfig, differences, reproducibility_settings
from bertsmith.errors import RunError
from bertsmith.hardware.device import settled_precision
from bertsmith.preparation import with_absolute_paths
from bertsmith.ranks import Ranks, may_be_restarted
from bertsmith.saved.hub import is_hub_name, pinned
from bertsmith.training.run_folder import RunFolder


def refuse_unclear(*, resume: bool, overwrite: bool, output: Path | None) -> None:
    """Raise `RunError` if it is not clear which run is meant, or what becomes of it."""
    if resume and overwrite:
        raise RunError("A run is resumed or replaced; give --resume or --overwrite, not both.")
    if resume and output is None:
        raise RunError("--resume needs the folder of the run to go on with; give --output.")
    if may_be_restarted() and output is None:
        raise RunError("A launcher that restarts must find the run again; give --output.")


def refuse_different(config: PretrainConfig, kind: torch.device, ranks: Ranks) -> None:
    """Raise `RunError` if another rank was started with other settings than the first one."""
    own = {name: str(value) for name, value in reproducibility_settings(config).items()}
    own |= {name: str(value) for name, value in asdict(config.training).items()}
    own["device"] = kind.type
    of_first = ranks.from_first(own)
    with ranks.raising_on_all():
        if changes := differences(of_first, own, ("on rank 0", "here")):
            raise RunError(
                f"All ranks must have the same settings; got {', '.join(changes)}. Start all of "
                "them with the same command."
            )


def claimed(
    path: Path, config: PretrainConfig, ranks: Ranks, *, overwrite: bool, resume: bool
) -> RunFolder | None:
    """The claim on the folder of a run, which the first rank has.

    Raises:
        RunError: it may not be used.
    """
    with ranks.raising_on_all():
        _refuse_own_beginning(config, path)
        return RunFolder(path, overwrite=overwrite, resume=resume) if ranks.is_first else None


def _refuse_own_beginning(config: PretrainConfig, output: Path) -> None:
    """Raise `RunError` if the model to begin from lies where the run is written."""
    begins_from = config.training.init_from
    if begins_from is not None and Path(begins_from).is_relative_to(output.resolve()):
        raise RunError(
            f"The output {output} must be another folder than the model that is gone on from, "
            f"{begins_from}; name another with --output."
        )


def settled(config: PretrainConfig, device: torch.device, ranks: Ranks) -> PretrainConfig:
    """`config` with what was left open filled in, as it is written down to be repeated.

    Paths are made absolute, and a model's name on the hub gets its commit; a config built by hand
    without a budget gets one epoch; the precision is set, because sums round by it (as by the
    micro-batch, which is set when the model is there).
    """
    training = config.training
    if all(getattr(training, name) is None for name in BUDGETS):
        training = replace(training, epochs=1.0)
    # A resumed run computes as before, whatever its device.
    training = replace(training, precision=settled_precision(device, training.precision, ranks))
    if training.init_from is not None:
        named = training.init_from
        init_from = pinned(named) if is_hub_name(named) else str(Path(named).resolve())
        training = replace(training, init_from=init_from)
    preparation = with_absolute_paths(config.preparation)
    return replace(config, preparation=preparation, training=training)


@contextmanager
def written_to(
    run: Path,
    kept: str = "Checkpoints that are there are whole; --resume goes on from the last one.",
) -> Iterator[None]:
    """What the system refuses to write inside is turned into an error that names the folder.

    Args:
        run: the folder.
        kept: what is there still, as a sentence.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"Cannot write to {run}: {error.strerror or error}. {kept}") from error
