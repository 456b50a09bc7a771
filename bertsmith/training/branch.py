"""A second run from a checkpoint of a first one: the same up to there, and then with another end.

A long run with `--lr-scheduler-type warmup_stable_decay` can so be ended at many budgets: each
branch goes on from a checkpoint of its stable part, and its learning rate falls to 0 at an end of
its own (Hu et al. 2024, MiniCPM, section 4; Hägele et al. 2024).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bertsmith.config import RUN_CONFIG_FILE
from bertsmith.durable import damage
from bertsmith.errors import RunError
from bertsmith.reporting.metrics_file import METRICS_FILE
from bertsmith.saved.locate import (
    checkpoint_folder,
    find_run_config,
    is_checkpoint_name,
    list_checkpoints,
    step_of,
)
from bertsmith.training.run_folder import CORPUS_FILE


def branch(path: Path, output: Path) -> int:
    """Make a run in `output` whose newest checkpoint is one of another run, which stays as it is.

    `--resume` goes on with it, with a budget and a decay of its own.

    Args:
        path: a checkpoint of a run, or a run: its newest one.
        output: a folder that is not there yet, or is empty.

    Returns:
        The steps that the checkpoint has behind it.

    Raises:
        RunError: `path` is no checkpoint of a run, or is damaged; `output` cannot be made.
    """
    config = find_run_config(path)
    if config is None:
        raise RunError(f"{path} must be a run or a checkpoint of one; it is neither.")
    run = config.parent
    checkpoints = list_checkpoints(run)
    is_one = is_checkpoint_name(path.name) and path.resolve() in [c.resolve() for c in checkpoints]
    if not checkpoints or (not is_one and path.resolve() != run.resolve()):
        raise RunError(f"{path} must be a run with a checkpoint, or a checkpoint; it is neither.")
    checkpoint = path if is_one else checkpoints[-1]
    try:
        if wrong := damage(checkpoint):
            raise RunError(f"The checkpoint {checkpoint} is damaged: {wrong}. Name another.")
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunError(f"The output {output} must be a new or empty folder; it is neither.")
        output.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own beside the output, so that half of it never bears the output's name.
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
            made = Path(work) / "run"
            target = checkpoint_folder(made, step_of(checkpoint))
            shutil.copytree(checkpoint, target)
            for name in (RUN_CONFIG_FILE, CORPUS_FILE, METRICS_FILE):
                shutil.copy2(run / name, made / name)  # of the metrics what is newer is cut off
            if wrong := damage(target):
                raise RunError(f"The copy of {checkpoint} is damaged: {wrong}. Try again.")
            made.replace(output)
    except OSError as error:
        raise RunError(f"Cannot copy {checkpoint} to {output}: {error.strerror}.") from error
    return step_of(checkpoint)
